import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import neighbors

seeds = st.integers(0, 2**31)


def cloud(seed, n, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(1, 5))
def test_both_searches_find_the_nearest_by_brute_force(seed, k):
    queries, references = cloud(seed, 12), cloud(seed + 1, 9)
    expected = torch.cdist(queries.double(), references.double()).square().sort(1)
    searches = [neighbors._search_torch(queries, references, k), neighbors.nearest(queries, references, k)]
    for dist2, rows in searches:
        assert torch.equal(rows, expected.indices[:, :k])
        assert torch.allclose(dist2.double(), expected.values[:, :k], atol=1e-4)


def test_faiss_and_torch_agree_far_from_the_origin(monkeypatch):
    if importlib.util.find_spec("faiss") is None:
        pytest.skip("FAISS is not installed")
    points = 100 + 0.1 * cloud(0, 300, 8)
    _, by_faiss = neighbors.nearest(points, points[:50], 5)
    monkeypatch.setattr(neighbors, "_faiss", lambda: None)
    _, by_torch = neighbors.nearest(points, points[:50], 5)
    assert torch.equal(by_faiss, by_torch)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbors_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k}"):
        neighbors.nearest(cloud(0, 5), cloud(1, 3), k)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        neighbors.nearest(torch.full((2, 3), torch.nan), cloud(0, 4, 3))


def test_k_means_finds_well_separated_clusters():
    centers = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    truth = torch.arange(4).repeat_interleave(30)
    points = centers[truth] + cloud(0, 120, 2)
    for seed in range(10):
        centroids, assignment = neighbors.k_means(points, 4, torch.Generator().manual_seed(seed))
        assert all(len(assignment[truth == cluster].unique()) == 1 for cluster in range(4))
        assert torch.cdist(centers, centroids).amin(1).max() < 1


@given(seeds, st.integers(1, 6))
def test_k_means_ends_where_lloyd_changes_nothing(seed, k):
    points = cloud(seed, 40)
    centroids, assignment = neighbors.k_means(points, k, torch.Generator().manual_seed(seed))
    for cluster in range(k):
        if (assignment == cluster).any():
            assert torch.allclose(centroids[cluster], points[assignment == cluster].mean(0), atol=1e-5)
    nearest = torch.cdist(points.double(), centroids.double())
    own = nearest.gather(1, assignment.unsqueeze(1)).squeeze(1)
    assert (own <= nearest.amin(1) + 1e-5).all()


@given(seeds, st.integers(1, 8))
def test_medoids_are_the_rows_nearest_to_their_centroid_largest_cluster_first(seed, k):
    points = cloud(seed, 40)
    centroids, assignment = neighbors.k_means(points, k, torch.Generator().manual_seed(seed))
    chosen = neighbors.medoids(points, centroids, assignment).tolist()
    assert len(set(chosen)) == k
    sizes = torch.bincount(assignment, minlength=k)
    filled = chosen[: int((sizes > 0).sum())]
    assert sizes[assignment[filled]].tolist() == sorted(sizes[sizes > 0].tolist(), reverse=True)
    for row in filled:
        members = (assignment == assignment[row]).nonzero().squeeze(1)
        distances = (points[members].double() - centroids[assignment[row]].double()).square().sum(1)
        assert members[distances.argmin()] == row


def test_fewer_distinct_points_than_clusters():
    points = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    centroids, assignment = neighbors.k_means(points, 4, torch.Generator().manual_seed(0))
    assert sorted(neighbors.medoids(points, centroids, assignment).tolist()) == [0, 1, 2, 3]
