"""Statistics against SciPy, brute force, a matrix computed by hand, and simulations in which the truth is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from deepal import statistics

values = st.floats(-1, 1, allow_nan=False, width=32)
p_values = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8)


@given(arrays(float, (3, 6), elements=values), st.lists(st.integers(1, 50), min_size=6, max_size=6))
def test_the_area_is_scipys(curves, steps):
    labels = np.cumsum(steps)
    expected = integrate.trapezoid(curves, labels, axis=1) / (labels[-1] - labels[0])
    assert np.allclose(statistics.aulc(labels, curves), expected)


def test_a_flat_curve_has_its_height_for_an_area():
    assert statistics.aulc([20, 30, 70], [0.4, 0.4, 0.4]) == pytest.approx(0.4)
    assert statistics.aulc([40], [[0.4], [0.6]]).tolist() == [0.4, 0.6]


@pytest.mark.parametrize("labels", [[], [20, 20], [30, 20]])
def test_an_area_over_no_range_is_refused(labels):
    with pytest.raises(ValueError, match="ascending"):
        statistics.aulc(labels, [0.5] * len(labels))


@given(arrays(float, (4, 6), elements=values), values)
def test_labels_to_a_target_by_brute_force(curves, target):
    labels = [10, 20, 30, 40, 50, 60]
    expected = [
        next((at for at, value in zip(labels, curve, strict=True) if value >= target), float("inf")) for curve in curves
    ]
    assert statistics.labels_to(labels, curves, target).tolist() == expected


def test_seeds_that_never_come_there_are_not_left_out():
    never = float("inf")
    assert statistics.reached([70, never, 90, never, never]) == statistics.Reached(never, 2, 5)
    assert statistics.reached([70, 80, 90, never]) == statistics.Reached(85, 3, 4)
    assert statistics.reached([70, 80, never, never]).median == never  # the middle lies between 80 and never
    assert statistics.reached([70, 80, 90]).median == 80


@given(arrays(float, 5, elements=values), arrays(float, 5, elements=values))
def test_paired_tests_are_scipys(first, second):
    found = statistics.difference(first, second)
    gains = first - second
    if np.ptp(gains) > 1e-6:
        assert found.t_test == pytest.approx(stats.ttest_rel(first, second).pvalue, nan_ok=True)
        low, high = stats.t.interval(0.95, 4, gains.mean(), stats.sem(gains))
        assert (found.gain.low, found.gain.high) == pytest.approx((low, high))
    if gains.any():
        assert found.wilcoxon == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert found.wins == sum(a > b for a, b in zip(first, second, strict=True))
    assert found.ties == sum(a == b for a, b in zip(first, second, strict=True))


def test_differences_without_noise():
    assert statistics.difference([1.0] * 5, [1.0] * 5).t_test == 1
    assert statistics.difference([1.0] * 5, [1.0] * 5).wilcoxon == 1
    assert statistics.difference([0.75] * 5, [0.5] * 5).t_test == 0
    assert statistics.t_test(np.array([0.3, 0.1 + 0.2, 0.3, 0.3])) == 0  # equal, but for rounding


def test_a_comparison_of_other_seeds_is_refused():
    with pytest.raises(ValueError, match="the same seeds"):
        statistics.difference([1, 2, 3], [1, 2])


def test_little_is_said_of_few_seeds():
    assert np.isnan(statistics.estimate([0.5, 0.6]).low)
    assert not np.isnan(statistics.estimate([0.5, 0.6, 0.7]).low)
    assert np.isnan(statistics.estimate([0.5]).deviation)
    three, four = (statistics.difference(np.arange(n), np.zeros(n)) for n in (3, 4))
    assert np.isnan(three.t_test)
    assert np.isnan(three.wilcoxon)
    assert not np.isnan(four.t_test)
    assert not np.isnan(four.wilcoxon)


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_cover_the_truth(seeds):
    """Of areas as digits give them, in 4,000 studies; the standard error of the share is 0.3 points."""
    coin = np.random.default_rng(seeds)
    found = [statistics.estimate(coin.normal(0.92, 0.014, seeds)) for _ in range(4000)]
    share = np.mean([each.low <= 0.92 <= each.high for each in found])
    assert 0.93 <= share <= 0.97


@pytest.mark.parametrize("seeds", [5, 10])
def test_a_band_covers_the_truth_at_each_point(seeds):
    coin = np.random.default_rng(seeds)
    bands = [statistics.band(coin.normal([0.7, 0.8], [0.05, 0.01], (seeds, 2))) for _ in range(2000)]
    share = np.mean([(low <= [0.7, 0.8]) & (high >= [0.7, 0.8]) for _, low, high in bands], 0)
    assert (share >= 0.93).all()
    assert (share <= 0.97).all()


def test_a_percentile_bootstrap_would_not_cover_it():
    """Why there is none: at five seeds it is right in 85 of 100 cases, and says 95."""
    coin = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        sample = coin.normal(0, 1, 5)
        means = sample[coin.integers(0, 5, (500, 5))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        hits += low <= 0 <= high
    assert hits / 500 < 0.9


@given(p_values)
def test_holm_by_its_definition(given_p):
    """The smallest is multiplied by m, the next by m - 1, ...; none is smaller than the one before, or above 1."""
    adjusted = statistics.holm(given_p)
    order = sorted(range(len(given_p)), key=lambda i: given_p[i])
    for rank, i in enumerate(order):
        expected = max(given_p[order[k]] * (len(given_p) - k) for k in range(rank + 1))
        assert adjusted[i] == pytest.approx(min(1, expected))


def test_holm_leaves_out_what_was_not_tested():
    adjusted = statistics.holm([0.02, np.nan, 0.03])
    assert adjusted[[0, 2]].tolist() == [0.04, 0.04]
    assert np.isnan(adjusted[1])


@given(arrays(float, (3, 7), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_win_rates_by_brute_force(table):
    rates = statistics.win_rates(table)
    for i, j in itertools.product(range(3), repeat=2):
        points = [1 if a > b else 0.5 if a == b else 0 for a, b in zip(table[i], table[j], strict=True)]
        assert rates[i, j] == pytest.approx(np.mean(points))
    assert np.allclose(rates + rates.T, 1)


NOISE = np.array([[0.00], [0.01], [-0.01], [0.02], [-0.02]])


def by_hand():
    """Five seeds, checkpoints after 1 and 2 queries (after 4, Random is at its end).

    A is better than Random at both: its gains are 0.05 plus noise far smaller. B is better than Random at the second
    alone; A is better than B at the first alone. So A has 1 against Random and 1/2 against B, and B 1/2 against Random.
    """
    small = NOISE[::-1] / 10
    random = np.array([0.5, 0.6, 0.7, 0.8, 0.9]) + NOISE
    better = random + small + [0.0, 0.05, 0.05, 0.0, 0.0]
    later = random - small / 2 + [0.0, 0.0, 0.05, 0.0, 0.0]
    return {"Random": random, "A": better, "B": later}


def test_the_penalty_matrix_computed_by_hand():
    found = statistics.penalties([by_hand()], "Random")
    assert found.strategies == ("Random", "A", "B")
    assert found.matrix.tolist() == [[0, 0, 0], [1, 0, 0.5], [0.5, 0, 0]]
    assert found.losses.tolist() == pytest.approx([0.5, 0, 0.5 / 3])
    assert (found.chance, found.chance_of_an_entry) == pytest.approx((0.15, 0.025))  # three pairs at 0.05
    twice = statistics.penalties([by_hand()] * 2, "Random")
    assert twice.matrix.tolist() == (2 * found.matrix).tolist()
    assert twice.chance_of_an_entry == pytest.approx(0.05)


def test_seeds_that_a_strategy_lacks_are_left_out_of_its_pairs_alone():
    curves = by_hand()
    whole = statistics.penalties([curves], "Random")
    six = {name: np.vstack([each, each[:1] + 0.003]) for name, each in curves.items()}
    six["B"][5] = np.nan
    found = statistics.penalties([six], "Random")
    assert found.matrix[1, 2] == whole.matrix[1, 2]
    few = {**curves, "B": np.where(np.arange(5)[:, None] < 3, curves["B"], np.nan)}  # three seeds: no test
    assert statistics.penalties([few], "Random").matrix.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert statistics.penalties([few], "Random").chance == pytest.approx(0.05)
    lacking = [[1.0, 2.0, np.nan], [0.0, 3.0, 5.0], [np.nan, np.nan, 4.0]]
    rates = statistics.win_rates(lacking)
    assert rates[0, 1] == 0.5
    assert rates[2, 1] == 0
    assert np.isnan(rates[0, 2])


def test_what_is_compared_until_the_baseline_has_come_to_its_end():
    assert statistics.checkpoints([0.5, 0.6, 0.7, 0.8, 0.9]) == [1, 2]
    assert statistics.checkpoints([0.5, *[0.9] * 9]) == [1]
    assert statistics.checkpoints(np.linspace(0, 1, 10)) == [1, 2, 4, 8]
    assert statistics.checkpoints(-np.array([1, *[0.3] * 9])) == [1]  # a loss, turned round
    assert statistics.checkpoints(-np.linspace(1, 0.1, 10)) == [1, 2, 4, 8]


def test_settings_of_other_strategies_have_no_matrix_together():
    curves = by_hand()
    with pytest.raises(ValueError, match="the same strategies"):
        statistics.penalties([curves, {"Random": curves["Random"]}], "Random")
    with pytest.raises(ValueError, match="KMeans among them"):
        statistics.penalties([curves], "KMeans")


def test_strategies_that_do_not_differ_win_as_often_as_is_said():
    """The A/A control of the matrix itself: 400 studies of three equal strategies, six entries each."""
    coin = np.random.default_rng(0)
    rising = np.linspace(0.5, 0.9, 5)
    studies = [
        statistics.penalties([{name: rising + coin.normal(0, 0.01, (6, 5)) for name in "ABC"}], "A") for _ in range(400)
    ]
    assert np.mean([each.matrix.sum() for each in studies]) == pytest.approx(studies[0].chance, rel=0.25)


def test_curves_on_another_grid():
    assert statistics.on_grid([10, 20], [0.0, 1.0], [10, 15, 20]).tolist() == [0, 0.5, 1]
    assert np.isnan(statistics.on_grid([10, 20], [0.0, 1.0], [5, 25])).all()
