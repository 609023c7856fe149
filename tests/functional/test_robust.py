import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepal.functional import coverage, robust

seeds = st.integers(0, 2**31)


def cloud(seed, n, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def radius(points, centers, outliers=0):
    nearest = torch.cdist(points, centers, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    return nearest.sort(descending=True).values[outliers].item()


@given(seeds, st.integers(5, 9), st.integers(0, 2), st.integers(1, 3), st.integers(0, 2))
@settings(max_examples=25)
def test_no_centers_are_nearer_by_brute_force(seed, n, labeled, budget, outliers):
    points, known = cloud(seed, n), cloud(seed + 1, labeled)
    found = robust.k_center(points, known, budget, outliers)
    best = min(
        radius(points, torch.cat([known, points[list(rows)]]), outliers)
        for rows in itertools.combinations(range(n), budget)
    )
    assert found.proven
    assert found.radius == pytest.approx(best, rel=1e-9)
    assert radius(points, torch.cat([known, points[found.rows]]), outliers) <= found.radius * (1 + 1e-9)
    assert len(found.rows.unique()) == budget


@given(seeds, st.integers(0, 3))
@settings(max_examples=10)
def test_it_is_never_worse_than_greedy_and_greedy_never_twice_as_bad(seed, outliers):
    points = cloud(seed, 40)
    found = robust.k_center(points, points[:1], 4, outliers)
    greedy = coverage.k_center(points, points[:1], 4, ignore=outliers)
    of_greedy = radius(points, points[[0, *greedy.tolist()]], outliers)
    assert found.radius <= of_greedy + 1e-9
    if not outliers:
        assert of_greedy <= 2 * found.radius + 1e-9


def test_outliers_attract_no_center():
    clusters = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]]).double().repeat_interleave(10, 0) + 0.1 * cloud(0, 30)
    points = torch.cat([clusters, torch.tensor([[50.0, 50.0], [-60.0, 10.0]]).double()])
    found = robust.k_center(points, points[:0], 3, outliers=2)
    assert sorted((found.rows // 10).tolist()) == [0, 1, 2]
    assert {30, 31} <= set(robust.k_center(points, points[:0], 3, outliers=0).rows.tolist())
    assert sorted((coverage.k_center(points, points[:1], 2, ignore=2) // 10).tolist()) == [1, 2]


def test_a_search_that_is_cut_short_proves_nothing_but_is_no_worse_than_greedy():
    points = cloud(1, 60, 6)
    found = robust.k_center(points, points[:0], 8, 0, nodes=0)
    assert found.radius <= radius(points, points[coverage.k_center(points, points[:0], 8)]) + 1e-9
