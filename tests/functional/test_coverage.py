import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import coverage

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def cloud(seed, n, d=2):
    return torch.randn(n, d, generator=generator(seed))


def radius(points, centers):
    return torch.cdist(points.double(), centers.double()).amin(1).max().item()


def greedy(points, centers, query_size):
    """k-center by its definition, pair by pair in fp64."""
    points, centers = points.double(), list(centers.double())
    chosen = []
    for _ in range(query_size):
        if centers or chosen:
            known = torch.stack([*centers, *(points[row] for row in chosen)])
            distances = torch.stack([(points - one).norm(dim=1) for one in known]).amin(0)
        else:
            distances = (points - points.mean(0)).norm(dim=1)
        distances[chosen] = -1
        chosen.append(int((distances >= distances.max() - 1e-12).nonzero()[0]))
    return chosen


@given(seeds, st.integers(3, 30), st.integers(0, 4), st.integers(1, 8))
def test_k_center_is_the_greedy_of_its_definition(seed, n, labeled, query_size):
    points, centers = cloud(seed, n), cloud(seed + 1, labeled)
    assert coverage.k_center(points, centers, query_size).tolist() == greedy(points, centers, min(query_size, n))


@given(seeds, st.integers(3, 8), st.integers(1, 3))
def test_k_center_is_within_twice_the_optimum(seed, n, budget):
    points = cloud(seed, n)
    best = min(radius(points, points[[0, *rows]]) for rows in itertools.combinations(range(n), budget))
    chosen = coverage.k_center(points, points[:1], budget)
    assert radius(points, torch.cat([points[:1], points[chosen]])) <= 2 * best + 1e-5


@given(seeds)
def test_chosen_centers_are_as_far_apart_as_what_remains(seed):
    points = cloud(seed, 30)
    chosen = points[coverage.k_center(points, points[:0], 6)]
    apart = torch.cdist(chosen, chosen)[~torch.eye(6, dtype=torch.bool)].min()
    assert apart >= radius(points, chosen) - 1e-5


@given(seeds, st.integers(0, 3))
def test_rotation_and_translation_change_no_pick(seed, labeled):
    points = cloud(seed, 25, 3)
    rotation, _ = torch.linalg.qr(cloud(seed + 1, 3, 3).double())
    moved = points.double() @ rotation + 100
    assert coverage.k_center(points, points[:labeled], 5).tolist() == coverage.k_center(moved, moved[:labeled], 5).tolist()


def test_a_copy_of_a_labeled_point_is_left_to_the_last():
    points = torch.cat([torch.zeros(3, 2), cloud(0, 10)])
    assert set(coverage.k_center(points, torch.zeros(1, 2), 10).tolist()) == set(range(3, 13))


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e4])
def test_near_duplicates_give_no_nan_and_no_repeats(shift):
    """The expanded distance of near-duplicates is negative in fp32, its root NaN, and argmax picks NaN."""
    points = (cloud(0, 200, 8).repeat(5, 1) + 1e-6 * cloud(1, 1000, 8)).double() + shift
    chosen = coverage.k_center(points, points[:1], 100).tolist()
    assert len(set(chosen)) == 100
    assert chosen == greedy(points, points[:1], 100)


@given(seeds, st.integers(0, 3), st.booleans())
def test_exact_ties_go_to_the_lowest_row(seed, labeled, shifted):
    """On an integer lattice distances tie exactly, and a formula that rounds picks by its rounding."""
    lattice = torch.randint(0, 5, (40, 2), generator=generator(seed)).float() + 1000 * shifted
    expected = lattice_greedy(lattice.long(), lattice[:labeled].long(), 40)
    assert coverage.k_center(lattice, lattice[:labeled], 40).tolist() == expected


def lattice_greedy(points, centers, query_size):
    """k-center in integers. Without centers, N times the distance to the mean."""
    chosen = []
    n = len(points)
    for _ in range(query_size):
        known = [*centers, *(points[row] for row in chosen)]
        if known:
            distances = torch.stack([(points - one).square().sum(1) for one in known]).amin(0)
        else:
            distances = (n * points - points.sum(0)).square().sum(1)
        distances[chosen] = -1
        chosen.append(int((distances == distances.max()).nonzero()[0]))
    return chosen


def test_where_only_duplicates_are_left_the_rest_is_uniform():
    hidden = cloud(0, 2, 3).repeat_interleave(torch.tensor([6, 2]), 0)
    error = torch.tensor([[-0.3, 0.2, 0.1], [0.4, -0.6, 0.2]]).repeat_interleave(torch.tensor([6, 2]), 0)
    geometry = coverage.FactoredGradients(error, hidden)
    draws = torch.stack([coverage.d2_sampling(geometry, 3, generator(seed)) for seed in range(600)])
    first = int(draws[0, 0])
    others = [row for row in range(8) if (row < 6) != (first < 6)]  # the second is one of the other kind
    expected = torch.zeros(8)
    for second in others:
        left = [row for row in range(8) if row not in (first, second)]
        expected[left] += 600 / len(others) / len(left)
    counts = torch.bincount(draws[:, 2], minlength=8)
    assert counts[first] == 0
    seen = expected > 0
    assert ((counts - expected)[seen].square() / expected[seen]).sum() < 22.5  # chi-square, 6 degrees, p = .001


