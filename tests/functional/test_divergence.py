import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import divergence

seeds = st.integers(0, 2**31)


def predictions(seed, count, classes=4):
    return torch.softmax(2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)).double(), -1)


def neighbors(seed, count, of, k):
    coins = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(of, generator=coins)[:k] for _ in range(count)])


@given(seeds, st.integers(1, 6))
def test_it_is_the_mean_over_neighbors_of_what_a_loop_finds(seed, k):
    probs, known, near = predictions(seed, 7), predictions(seed + 1, 6), neighbors(seed, 7, 6, k)
    expected = [
        sum(sum(p * math.log(p / q) for p, q in zip(known[each].tolist(), row.tolist(), strict=True)) for each in of) / k
        for row, of in zip(probs, near.tolist(), strict=True)
    ]
    found = divergence.mean_divergence(probs, known, near)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert (found >= 0).all()
    shuffled = near[:, torch.randperm(k, generator=torch.Generator().manual_seed(seed))]
    assert torch.allclose(divergence.mean_divergence(probs, known, shuffled), found)


def test_it_goes_from_the_neighbor_to_the_candidate():
    """An unsure row beside sure neighbors differs less than a sure row beside unsure ones; the other direction has it the
    other way round."""
    sure, unsure, near = torch.tensor([[0.99, 0.01]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[0]])
    assert divergence.mean_divergence(unsure, sure, near) < divergence.mean_divergence(sure, unsure, near)


@given(seeds)
def test_equal_predictions_differ_by_exactly_nothing(seed):
    probs = predictions(seed, 1).float().expand(5, -1)
    assert divergence.mean_divergence(probs, probs, neighbors(seed, 5, 5, 3)).tolist() == [0.0] * 5


@given(seeds)
def test_of_neighbors_that_are_certain_it_is_the_cross_entropy(seed):
    probs, labels = predictions(seed, 6), torch.randint(4, (6,), generator=torch.Generator().manual_seed(seed))
    found = divergence.mean_divergence(probs, torch.nn.functional.one_hot(labels, 4).double(), torch.arange(6).unsqueeze(1))
    assert torch.allclose(found, torch.nn.functional.nll_loss(probs.log(), labels, reduction="none"))


def test_what_is_all_but_excluded_stays_finite_and_in_order():
    probs = torch.tensor([[1.0, 0.0], [1.0, 1e-30], [0.9, 0.1]])
    found = divergence.mean_divergence(probs, torch.tensor([[0.0, 1.0]]), torch.zeros(3, 1, dtype=torch.long))
    assert found.isfinite().all()
    assert found.diff().lt(0).all()
