import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from deepal.functional import bounds, coverage
from deepal.functional.geometry import FactoredGradients, Points
from tests.functional import plain

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def cloud(seed, n, d=2):
    return torch.randn(n, d, generator=generator(seed))


def radius(points, centers):
    return torch.cdist(points.double(), centers.double()).amin(1).max().item()


@given(seeds, st.integers(3, 30), st.integers(0, 4), st.integers(1, 8))
def test_k_center_is_the_greedy_of_its_definition(seed, n, labeled, query_size):
    points, centers = cloud(seed, n), cloud(seed + 1, labeled)
    assert coverage.k_center(points, centers, query_size).tolist() == plain.k_center(points, centers, query_size).tolist()


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
    assert chosen == plain.k_center(points, points[:1], 100).tolist()


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
    geometry = FactoredGradients(error, hidden)
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
    geometry = Points(points)
    assert sorted(coverage.d2_sampling(geometry, 9, generator(0)).tolist()) == [0, 1, 2, 3]


def test_one_row_and_none():
    assert coverage.k_center(torch.zeros(1, 2), torch.zeros(0, 2), 3).tolist() == [0]
    assert coverage.k_center(torch.zeros(0, 2), torch.zeros(0, 2), 3).tolist() == []
    assert coverage.d2_sampling(Points(torch.zeros(1, 2)), 3, generator(0)).tolist() == [0]


@given(seeds, st.integers(1, 10))
def test_a_smaller_budget_is_a_prefix(seed, k):
    points = cloud(seed, 20)
    whole = coverage.k_center(points, points[:1], 12).tolist()
    assert coverage.k_center(points, points[:1], k).tolist() == whole[:k]
    drawn = coverage.d2_sampling(Points(points), 12, generator(seed)).tolist()
    assert coverage.d2_sampling(Points(points), k, generator(seed)).tolist() == drawn[:k]


def test_the_second_center_is_drawn_in_proportion_to_squared_distance():
    """Squared once: a library that squares distances it holds squared draws by d^4."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 2.0], [-1.0, 4.0]])
    geometry = Points(points)
    draws, source = 6_000, generator(0)
    seconds = torch.tensor([int(coverage.d2_sampling(geometry, 2, source)[1]) for _ in range(draws)])
    first = int(geometry.norm2().argmax())
    expected = draws * (points - points[first]).square().sum(1) / (points - points[first]).square().sum()
    counts = torch.bincount(seconds, minlength=6)
    assert counts[first] == 0
    others = expected > 0
    assert ((counts - expected)[others].square() / expected[others]).sum() < 18.5  # chi-square, 4 degrees, p = .001


@pytest.mark.parametrize("draws", [3_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_rows_accepted_by_old_bounds_follow_the_law(draws):
    """The second and third are drawn by the same bounds, of which the third's are out of date."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [2.0, 2.0], [-1.0, 4.0]])
    dist2, source = torch.cdist(points, points).square(), generator(0)
    counts = torch.zeros(6, 6)
    for _ in range(draws):
        first, second, third = coverage.d2_sampling(Points(points), 3, source).tolist()
        counts[second, third] += 1
    expected = torch.zeros(6, 6)
    for second in range(6):
        left = dist2[[first, second]].amin(0)
        expected[second] = draws * dist2[first, second] / dist2[first].sum() * left / left.sum()
    seen = expected > 0
    assert (counts[~seen] == 0).all()
    assert ((counts - expected)[seen].square() / expected[seen]).sum() < 43.8  # chi-square, 19 degrees, p = .001


def test_the_first_center():
    """By default the largest norm, as in the authors' code; uniform or by squared norm by choice."""
    points = torch.tensor([[1.0], [3.0], [2.0]])
    geometry = Points(points)
    assert coverage.d2_sampling(geometry, 1, generator(0)).tolist() == [1]
    for first, shares in (("uniform", [1 / 3, 1 / 3, 1 / 3]), ("norm", [1 / 14, 9 / 14, 4 / 14])):
        source = generator(1)
        draws = torch.tensor([int(coverage.d2_sampling(geometry, 1, source, first)[0]) for _ in range(6000)])
        expected = 6000 * torch.tensor(shares)
        assert ((torch.bincount(draws, minlength=3) - expected).square() / expected).sum() < 13.8  # 2 degrees, p = .001


def test_a_low_norm_cluster_is_found_although_the_origin_is_no_center():
    """A running minimum that starts from squared norms keeps the origin as a permanent center."""
    points = torch.cat([torch.full((1, 2), 10.0), torch.full((50, 2), 0.01) + 1e-3 * cloud(0, 50)])
    geometry = Points(points)
    assert all(int(coverage.d2_sampling(geometry, 2, generator(seed))[1]) > 0 for seed in range(20))