def test_nothing_labeled_starts_at_the_row_farthest_from_the_mean():
    points = torch.tensor([[0.0], [1.0], [2.0], [30.0]])
    assert coverage.k_center(points, points[:0], 2).tolist() == [3, 0]


@pytest.mark.parametrize("points", [torch.zeros(4, 2), torch.ones(4, 2)])
def test_equal_rows_are_each_taken_once(points):
    assert sorted(coverage.k_center(points, points[:1], 9).tolist()) == [0, 1, 2, 3]
    geometry = coverage.Points(points)
    assert sorted(coverage.d2_sampling(geometry, 9, generator(0)).tolist()) == [0, 1, 2, 3]


def test_one_row_and_none():
    assert coverage.k_center(torch.zeros(1, 2), torch.zeros(0, 2), 3).tolist() == [0]
    assert coverage.k_center(torch.zeros(0, 2), torch.zeros(0, 2), 3).tolist() == []
    assert coverage.d2_sampling(coverage.Points(torch.zeros(1, 2)), 3, generator(0)).tolist() == [0]


@given(seeds, st.integers(1, 10))
def test_a_smaller_budget_is_a_prefix(seed, k):
    points = cloud(seed, 20)
    whole = coverage.k_center(points, points[:1], 12).tolist()
    assert coverage.k_center(points, points[:1], k).tolist() == whole[:k]
    drawn = coverage.d2_sampling(coverage.Points(points), 12, generator(seed)).tolist()
    assert coverage.d2_sampling(coverage.Points(points), k, generator(seed)).tolist() == drawn[:k]


def test_the_second_center_is_drawn_in_proportion_to_squared_distance():
    """Squared once: a library that squares distances it holds squared draws by d^4."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 2.0], [-1.0, 4.0]])
    geometry = coverage.Points(points)
    draws, source = 20_000, generator(0)
    seconds = torch.tensor([int(coverage.d2_sampling(geometry, 2, source)[1]) for _ in range(draws)])
    first = int(geometry.norm2.argmax())
    expected = draws * (points - points[first]).square().sum(1) / (points - points[first]).square().sum()
    counts = torch.bincount(seconds, minlength=6)
    assert counts[first] == 0
    others = expected > 0
    assert ((counts - expected)[others].square() / expected[others]).sum() < 18.5  # chi-square, 4 degrees, p = .001


def test_the_first_center():
    """By default the largest norm, as in the authors' code; uniform or by squared norm by choice."""
    points = torch.tensor([[1.0], [3.0], [2.0]])
    geometry = coverage.Points(points)
    assert coverage.d2_sampling(geometry, 1, generator(0)).tolist() == [1]
    for first, shares in (("uniform", [1 / 3, 1 / 3, 1 / 3]), ("norm", [1 / 14, 9 / 14, 4 / 14])):
        source = generator(1)
        draws = torch.tensor([int(coverage.d2_sampling(geometry, 1, source, first)[0]) for _ in range(6000)])
        expected = 6000 * torch.tensor(shares)
        assert ((torch.bincount(draws, minlength=3) - expected).square() / expected).sum() < 13.8  # 2 degrees, p = .001


def test_a_low_norm_cluster_is_found_although_the_origin_is_no_center():
    """A running minimum that starts from squared norms keeps the origin as a permanent center."""
    points = torch.cat([torch.full((1, 2), 10.0), torch.full((50, 2), 0.01) + 1e-3 * cloud(0, 50)])
    geometry = coverage.Points(points)
    assert all(int(coverage.d2_sampling(geometry, 2, generator(seed))[1]) > 0 for seed in range(20))


def test_more_categories_than_multinomial_takes():
    """torch.multinomial refuses more than 2^24."""
    weights = torch.zeros(2**24 + 5, dtype=torch.float64)
    weights[-1] = 1
    taken = torch.zeros(len(weights), dtype=torch.bool)
    assert coverage._draw(weights, taken, generator(0)) == len(weights) - 1
    with pytest.raises(RuntimeError):
        torch.multinomial(weights, 1)


def test_same_probabilities_and_features_collide():
    error, hidden = torch.tensor([[-0.5, 0.5]] * 3 + [[-0.1, 0.1]]), torch.tensor([[1.0, 1.0]] * 4)
    geometry = coverage.FactoredGradients(error, hidden)
    for seed in range(20):
        assert coverage.d2_sampling(geometry, 2, generator(seed)).tolist() == [0, 3]


def test_points_far_from_the_origin_keep_their_distances():
    points = (cloud(0, 30, 4) * 0.01).double() + 1e4
    expected = (points.unsqueeze(0) - points.unsqueeze(1)).square().sum(-1)
    geometry = coverage.Points(points)
    for row in range(30):
        assert torch.allclose(geometry.dist2(row), expected[row], atol=1e-9)
    assert torch.allclose(geometry.dist2_to_nearest(points[:7]), expected[:, :7].amin(1), atol=1e-9)
