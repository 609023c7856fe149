import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from deepal.functional import linkage as ours


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 4), st.integers(1, 60))
def test_it_is_scipys_average_linkage_of_squared_distances(seed, size, width, clusters):
    points = torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tree = linkage(pdist(points.numpy(), "sqeuclidean"), "average")
    found = ours.average_linkage(points, clusters)
    assert len(found.unique()) == min(size, clusters)
    assert adjusted_rand_score(found.numpy(), fcluster(tree, min(size, clusters), "maxclust")) == pytest.approx(1)


def test_rows_far_from_zero_are_clustered_as_near_it():
    points = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    far = (points * 1024).round() / 1024 + 4096  # which single precision holds exactly
    assert torch.equal(ours.average_linkage(far, 7), ours.average_linkage(far - 4096, 7))


def test_copies_are_together_until_there_are_as_many_clusters_as_rows():
    points = torch.tensor([[0.0], [5.0], [0.0], [5.0], [0.0], [7.0]])
    assert ours.average_linkage(points, 3).tolist() == [0, 1, 0, 1, 0, 2]
    assert len(ours.average_linkage(points, 5).unique()) == 5
    assert ours.average_linkage(points, 99).tolist() == [0, 1, 2, 3, 4, 5]


def test_thousands_of_equal_rows_take_no_time():
    assert len(ours.average_linkage(torch.ones(20_000, 2), 4).unique()) == 4


def test_rows_that_are_all_as_far_apart_are_merged_many_at_a_time(monkeypatch):
    compared, original = [], ours._nearest
    monkeypatch.setattr(ours, "_nearest", lambda *given: (compared.append(len(given[-1])), original(*given))[1])
    assert len(ours.average_linkage(torch.eye(512), 10).unique()) == 10
    assert sum(compared) < 20 * 512  # where one pair at a time is merged, 512 * 512 / 2


def test_rows_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        ours.average_linkage(torch.tensor([[0.0], [torch.nan]]), 1)


def test_one_row_and_none():
    assert ours.average_linkage(torch.ones(1, 2), 3).tolist() == [0]
    assert ours.average_linkage(torch.ones(0, 2), 3).tolist() == []