def test_more_categories_than_multinomial_takes():
    """torch.multinomial refuses more than 2^24."""
    points = torch.zeros(2**24 + 5, 1, dtype=torch.float16)
    points[0], points[-1] = 2, 1
    assert coverage.d2_sampling(Points(points[1:]), 1, generator(0), "norm").tolist() == [2**24 + 3]
    with pytest.raises(RuntimeError):
        torch.multinomial(points[:, 0].float(), 1)


def test_same_probabilities_and_features_collide():
    error, hidden = torch.tensor([[-0.5, 0.5]] * 3 + [[-0.1, 0.1]]), torch.tensor([[1.0, 1.0]] * 4)
    geometry = FactoredGradients(error, hidden)
    for seed in range(20):
        assert coverage.d2_sampling(geometry, 2, generator(seed)).tolist() == [0, 3]


def test_points_far_from_the_origin_keep_their_distances():
    points = (cloud(0, 30, 4) * 0.01).double() + 1e4
    expected = (points.unsqueeze(0) - points.unsqueeze(1)).square().sum(-1)
    geometry = Points(points)
    block = geometry.block(slice(None))
    above = block.above(block).double() * geometry.unit
    below = above - block.slack(block.norm2.unsqueeze(1)).double() * geometry.unit
    assert (below <= expected).all()
    assert (expected <= above).all()
    assert (above - below).max() < 1e-4 * expected.max()


def test_real_images_are_chosen_from_as_the_definition_chooses():
    """Whose features tie and nearly tie: digits of 17 gray levels, and a layer of rectified units over them."""
    images, _ = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32)
    hidden = (pixels @ cloud(0, 64, 128) / 8).relu()
    for points in (pixels, hidden, hidden.half()):
        for labeled in (0, 100):
            expected = plain.k_center(points[labeled:], points[:labeled], 300)
            assert torch.equal(coverage.k_center(points[labeled:], points[:labeled], 300), expected)


def clouds():
    """Sets that greedy methods have stumbled over."""
    torch.manual_seed(0)
    sphere = torch.nn.functional.normalize(torch.randn(300, 8))
    return {
        "random": torch.randn(500, 8),
        "lattice": torch.randint(0, 5, (400, 2)).float() + 1000,
        "copies": torch.randn(100, 3).repeat(4, 1),
        "equal": torch.ones(50, 3),
        "zero": torch.zeros(50, 3),
        "sphere": sphere,
        "shifted": sphere + 100,
        "far": torch.randn(300, 8).double() * 1e-3 + 1e4,
        "tiny": torch.randn(300, 8) * 1e-25,
        "huge": torch.randn(300, 8) * 1e22,
        "half": torch.randn(300, 8).half(),
        "long half": (300 * torch.randn(300, 8)).half(),  # whose squares half precision does not hold
        "outlier": torch.cat([torch.full((1, 8), 1e4), torch.randn(300, 8)]),
        "one": torch.randn(1, 4),
        "few": torch.randn(3, 4).repeat(20, 1),
    }


@pytest.mark.parametrize("levels", [(200, 50, 16), (7, 3, 1), (32768, 2048, 128)])
@pytest.mark.parametrize("name", clouds())
def test_the_engine_chooses_what_the_definition_chooses(name, levels, monkeypatch):
    """To the last row, so that all ties are among them."""
    monkeypatch.setattr(coverage, "_LEVELS", levels)
    monkeypatch.setattr(bounds, "_CENTERS", levels[2])
    points = clouds()[name][: 20 * levels[1]]
    for labeled in (0, 1, 40):
        expected = plain.k_center(points, points[:labeled], len(points))
        assert coverage.k_center(points, points[:labeled], len(points)).tolist() == expected.tolist()


@pytest.mark.parametrize("name", clouds())
def test_to_begin_in_cells_changes_no_choice(name, monkeypatch):
    points = clouds()[name]
    monkeypatch.setattr(coverage, "_FEW", 0)
    for labeled in (1, 40, len(points)):
        expected = plain.k_center(points, points[:labeled], 50)
        assert coverage.k_center(points, points[:labeled], 50).tolist() == expected.tolist()


@pytest.mark.parametrize("levels", [(20, 5, 2), (32768, 2048, 128)])
@pytest.mark.parametrize("name", clouds())
def test_what_is_passed_over_is_what_the_definition_passes_over(name, levels, monkeypatch):
    monkeypatch.setattr(coverage, "_LEVELS", levels)
    points = clouds()[name][:100]
    for labeled in (0, 3):
        for ignore in (1, 9):
            expected = plain.k_center(points, points[:labeled], len(points), ignore)
            assert coverage.k_center(points, points[:labeled], len(points), ignore=ignore).tolist() == expected.tolist()


