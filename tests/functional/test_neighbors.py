import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from deepal.functional import neighbors

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def cloud(seed, n, d=4):
    return torch.randn(n, d, generator=generator(seed))


@pytest.fixture(params=["FAISS", "torch"])
def searched_by(request, monkeypatch):
    """Whether FAISS is there, or not."""
    if request.param == "FAISS":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(neighbors, "_faiss", lambda: None)


@pytest.mark.usefixtures("searched_by")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds, st.integers(1, 5))
def test_both_searches_find_the_nearest_by_brute_force(seed, k):
    queries, references = cloud(seed, 12), cloud(seed + 1, 9)
    expected = torch.cdist(queries.double(), references.double()).square().sort(1)
    dist2, rows = neighbors.nearest(queries, references, k)
    assert torch.equal(rows, expected.indices[:, :k])
    assert torch.allclose(dist2.double(), expected.values[:, :k], atol=1e-5)


@pytest.mark.usefixtures("searched_by")
@pytest.mark.parametrize("size", [1, 31, 33, 700, 5000])
def test_many_references_leave_no_neighbor_out(size):
    queries, references = cloud(0, 100, 8), cloud(1, size, 8)
    for k in {1, min(7, size), min(100, size)}:
        dist2, rows = neighbors.nearest(queries, references, k)
        expected = torch.cdist(queries.double(), references.double()).square().topk(k, largest=False)
        assert torch.equal(rows.sort(1).values, expected.indices.sort(1).values)
        assert torch.allclose(dist2.double(), expected.values, atol=1e-5)


@pytest.mark.usefixtures("searched_by")
def test_far_from_the_origin_they_are_the_same():
    points = (100 + 0.1 * cloud(0, 300, 8).double()).float()
    expected = torch.cdist(points.double(), points[:50].double()).topk(5, largest=False).indices
    assert torch.equal(neighbors.nearest(points, points[:50], 5)[1], expected)


