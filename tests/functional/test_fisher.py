from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepal.functional import fisher

seeds = st.integers(0, 2**31)


def made_up(seed, n, width=3, classes=3):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return embedding, torch.softmax(2 * torch.randn(n, classes, generator=generator, dtype=torch.float64), -1)


def of(embedding, probs):
    """The information in each row, (n, CD, CD), by its definition."""
    outer = torch.diag_embed(probs) - probs.unsqueeze(2) * probs.unsqueeze(1)
    return torch.stack([torch.kron(one, torch.outer(h, h)) for one, h in zip(outer, embedding, strict=True)])


@given(seeds)
def test_information_is_the_mean_square_of_gradients(seed):
    """Of the negative log likelihood, over labels drawn by the model: sum_y p_y (p - e_y)(p - e_y)^T (x) h h^T."""
    embedding, probs = made_up(seed, 7)
    expected = torch.zeros(9, 9, dtype=torch.float64)
    for h, p in zip(embedding, probs, strict=True):
        for label in range(3):
            gradient = torch.outer(p - torch.eye(3, dtype=torch.float64)[label], h).flatten()
            expected += p[label] * torch.outer(gradient, gradient)
    assert torch.allclose(fisher.information(embedding, probs), expected)
    assert torch.allclose(of(embedding, probs).sum(0), expected)


def test_of_two_classes_it_is_that_of_logistic_regression():
    embedding, probs = made_up(0, 5, classes=2)
    found = fisher.information(embedding, probs).view(2, 3, 2, 3)
    expected = (probs.prod(1).view(-1, 1, 1) * embedding.unsqueeze(2) * embedding.unsqueeze(1)).sum(0)
    assert torch.allclose(found[0, :, 0], expected)
    assert torch.allclose(found[0, :, 1], -expected)


@given(seeds, st.floats(0.01, 3), st.floats(0.1, 1))
@settings(max_examples=20)
def test_each_change_is_what_an_inverse_of_its_own_says(seed, regularization, weight):
    embedding, probs = made_up(seed, 8)
    rows = of(embedding, probs)
    wanted, known = rows.mean(0), regularization * torch.eye(9, dtype=torch.float64)
    state = fisher.Information(embedding, probs, torch.linalg.inv(known), wanted, weight)
    every = torch.arange(8)

    def objective(matrix):
        return float(torch.trace(torch.linalg.inv(matrix) @ wanted))

    assert state.objective == pytest.approx(objective(known))
    for row in (3, 5, 0):
        changes = [objective(known + weight * one) - objective(known) for one in rows]
        assert state.changes(every).tolist() == pytest.approx(changes, rel=1e-6, abs=1e-9)
        known = known + weight * rows[row]
        state.add(torch.tensor([row]))
        assert state.objective == pytest.approx(objective(known), rel=1e-8)
    for row in (5, 3):
        changes = [objective(known - weight * rows[each]) - objective(known) for each in (3, 5, 0)]
        found = state.changes(torch.tensor([3, 5, 0]), sign=-1)
        if row == 5:
            assert found.tolist() == pytest.approx(changes, rel=1e-6, abs=1e-9)
        known = known - weight * rows[row]
        state.add(torch.tensor([row]), sign=-1)
        assert state.objective == pytest.approx(objective(known), rel=1e-7)


@given(seeds, st.integers(0, 4))
@settings(max_examples=20)
def test_one_row_is_the_best_by_brute_force(seed, labels):
    embedding, probs = made_up(seed, 10)
    known_embedding, known_probs = made_up(seed + 1, labels)
    everything = torch.cat([of(embedding, probs), of(known_embedding, known_probs)]) if labels else of(embedding, probs)
    wanted, known = everything.mean(0), torch.eye(9, dtype=torch.float64)
    if labels:
        known = known + of(known_embedding, known_probs).sum(0) / (labels + 1)
    objectives = [
        float(torch.trace(torch.linalg.inv(known + each / (labels + 1)) @ wanted)) for each in of(embedding, probs)
    ]
    rows, _ = fisher.bait(embedding, probs, known_embedding, known_probs, 1, oversample=1)
    assert objectives[int(rows[0])] == pytest.approx(min(objectives), rel=1e-9)