@pytest.mark.parametrize("name", clouds())
def test_choices_that_are_made_before_anyone_looks_are_the_same(name, monkeypatch):
    """As on a GPU, where to look is to wait."""
    points = clouds()[name]
    expected = coverage.k_center(points, points[:1], len(points))
    monkeypatch.setitem(coverage._LOOK, "cpu", 64)
    assert coverage.k_center(points, points[:1], len(points)).tolist() == expected.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", clouds())
def test_a_gpu_chooses_the_same(name):
    points = clouds()[name]
    expected = coverage.k_center(points, points[:1], len(points))
    assert coverage.k_center(points.cuda(), points[:1].cuda(), len(points)).tolist() == expected.tolist()
    drawn = coverage.d2_sampling(Points(points.cuda()), len(points), generator(0))
    assert sorted(drawn.tolist()) == list(range(len(points)))


def test_neither_a_memory_map_nor_half_precision_is_copied(tmp_path):
    """The picks of a file are those of the same numbers in memory."""
    points = cloud(0, 3000, 16).half()
    points.numpy().tofile(tmp_path / "points")
    mapped = torch.from_file(str(tmp_path / "points"), size=points.numel(), dtype=torch.half).view(3000, 16)
    assert torch.equal(coverage.k_center(mapped, points[:5], 50), plain.k_center(points.double(), points[:5], 50))
    assert torch.equal(
        coverage.d2_sampling(Points(mapped), 50, generator(0)), coverage.d2_sampling(Points(points), 50, generator(0))
    )


def test_most_rows_are_left_alone():
    """Of rows of very different lengths, few can be chosen; a pass a choice would be all rows times all choices."""
    points, work = cloud(0, 20_000, 256) * cloud(1, 20_000, 1).exp(), Counter()
    coverage.k_center(points, points[:10], 500, work=work)
    assert work["products"] < 20_000 * 500 / 15
    assert work["looks"] < 20_000 / 4
    work.clear()
    coverage.d2_sampling(Points(points), 500, generator(0), work=work)
    assert work["products"] < 20_000 * 500 / 15
    assert work["draws"] < 5 * 500


def test_squares_of_half_precision_do_not_overflow():
    """A matrix of distances in half precision is infinite and NaN."""
    points = (300 * cloud(0, 200, 16)).half()
    assert not torch.cdist(points.float(), points.float()).square().half().isfinite().all()
    chosen = coverage.k_center(points, points[:1], 50)
    assert torch.equal(chosen, plain.k_center(points.double(), points[:1].double(), 50))


def test_more_may_be_asked_for_than_there_are_features():
    """A guard that compares the query with the width of the features refuses what is fine."""
    points = cloud(0, 40, 3)
    assert len(coverage.k_center(points, points[:1], 30).unique()) == 30
    assert len(coverage.d2_sampling(Points(points), 30, generator(0)).unique()) == 30


def test_rows_of_which_single_precision_cannot_hold_all_are_refused():
    points = cloud(0, 5000, 4)
    points[1] = 1e30
    with pytest.raises(ValueError, match="so much longer"):
        coverage.k_center(points, points[:1], 3)
    with pytest.raises(ValueError, match="so much longer"):
        coverage.d2_sampling(Points(points), 3, generator(0))


@pytest.mark.parametrize("first", ["max_norm", "uniform", "norm"])
@pytest.mark.parametrize("name", clouds())
def test_the_engine_draws_what_bounds_that_know_all_distances_draw(name, first, monkeypatch):
    points = clouds()[name]
    error = torch.stack([points[:, 0], -points[:, 0] - points[:, 1], points[:, 1]], 1)
    for geometry in (Points(points), FactoredGradients(error, points)):
        for labeled, overhead in ((0, 0), (0, 200_000), (5, 200_000)):
            monkeypatch.setattr(coverage, "_OVERHEAD", overhead)
            known = geometry.beside(*(factor[:labeled] for factor in geometry.factors)) if labeled else None
            drawn = coverage.d2_sampling(geometry, len(points), generator(0), first, labeled=known)
            expected = coverage._sample(plain.Plain(geometry, len(points), known), generator(0), first)
            assert drawn.tolist() == expected.tolist()
            assert sorted(drawn.tolist()) == list(range(len(points)))


def test_a_first_row_of_no_kind_and_values_that_are_none_are_refused():
    points = torch.randn(30, 2)
    with pytest.raises(ValueError, match=r"first='maxnorm' must be one of max_norm, uniform, norm"):
        coverage.d2_sampling(Points(points), 3, torch.Generator(), "maxnorm")
    with pytest.raises(ValueError, match="of rows 0 to 29 some are NaN or infinite"):
        coverage.k_center(points.index_fill(0, torch.tensor([5]), torch.nan), points[:0], 5)
