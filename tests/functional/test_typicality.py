import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import typicality

seeds = st.integers(0, 2**31)


def cloud(seed, n, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(1, 40), st.integers(1, 25))
def test_the_most_typical_row_is_nearest_to_its_neighbors_on_average(seed, n, k):
    """On average of distances, and not of their squares, which published code takes."""
    points = cloud(seed, n)
    k_of = min(k, n // 2)
    row = typicality.most_typical(points, k)
    if k_of:
        mean = torch.cdist(points.double(), points.double()).sort(1).values[:, 1 : k_of + 1].mean(1)
        assert mean[row] <= mean.min() + 1e-6
    else:
        assert row == 0


def test_clusters_without_labels_first_the_largest_of_them_first_and_small_ones_last():
    sizes = [4, 10, 20, 30]
    points = torch.cat([100 * each + cloud(each, size) for each, size in enumerate(sizes)])
    cluster = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    known = torch.tensor([3, 3, 2])  # two labels in the largest, one in the next
    chosen = typicality.in_turn(points, cluster, known, 64, min_size=5)
    assert cluster[chosen[:6]].tolist() == [1, 2, 3, 1, 2, 3]
    assert sorted(chosen.tolist()) == list(range(64))
    assert set(chosen[-4:].tolist()) == {0, 1, 2, 3}
    assert typicality.in_turn(points, cluster, known, 9)[:6].tolist() == chosen[:6].tolist()


def test_a_cluster_is_asked_again_for_the_most_typical_of_what_is_left():
    points = cloud(0, 30)
    chosen = typicality.in_turn(points, torch.zeros(30, dtype=torch.long), torch.empty(0, dtype=torch.long), 3)
    left = torch.arange(30)
    for row in chosen.tolist():
        assert row == left[typicality.most_typical(points[left])]
        left = left[left != row]


@pytest.mark.parametrize("size", [0, 1])
def test_no_rows_and_one(size):
    none = torch.zeros(0, dtype=torch.long)
    assert typicality.in_turn(torch.zeros(size, 2), torch.zeros(size, dtype=torch.long), none, 3).tolist() == [0] * size


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_typicality_is_what_sorting_finds(seed, k):
    points = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))
    apart = torch.cdist(points.double(), points.double()).sort(1).values[:, 1 : 1 + min(k, 8)]
    assert torch.allclose(typicality.typicality(points, k).double(), 1 / apart.mean(1), rtol=1e-4)
    assert typicality.typicality(points[:1], k).tolist() == [0.0]
    assert typicality.typicality(points[:1].expand(4, -1), k).isfinite().all()