def test_of_real_images_both_find_the_same(monkeypatch):
    pytest.importorskip("faiss")
    points = torch.from_numpy(load_digits().data).float()
    points += 1e-3 * cloud(0, *points.shape)  # pixels are whole numbers, and many distances equal
    dist2, rows = neighbors.k_nearest(points, 20)
    monkeypatch.setattr(neighbors, "_faiss", lambda: None)
    assert all(torch.equal(one, other) for one, other in zip(neighbors.k_nearest(points, 20), (dist2, rows), strict=True))


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_approximate_index_finds_nearly_all(index):
    pytest.importorskip("faiss")
    points = cloud(0, 4000, 16)
    _, exact = neighbors.k_nearest(points, 10)
    dist2, found = neighbors.k_nearest(points, 10, index)
    assert (exact.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean() > 0.9
    assert torch.allclose(dist2, (points.unsqueeze(1) - points[found]).square().sum(-1), atol=1e-5)


def test_an_index_of_faiss_without_faiss_says_so(monkeypatch):
    monkeypatch.setattr(neighbors, "_faiss", lambda: None)
    with pytest.raises(ValueError, match="pip install faiss-cpu"):
        neighbors.nearest(cloud(0, 5), cloud(1, 9), 1, "ivf")


def test_what_training_computes_in_is_not_what_selection_computes_in():
    """Lightning advises products of half precision on some devices; what is nearest, and within a ball, is not theirs."""
    points, before, found = cloud(0, 500, 64), torch.get_float32_matmul_precision(), []
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        try:
            means = neighbors.k_means(points, 9, generator(0))
            found.append((*neighbors.k_nearest(points, 5), *neighbors.balls(points, 10.0), *means))
            assert torch.get_float32_matmul_precision() == precision
        finally:
            torch.set_float32_matmul_precision(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_half_precision_is_subtracted_in_single():
    points = (300 * cloud(0, 30)).half()
    dist2, rows = neighbors.k_nearest(points, 3)
    exact = (points.double().unsqueeze(1) - points.double()[rows]).square().sum(2)
    assert torch.allclose(dist2.double(), exact, rtol=1e-6)


def test_clusters_far_from_zero_are_found_in_double_precision():
    points = (3 * torch.arange(4).repeat_interleave(10).unsqueeze(1) + 0.1 * cloud(0, 40, 1)).double()
    _, cluster = neighbors.k_means(points + 1e8, 4, generator(0))
    assert all(len(each.unique()) == 1 for each in cluster.split(10))


def test_near_duplicates_keep_their_distance():
    """The expanded form of a distance of 0.02 gives 1.4 in single precision."""
    points = (1000 * cloud(0, 200, 8)).repeat_interleave(2, 0)
    points[1::2, 0] += 0.02
    dist2, rows = neighbors.k_nearest(points, 1)
    moved = (points[::2, 0] - points[1::2, 0]).square()
    assert torch.allclose(dist2[::2, 0], moved, rtol=1e-3)
    assert rows[::2, 0].tolist() == list(range(1, 400, 2))


def test_a_row_is_not_its_own_neighbor_among_copies():
    points = torch.zeros(40, 3)
    dist2, rows = neighbors.k_nearest(points, 5)
    assert (dist2 == 0).all()
    assert (rows != torch.arange(40).unsqueeze(1)).all()
    with pytest.raises(ValueError, match="k=40"):
        neighbors.k_nearest(points, 40)


@given(seeds, st.integers(1, 50), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_balls_are_those_of_exact_distances(seed, n, radius):
    """On a lattice many rows are just as far as the radius: these are not within."""
    points = torch.randint(0, 4, (n, 2), generator=torch.Generator().manual_seed(seed)).float() + 100
    found = neighbors.balls(points, radius)
    within = (points.unsqueeze(0) - points.unsqueeze(1)).square().sum(-1) < radius**2
    for row in range(n):
        assert found.of(torch.tensor([row])).tolist() == within[row].nonzero().squeeze(1).tolist()
    assert found.of(torch.arange(n)).tolist() == within.nonzero()[:, 1].tolist()


def test_a_weight_counts_as_so_many_copies():
    points, weights = cloud(0, 60), torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(0))
    centroids, assignment = neighbors.k_means(points, 4, torch.Generator().manual_seed(1), weights.float())
    for cluster in range(4):
        copies = points.repeat_interleave(weights, 0)[assignment.repeat_interleave(weights) == cluster]
        assert torch.allclose(centroids[cluster], copies.mean(0), atol=1e-5)


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


@given(seeds, st.integers(1, 6), st.booleans())
def test_clusters_whose_rows_move_are_what_they_would_be_anew(seed, k, weighted):
    """Where nothing is left of a cluster that weighs something, nothing is left of its sum either."""
    source = torch.Generator().manual_seed(seed)
    points = cloud(seed, 40)
    weights = torch.rand(40, generator=source) * torch.randint(0, 2, (40,), generator=source) if weighted else None
    clusters, before = neighbors._Clusters(points, k, weights), cloud(seed + 1, k)
    of = torch.randint(k, (40,), generator=source)
    for moved in (40, 3, 30, 5, 40):
        of = torch.where(torch.rand(40, generator=source) < moved / 40, torch.randint(k, (40,), generator=source), of)
        clusters.become(of)
        means = clusters.means(before)
        for each in range(k):
            rows, share = points[of == each].double(), (weights if weighted else torch.ones(40))[of == each].double()
            expected = (rows * share.unsqueeze(1)).sum(0) / share.sum() if share.sum() > 0 else before[each]
            assert torch.allclose(means[each].double(), expected.double(), atol=1e-5)
    clusters.become(torch.zeros(40, dtype=torch.long))
    assert torch.equal(clusters.means(before)[1:], before[1:])


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


def test_an_index_that_there_is_not_and_values_that_are_none_are_refused():
    points = torch.randn(30, 2)
    with pytest.raises(ValueError, match=r"index='hsnw' must be one of flat, ivf, hnsw"):
        neighbors.nearest(points, points, 2, index="hsnw")
    with pytest.raises(ValueError, match="balls need finite features"):
        neighbors.balls(points.index_fill(0, torch.tensor([5]), torch.nan), 1.0)


def test_means_of_whole_numbers_are_not_whole_numbers():
    means = neighbors.means(torch.tensor([[0], [1], [1]]), torch.zeros(3, dtype=torch.long))
    assert means.tolist() == [[pytest.approx(2 / 3)]]
