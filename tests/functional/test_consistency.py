"""Losses of unlabeled images, against loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import consistency


@given(st.integers(1, 12), st.floats(0, 1))
def test_what_is_sure_and_its_loss(size, threshold):
    coins = torch.Generator().manual_seed(size)
    weak, strong = 4 * torch.randn(2, size, 5, generator=coins)
    probs = torch.softmax(weak, -1)
    classes, counts = consistency.sure(probs, threshold)
    total = 0.0
    for row in range(size):
        best = max(range(5), key=lambda one: float(probs[row, one]))
        assert classes[row] == best
        assert bool(counts[row]) == (float(probs[row, best]) >= torch.tensor(threshold))
        if counts[row]:
            total += math.log(sum(math.exp(float(each)) for each in strong[row])) - float(strong[row, best])
    assert float(consistency.pseudo_label_loss(strong, classes, counts)) == pytest.approx(total / size, rel=1e-4, abs=1e-6)


def test_each_class_has_a_threshold_of_its_own():
    probs = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    assert consistency.sure(probs, torch.tensor([0.7, 0.5]))[1].tolist() == [False, True]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.integers(0, 500), st.floats(0.01, 1))
def test_thresholds_follow_what_has_been_learned(counts, unused, threshold):
    found = consistency.curriculum(torch.tensor(counts), unused, threshold).tolist()
    largest = max(*counts, unused, 1)
    assert found == pytest.approx([threshold * (n / largest) / (2 - n / largest) for n in counts])
    assert all(0 <= each <= threshold * 1.000001 for each in found)
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    assert [found[i] for i in order] == sorted(found)
    if max(counts) >= unused and max(counts):
        assert max(found) == pytest.approx(threshold)


def test_an_average_reaches_over_the_last_tenth_of_the_steps():
    for steps in (100, 1000):
        average = 0.0
        for step in range(steps):  # of the number of the step itself
            keep = consistency.decay_of_average(step, 0.9999)
            average = keep * average + (1 - keep) * step
        assert average == pytest.approx(10 / 11 * steps, rel=0.03)
    assert consistency.decay_of_average(0, 0.999) == 0
    assert consistency.decay_of_average(10_000, 0.999) == 0.999


def test_a_weight_grows_to_its_whole():
    ramp = [consistency.rampup(step, 40) for step in range(60)]
    assert ramp == sorted(ramp)
    assert ramp[0] == pytest.approx(math.exp(-5))
    assert ramp[40:] == [1.0] * 20
    assert consistency.rampup(0, 0) == 1.0
