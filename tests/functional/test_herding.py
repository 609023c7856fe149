import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import herding, neighbors

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def cloud(seed, n, d=3):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


class TopHat(herding.Kernel):
    """1 within a radius, 0 beyond."""

    def __init__(self, points, radius):
        super().__init__(points)
        self.radius = radius

    def between(self, points, anchors):
        return (torch.cdist(points, anchors, compute_mode="donot_use_mm_for_euclid_dist") < self.radius).double()


def plain(similarity, query_size, weights, cover):
    """Greedy by its definition: all gains of all rows for each choice."""
    chosen, added, cover = [], [], cover.clone()
    for _ in range(query_size):
        gains = (similarity - cover).clamp_min(0) @ weights
        gains[chosen] = -1
        chosen.append(int((gains == gains.max()).nonzero()[0]))
        added.append(float(gains.max()))
        cover = cover.maximum(similarity[chosen[-1]])
    return chosen, added


@given(seeds, st.integers(1, 40), st.integers(0, 3), st.booleans(), st.sampled_from([0.3, 1.0, 5.0]))
def test_the_lazy_choices_are_those_of_the_definition(seed, n, labeled, weighted, width):
    points, known = cloud(seed, n), cloud(seed + 1, labeled)
    weights = torch.rand(n, generator=generator(seed), dtype=torch.float64) if weighted else torch.ones(n).double()
    kernel = herding.Gaussian(points, width=width)
    similarity = (-torch.cdist(points, points).square() / width**2).exp()
    cover = (-torch.cdist(known, points).square() / width**2).exp().amax(0) if labeled else torch.zeros(n).double()
    assert torch.allclose(kernel.cover(known), cover, atol=1e-9)
    chosen, added = herding.herd(kernel, n, weights, kernel.cover(known))
    _, expected_added = plain(similarity, n, weights, cover)
    assert sorted(chosen.tolist()) == list(range(n))
    assert added.tolist() == pytest.approx(expected_added, abs=1e-7)


def test_ties_go_to_the_lowest_row():
    points = torch.tensor([[0.0], [0.0], [3.0], [3.0]])
    assert herding.herd(herding.Gaussian(points), 4)[0].tolist() == [0, 2, 1, 3]


@given(seeds, st.integers(1, 3))
def test_greedy_comes_within_one_minus_one_over_e_of_the_optimum(seed, budget):
    points = cloud(seed, 9)
    kernel = herding.Gaussian(points)
    similarity = kernel.between(points, points)
    best = max(similarity[list(rows)].amax(0).sum() for rows in itertools.combinations(range(9), budget))
    chosen, added = herding.herd(kernel, budget)
    assert float(added.sum()) == pytest.approx(float(similarity[chosen].amax(0).sum()))
    assert added.sum() >= (1 - 1 / torch.e) * best - 1e-9


@given(seeds)
def test_what_is_added_falls(seed):
    _, added = herding.herd(herding.Gaussian(cloud(seed, 30)), 30)
    assert (added[1:] <= added[:-1] + 1e-9).all()


def test_a_narrow_kernel_takes_what_weighs_most():
    weights = torch.rand(30, generator=generator(1), dtype=torch.float64)
    chosen, _ = herding.herd(herding.Gaussian(cloud(0, 30), width=1e-3), 5, weights)
    assert chosen.tolist() == weights.sort(descending=True).indices[:5].tolist()


def test_few_gains_are_computed_again():
    points, work = torch.randn(3000, 16, generator=generator(0)), Counter()
    chosen, _ = herding.herd(herding.Gaussian(points, width=4.0), 100, work=work)
    assert len(chosen.unique()) == 100
    assert work["gains"] < 3000 * 100 / 10


@given(seeds, st.integers(2, 40), st.sampled_from([0.2, 0.8, 2.0]), st.integers(0, 3))
def test_max_cover_is_herding_with_a_top_hat(seed, n, radius, labeled):
    points = cloud(seed, n)
    kernel = TopHat(points, radius)
    cover = kernel.cover(points[:labeled])
    expected, gains = herding.herd(kernel, n, cover=cover)
    chosen, added = herding.max_cover(neighbors.balls(points, radius), n, cover > 0, torch.arange(n))
    useful = int((gains > 0).sum())
    assert chosen[:useful].tolist() == expected[:useful].tolist()
    assert added.tolist() == gains.tolist()
    assert sorted(chosen.tolist()) == list(range(n))


@given(seeds, st.integers(1, 3))
def test_a_greedy_cover_comes_within_one_minus_one_over_e_of_the_best(seed, budget):
    points = cloud(seed, 10, 2)
    within = torch.cdist(points, points) < 0.7
    best = max(int(within[list(rows)].any(0).sum()) for rows in itertools.combinations(range(10), budget))
    _, added = herding.max_cover(neighbors.balls(points, 0.7), budget, torch.zeros(10, dtype=torch.bool), torch.arange(10))
    assert int(added.sum()) >= (1 - 1 / torch.e) * best


def test_where_nothing_is_left_to_cover_the_rest_is_what_is_left():
    """Published code takes the first row of all, labeled or not, again and again."""
    none = torch.zeros(8, dtype=torch.bool)
    for seed in range(20):
        order = torch.randperm(8, generator=generator(seed))
        chosen, added = herding.max_cover(neighbors.balls(torch.zeros(8, 2), 1.0), 4, none, order)
        assert (chosen.tolist(), added.tolist()) == (order[:4].tolist(), [8, 0, 0, 0])


@given(seeds, st.integers(1, 30))
def test_of_balls_that_cover_as_much_the_first_in_order_wins(seed, budget):
    """Of balls that hold nothing but their own rows, and after one that holds all."""
    points, order = cloud(seed, 30), torch.randperm(30, generator=generator(seed))
    none = torch.zeros(30, dtype=torch.bool)
    chosen, added = herding.max_cover(neighbors.balls(points, 1e-12), budget, none, order)
    assert (chosen.tolist(), added.tolist()) == (order[:budget].tolist(), [1] * budget)
    chosen, added = herding.max_cover(neighbors.balls(points, 1e3), budget, none, order)
    assert (chosen.tolist(), added.tolist()) == (order[:budget].tolist(), [30, *[0] * (budget - 1)])


def test_the_last_rows_of_a_set_can_be_chosen():
    """Published code leaves out the last block of rows where it is not full."""
    points = torch.cat([cloud(0, 4999, 2), 100 + 0.01 * cloud(1, 700, 2)])
    chosen, _ = herding.max_cover(neighbors.balls(points, 0.5), 2, torch.zeros(5699, dtype=torch.bool), torch.arange(5699))
    assert int(chosen.max()) >= 4999


def test_no_row_and_none_asked():
    assert herding.herd(herding.Gaussian(torch.zeros(0, 2)), 3)[0].tolist() == []
    assert herding.herd(herding.Gaussian(torch.zeros(2, 2)), 0)[0].tolist() == []


def test_what_is_not_finite_is_refused():
    points = torch.randn(20, 3)
    wrong = points.index_fill(0, torch.tensor([5]), torch.nan)
    for kernel, weights in ((herding.Gaussian(wrong), None), (herding.Gaussian(points), torch.full((20,), torch.nan))):
        with pytest.raises(ValueError, match="herding needs finite features and weights"):
            herding.herd(kernel, 4, weights)


def test_a_narrow_kernel_holds_no_copy_in_double_precision():
    points = torch.randn(20, 3)
    kernel = herding.Gaussian(points, width=1e-3)
    assert kernel.points is points
    assert kernel.dtype == kernel.between(points, points).dtype == torch.float64