@given(seeds)
@settings(max_examples=20)
def test_the_objective_falls_while_rows_join_and_rises_while_they_leave(seed):
    embedding, probs = made_up(seed, 20)
    rows, objectives = fisher.bait(embedding, probs, *made_up(seed + 1, 3), 5)
    assert len(rows.unique()) == 5
    assert all(after <= before + 1e-9 for before, after in pairwise(objectives[:11]))
    assert all(after >= before - 1e-9 for before, after in pairwise(objectives[10:]))


@pytest.mark.parametrize(("scale", "regularization"), [(1.0, 1.0), (12.0, 1.0), (2.0, 0.01)])
def test_the_objective_is_what_it_is_whatever_the_norm_of_features(scale, regularization):
    """Differences of what single precision holds were negative by eleven digits."""
    source = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(120, 24, generator=source).relu()
    probs = torch.softmax(3 * torch.randn(120, 6, generator=source), 1)
    rows, objectives = fisher.bait(hidden, probs, hidden[:10], probs[:10], 6, regularization)
    share = 6 / 16
    known = regularization * torch.eye(144, dtype=torch.float64) + fisher.information(hidden[:10], probs[:10]).double() / 16
    known += share * fisher.information(hidden[rows].double(), probs[rows])
    both = fisher.information(torch.cat([hidden, hidden[:10]]).double(), torch.cat([probs, probs[:10]])) / 130
    assert objectives[-1] == pytest.approx(float(torch.trace(torch.linalg.solve(known, both))), rel=1e-3)
    down, up = objectives[:13], objectives[12:]
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)


def test_single_precision_chooses_the_same():
    embedding, probs = made_up(0, 200, 8, 4)
    none = made_up(1, 0, 8, 4)
    expected, _ = fisher.bait(embedding, probs, *none, 20)
    rows, _ = fisher.bait(embedding.float(), probs.float(), none[0].float(), none[1].float(), 20)
    assert rows.tolist() == expected.tolist()


def test_no_rows_and_more_than_there_are():
    none = made_up(1, 0)
    assert fisher.bait(*made_up(0, 3), *none, 9)[0].sort().values.tolist() == [0, 1, 2]
    assert fisher.bait(*made_up(0, 0), *none, 2)[0].tolist() == []


def test_beside_rows_that_are_very_long_the_objective_is_still_what_it_says():
    generator = torch.Generator().manual_seed(1)
    embedding = 1000 * torch.randn(80, 6, generator=generator, dtype=torch.float64)
    probs = (3 * torch.randn(80, 4, generator=generator, dtype=torch.float64)).softmax(1)
    rows, objectives = fisher.bait(embedding, probs, embedding[:0], probs[:0], 8, regularization=1e-2)
    least = 1e-6 * float(embedding.square().sum(1).max())
    known = least * torch.eye(24, dtype=torch.float64) + fisher.information(embedding[rows], probs[rows])
    truth = float(torch.trace(torch.linalg.inv(known) @ fisher.information(embedding, probs))) / 80
    assert objectives[-1] == pytest.approx(truth, rel=1e-3)
    assert all(after >= before for before, after in pairwise(objectives[16:]))  # to leave one out helps nobody


def test_what_is_not_finite_is_refused():
    embedding, probs = made_up(0, 9)
    embedding[3, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        fisher.bait(embedding, probs, embedding[:0], probs[:0], 2)


def test_directions_of_whole_numbers_are_not_whole_numbers():
    points = torch.randint(0, 255, (50, 4), generator=torch.Generator().manual_seed(0))
    expected = fisher.principal_directions(points.double(), 2)
    assert torch.equal(fisher.principal_directions(points.to(torch.uint8), 2), expected)
