from collections import Counter
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import dynamics

seeds = st.integers(0, 2**31)


def predictions(seed, samples=8, times=9, classes=4):
    return torch.randint(classes, (samples, times), generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(1, 12), st.integers(1, 5))
def test_dispersion_is_what_counting_finds_whatever_the_order(seed, times, classes):
    history = predictions(seed, times=times, classes=classes)
    expected = [1 - Counter(row).most_common(1)[0][1] / times for row in history.tolist()]
    found = dynamics.label_dispersion(history)
    assert torch.allclose(found, torch.tensor(expected))
    assert torch.equal(found, dynamics.label_dispersion(history[:, torch.randperm(times)]))
    assert found.max() <= 1 - -(-times // classes) / times + 1e-6
    assert found.min() >= 0


@given(seeds)
def test_flips_are_counted_between_times(seed):
    history = predictions(seed)
    expected = [sum(a != b for a, b in pairwise(row)) / 8 for row in history.tolist()]
    assert torch.allclose(dynamics.prediction_flips(history), torch.tensor(expected))


def test_what_does_not_change_has_neither_and_what_was_not_read_less_than_that():
    history = torch.tensor([[2, 2, 2], [-1, -1, -1]], dtype=torch.int16)
    for score in (dynamics.label_dispersion, dynamics.prediction_flips):
        for some in (history, history[:, :1]):
            never, unseen = score(some).tolist()
            assert never == 0
            assert -1e-6 < unseen < 0, "last, and no weight of a draw"


@given(seeds, st.integers(1, 10))
def test_forgetting_is_what_a_walk_through_the_times_finds(seed, times):
    correct = predictions(seed, times=times, classes=2).bool()
    for row, found in zip(correct.tolist(), dynamics.forgetting_events(correct).tolist(), strict=True):
        lost = sum(a and not b for a, b in pairwise(row))
        learned = sum(b and not a for a, b in pairwise([False, *row]))
        assert found == (lost if any(row) else times)
        if any(row):
            assert learned - lost in (0, 1)
            assert lost <= times // 2


def test_the_order_of_times_matters_to_what_is_forgotten():
    rows = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    assert dynamics.forgetting_events(rows).tolist() == [2, 1, 0, 5]


@given(seeds, st.integers(1, 40))
def test_presentations_come_to_the_same_however_they_are_cut(seed, size):
    """Whole passes in a row, in orders of their own, as an epoch serves them; some samples twice in a batch."""
    coins = torch.Generator().manual_seed(seed)
    samples = torch.randint(6, (60,), generator=coins)
    correct = torch.rand(60, generator=coins) < 0.6
    seen = dynamics.Presentations(7)
    for some, right in zip(samples.split(size), correct.split(size), strict=True):
        seen.show(some, right)
        again = dynamics.Presentations(7)
        again.restore(seen.state())
        seen = again
    for sample in range(6):
        alone = correct[samples == sample].unsqueeze(0)
        assert seen.shown[sample] == alone.shape[1]
        if alone.shape[1]:
            assert seen.forgetting_events()[sample] == dynamics.forgetting_events(alone)[0]
            assert seen.learned[sample] == alone.any()
    assert seen.forgetting_events()[6] == 0
