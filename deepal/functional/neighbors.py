"""Nearest neighbors and k-means. The one file that knows FAISS; without it torch gives the same answer up to ties."""

from types import ModuleType

import torch
from torch import Tensor

from deepal.functional import coverage
from deepal.functional.geometry import Points

_BLOCK = 2048  # rows at a time, where something of the size of all rows would be made


def nearest(queries: Tensor, references: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest of `references` (M, D) for each of `queries` (N, D), exact, under the Euclidean distance.

    Both are measured from the mean of the references, so that far from the origin no digits are lost.

    Returns squared distances (N, k), ascending, and their rows (N, k). Raises ValueError where k > M or a value is not
    finite (FAISS would answer -1 silently).

    >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0]]))[1]
    tensor([[1]])
    """
    if not 1 <= k <= len(references):
        raise ValueError(f"k={k} neighbors were asked for, and there are {len(references)} references.")
    origin = references.mean(0)
    references = (references - origin).float().contiguous()
    faiss, finite, parts = _faiss(), bool(references.isfinite().all()), []
    for some in queries.split(64 * _BLOCK):
        moved = (some - origin).float().contiguous()
        if not (finite and moved.isfinite().all()):
            raise ValueError("nearest neighbors need finite features, and some are NaN or infinite.")
        parts.append(_search_faiss(faiss, moved, references, k) if faiss else _search_torch(moved, references, k))
    return torch.cat([dist2 for dist2, _ in parts]), torch.cat([rows for _, rows in parts])


def k_means(points: Tensor, k: int, generator: torch.Generator, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means from a k-means++ seeding  (Lloyd, 1982; Arthur & Vassilvitskii, 2007).

    An empty cluster keeps its centroid, so with fewer distinct points than k some clusters stay empty. Ends where no
    assignment changes, or after `iterations`.

    Args: points (N, D), N >= k. Returns centroids (k, D) and the cluster of each point (N,).
    """
    centroids = points[coverage.d2_sampling(Points(points), k, generator, first="uniform")].float()
    assignment = nearest(points, centroids)[1].squeeze(1)
    for _ in range(iterations):
        centroids = _means(points, assignment, centroids)
        previous, assignment = assignment, nearest(points, centroids)[1].squeeze(1)
        if torch.equal(previous, assignment):
            break
    return centroids, assignment


def medoids(points: Tensor, centroids: Tensor, assignment: Tensor) -> Tensor:
    """The row of each cluster that is nearest to its centroid, the largest cluster first; distances by direct
    differences, the lowest row on a tie. Empty clusters are made up for by the rows farthest from the centroids.

    Args: points (N, D), centroids (k, D), assignment (N,). Returns k distinct rows.
    """
    blocks = zip(points.split(_BLOCK), assignment.split(_BLOCK), strict=True)
    dist2 = torch.cat([(some.double() - centroids[of]).square().sum(1) for some, of in blocks])
    nearest_first = dist2.sort(stable=True).indices
    by_cluster = nearest_first[assignment[nearest_first].sort(stable=True).indices]
    clusters = assignment[by_cluster]
    leads = torch.ones(len(clusters), dtype=torch.bool)
    leads[1:] = clusters[1:] != clusters[:-1]
    sizes = torch.bincount(assignment)[clusters[leads]]
    chosen = by_cluster[leads][sizes.sort(descending=True, stable=True).indices]
    farthest_first = dist2.sort(descending=True, stable=True).indices
    left_over = farthest_first[~torch.isin(farthest_first, chosen)]
    return torch.cat([chosen, left_over[: len(centroids) - len(chosen)]])


def _means(points: Tensor, assignment: Tensor, centroids: Tensor) -> Tensor:
    """Mean of each cluster's points; where a cluster is empty, its centroid as it was."""
    sizes = torch.bincount(assignment, minlength=len(centroids))
    sums = centroids.new_zeros(centroids.shape, dtype=torch.float64)
    for some, of in zip(points.split(_BLOCK), assignment.split(_BLOCK), strict=True):
        sums.index_add_(0, of, some.double())
    means = (sums / sizes.clamp_min(1).unsqueeze(1)).to(centroids.dtype)
    return torch.where(sizes.unsqueeze(1) > 0, means, centroids)


def _search_faiss(faiss: ModuleType, queries: Tensor, references: Tensor, k: int) -> tuple[Tensor, Tensor]:
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(references.shape[1])
    index.add(references.numpy(force=True))
    dist2, rows = index.search(queries.numpy(force=True), k)
    return torch.from_numpy(dist2).clamp_min(0), torch.from_numpy(rows)


def _search_torch(queries: Tensor, references: Tensor, k: int) -> tuple[Tensor, Tensor]:
    norm2 = torch.linalg.vector_norm(references, dim=1).square()
    parts = []
    for some in queries.split(_BLOCK):
        dist2 = torch.addmm(norm2, some, references.T, alpha=-2)
        dist2 += torch.linalg.vector_norm(some, dim=1, keepdim=True).square()
        parts.append(dist2.clamp_min_(0).topk(k, largest=False))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _faiss() -> ModuleType | None:
    """FAISS, where it is installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss
