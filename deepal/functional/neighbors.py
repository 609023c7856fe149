"""Nearest neighbors, balls and k-means. N rows, D features. The one file that knows FAISS.

Neighbors are found by FAISS on a CPU, exactly or nearly (`Index`), and by products of torch on other devices or without
FAISS: the same, but for what is as near as single precision can tell. How far they are is computed here. Balls and
k-means come from products of torch, of which the error is known (`benchmarks/README.md` has what takes how long).
"""

from collections.abc import Callable
from math import isqrt
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from deepal.functional import coverage
from deepal.functional.geometry import ROWS, Block, Points, full_precision, in_cache, working

Index = Literal["flat", "ivf", "hnsw"]
"""How neighbors are searched for: `flat` is exact. `ivf` looks into the sixteen nearest of some square root of M cells, and
`hnsw` walks a graph of 32 links a row; of 20 neighbors among the features of 50,000 images of MNIST (D = 128) they find
99.7 % and 99.99 %."""


@full_precision()
def nearest(queries: Tensor, references: Tensor, k: int = 1, index: Index = "flat") -> tuple[Tensor, Tensor]:
    """The k nearest of `references` (M, D) for each of `queries` (N, D), under the Euclidean distance.

    Which they are is found by products in single precision, from the mean of the references; how far they are, from
    differences, so that no digits are lost. What is as near as single precision can tell may change places.

    Returns squared distances (N, k), ascending, and their rows (N, k). Raises ValueError where k > M or a value is not
    finite (FAISS would answer -1 silently), for an index of another name, and where an approximate one finds less than k.

    >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0]]))[1]
    tensor([[1]])
    """
    if not 1 <= k <= len(references):
        raise ValueError(f"k={k} neighbors were asked for, and there are {len(references)} references.")
    if not (_is_finite(queries) and _is_finite(references)):
        raise ValueError("nearest neighbors need finite features, and some are NaN or infinite.")
    if index not in get_args(Index):
        raise ValueError(f"index={index!r} must be one of {', '.join(get_args(Index))}.")
    geometry = Points(references)
    search = _exactly(geometry, k) if index == "flat" else _approximately(geometry, k, index)
    parts = []
    for some in queries.split(_QUERIES):
        rows = search(geometry.beside(some).block(slice(None)))
        order = _apart(some, references, rows).sort(dim=1, stable=True)
        parts.append((order.values, rows.gather(1, order.indices)))
    if not parts:
        return references.new_zeros(0, k, dtype=torch.float32), torch.zeros(0, k, dtype=torch.long)
    return torch.cat([dist2 for dist2, _ in parts]), torch.cat([rows for _, rows in parts])


def k_nearest(points: Tensor, k: int, index: Index = "flat") -> tuple[Tensor, Tensor]:
    """The k rows of `points` (N, D) nearest to each of them, itself left out.

    Returns squared distances (N, k), ascending, and their rows (N, k). Raises ValueError where k >= N.
    """
    if not 1 <= k < len(points):
        raise ValueError(f"k={k} neighbors were asked for, and each of {len(points)} rows has {len(points) - 1}.")
    dist2, rows = nearest(points, points, k + 1, index)
    own = rows == torch.arange(len(points), device=rows.device).unsqueeze(1)
    own[:, -1] |= ~own.any(1)  # among many copies of it, a row may not have found itself
    return dist2[~own].view(-1, k), rows[~own].view(-1, k)


class Balls(NamedTuple):
    """Which rows lie within a radius of each other; each row lies within its own ball. Those of row i are
    `members[starts[i] : starts[i + 1]]`, ascending.

    Args: starts: (N + 1,); members: (E,), int32.
    """

    starts: Tensor
    members: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """The members of some balls, one ball after another."""
        sizes = self.starts[rows + 1] - self.starts[rows]
        begins = torch.repeat_interleave(self.starts[rows] - sizes.cumsum(0) + sizes, sizes)
        return self.members[begins + torch.arange(len(begins), device=begins.device)].long()


@full_precision()
def balls(points: Tensor, radius: float) -> Balls:
    """The balls of a radius, exactly: a row is within where its distance is less than the radius, as differences in double
    precision say. It takes 4 bytes a pair of rows that are within, and no more than a block of rows besides. Raises
    ValueError where a value is not finite."""
    if not _is_finite(points):
        raise ValueError("balls need finite features, and some are NaN or infinite.")
    geometry = Points(points)
    every, limit = geometry.block(slice(None)), radius**2
    half, sizes, members = every.norm2 / -2, [], []
    for rows in torch.arange(len(points), device=points.device).split(_together(len(points))):
        block = geometry.block(rows)
        error = block.slack_within(torch.full_like(block.norm2, limit / geometry.unit))
        least, most = ((block.norm2 - limit / geometry.unit + each) / 2 for each in (-error, error))
        nearness = torch.addmm(half, block.factors[0], every.factors[0].T)  # |a|^2 less twice this is the squared distance
        row, column = (nearness > least.unsqueeze(1)).nonzero().unbind(1)
        within = nearness[row, column] > most[row]
        for some in (~within).nonzero().squeeze(1).split(ROWS):
            within[some] = geometry.dist2(geometry.wide(rows[row[some]]), geometry.wide(column[some])) < limit
        within |= rows[row] == column
        sizes.append(torch.bincount(row[within], minlength=len(rows)))
        members.append(column[within].int())
    starts = torch.nn.functional.pad(torch.cat(sizes).cumsum(0), (1, 0))
    return Balls(starts, torch.cat(members))


@full_precision()
def k_means(
    points: Tensor, k: int, generator: torch.Generator, weights: Tensor | None = None, iterations: int = 25
) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means from a k-means++ seeding  (Lloyd, 1982; Arthur & Vassilvitskii, 2007).

    An empty cluster keeps its centroid, so with fewer distinct points than k some clusters stay empty. Ends where no
    assignment changes, or after `iterations`.

    Args:
        points: (N, D), N >= k.
        weights: (N,), not negative: how much a row counts for its centroid; as much as any other by default. Seeds are
            drawn as if all counted as much.
    Returns centroids (k, D) and the cluster of each point (N,).
    """
    geometry = Points(points)
    centroids = points[coverage.d2_sampling(geometry, k, generator, first="uniform")].to(working(points))
    clusters, assignment = _Clusters(points, k, weights), _assigned(geometry, centroids)
    for _ in range(iterations):
        clusters.become(assignment)
        centroids = clusters.means(centroids)
        previous, assignment = assignment, _assigned(geometry, centroids)
        if torch.equal(previous, assignment):
            break
    return centroids, assignment


class _Clusters:
    """Sums of the rows of each cluster in double precision: where all count as much, only what has moved is added up anew.

    Args: points: (N, D); k: clusters; weights: (N,), or None for rows that all count as much.
    """

    def __init__(self, points: Tensor, k: int, weights: Tensor | None) -> None:
        self.points, self.weights = points, weights
        self.sums = torch.zeros(k, points.shape[1], dtype=torch.float64, device=points.device)
        self.mass = self.sums.new_zeros(k)
        self._of: Tensor | None = None  # the cluster of each row

    def become(self, of: Tensor) -> None:
        """Let rows be of these clusters (N,)."""
        before, self._of = self._of, of
        if before is not None and self.weights is None:
            moved = (of != before).nonzero().squeeze(1)
            if len(moved) <= len(of) / 2:
                self._add(moved, before, -1)
                self._add(moved, of, 1)
                return
        self.sums.zero_()
        self.mass.zero_()
        self._add(torch.arange(len(of), device=of.device), of, 1)

    def means(self, before: Tensor) -> Tensor:
        """The mean of each cluster; where it is empty, or weighs nothing, what it was before, (k, D)."""
        means = (self.sums / self.mass.where(self.mass > 0, 1).unsqueeze(1)).to(before.dtype)
        return torch.where((self.mass > 0).unsqueeze(1), means, before)

    def _add(self, rows: Tensor, of: Tensor, sign: int) -> None:
        for some in rows.split(in_cache(self.points.shape[1])):
            points, mass = self.points[some].double(), self.mass.new_ones(len(some))
            if self.weights is not None:
                mass = self.weights[some].double()
                points *= mass.unsqueeze(1)
            self.sums.index_add_(0, of[some], points, alpha=sign)
            self.mass.index_add_(0, of[some], mass, alpha=sign)


def workspace(rows: int, clusters: int, width: int) -> int:
    """Bytes that k-means and its medoids hold at most. Args: rows: N; clusters: k; width: D."""
    return 72 * rows + 4 * ROWS * clusters + 21 * clusters * width


def workspace_of_balls(rows: int) -> int:
    """Bytes that `balls` hold at most, but for their members. Args: rows: N."""
    return 8 * _together(rows) * rows


def pure_radius(points: Tensor, classes: int, purity: float, generator: torch.Generator) -> float:
    """The largest radius at which this share of all balls holds rows of one class only, with the clusters of k-means for
    classes: the rule of ProbCover  (Yehuda et al., 2022). A ball is pure up to the nearest row of another cluster, so that
    the radius is a quantile of these distances.

    Args: points (N, D); classes: clusters to make; purity: above 0, up to 1. Returns a radius; infinity for one cluster.
    """
    _, cluster = k_means(points, min(classes, len(points)), generator)
    pure_until = torch.full((len(points),), torch.inf, device=points.device)
    for each in cluster.unique():
        own = cluster == each
        if not own.all():
            pure_until[own] = nearest(points[own], points[~own])[0].squeeze(1).sqrt()
    impure = int((1 - purity) * len(points) + 1e-9)
    return float(pure_until.sort().values[min(impure, len(points) - 1)])


def means(points: Tensor, assignment: Tensor) -> Tensor:
    """The centroids (k, D) of clusters, none of which is empty. Args: points: (N, D); assignment: (N,), from 0 to k - 1."""
    clusters = _Clusters(points, int(assignment.max()) + 1, None)
    clusters.become(assignment)
    return clusters.means(points.new_zeros(clusters.sums.shape, dtype=working(points)))


def medoids(points: Tensor, centroids: Tensor, assignment: Tensor) -> Tensor:
    """The row of each cluster that is nearest to its centroid, the largest cluster first; distances by direct
    differences, the lowest row on a tie. Empty clusters are made up for by the rows farthest from the centroids.

    Args: points (N, D), centroids (k, D), assignment (N,). Returns k distinct rows.
    """
    rows = in_cache(points.shape[1])
    blocks = zip(points.split(rows), assignment.split(rows), strict=True)
    dist2 = torch.cat([(some.double() - centroids[of]).square().sum(1) for some, of in blocks])
    nearest_first = dist2.sort(stable=True).indices
    by_cluster = nearest_first[assignment[nearest_first].sort(stable=True).indices]
    clusters = assignment[by_cluster]
    leads = torch.ones_like(clusters, dtype=torch.bool)
    leads[1:] = clusters[1:] != clusters[:-1]
    sizes = torch.bincount(assignment)[clusters[leads]]
    chosen = by_cluster[leads][sizes.sort(descending=True, stable=True).indices]
    farthest_first = dist2.sort(descending=True, stable=True).indices
    left_over = farthest_first[~torch.isin(farthest_first, chosen)]
    return torch.cat([chosen, left_over[: len(centroids) - len(chosen)]])


_QUERIES = 16384  # at a time
_CELLS, _LINKS, _BREADTH = 16, 32, 64  # cells that are looked into; links a row, and rows kept in sight, of a graph


def _is_finite(points: Tensor) -> bool:
    """By the ends of some rows at a time, which are NaN where any is."""
    blocks = (some for some in points.split(in_cache(points.shape[1])) if some.numel())
    return all(bool(torch.stack(some.aminmax()).isfinite().all()) for some in blocks)


def _apart(queries: Tensor, references: Tensor, rows: Tensor) -> Tensor:
    """Squared distances (N, k) of each query to these of the references, by differences."""
    dist2 = torch.empty(rows.shape, device=rows.device)
    size = in_cache(queries.shape[1])
    for some, own, of in zip(dist2.split(size), queries.split(size), rows.split(size), strict=True):
        for each in range(rows.shape[1]):
            other = references[of[:, each]]
            apart = own.to(working(own)) - other.to(working(own))
            some[:, each] = apart.float().square_().sum(1)
    return dist2


def _together(rows: int) -> int:
    """How many are compared with so many rows at a time."""
    return min(256, max(8, 2**24 // max(1, rows)))


def _exactly(references: Points, k: int) -> Callable[[Block], Tensor]:
    """A search among all references: FAISS's on a CPU, products of torch elsewhere, or where it is not installed."""
    every, faiss = references.block(slice(None)), _faiss()
    if faiss is not None and references.device.type == "cpu":
        features = every.factors[0].numpy()
        faiss.omp_set_num_threads(torch.get_num_threads())
        return lambda queries: torch.from_numpy(faiss.knn(queries.factors[0].numpy(), features, k)[1])
    half = every.norm2 / 2

    def search(queries: Block) -> Tensor:
        parts = queries.factors[0].split(_together(len(every)))
        apart = (torch.addmm(half, some, every.factors[0].T, alpha=-1) for some in parts)  # |b|^2 / 2 - a.b
        return torch.cat([each.topk(k, largest=False).indices for each in apart])

    return search


def _approximately(references: Points, k: int, kind: Index) -> Callable[[Block], Tensor]:
    """A search by an index of FAISS."""
    faiss = _faiss()
    if faiss is None:
        raise ValueError(f"index='{kind}' is one of FAISS, which is not installed: pip install faiss-cpu, or index='flat'.")
    faiss.omp_set_num_threads(torch.get_num_threads())
    width, features = references.width, references.block(slice(None)).factors[0].numpy(force=True)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _LINKS)
        index.hnsw.efSearch = max(_BREADTH, 2 * k)
    else:
        cells = max(1, isqrt(len(references)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, cells)
        index.cp.niter, index.cp.min_points_per_centroid = 10, 1
        index.train(features)
        index.nprobe = _CELLS
    index.add(features)

    def search(queries: Block) -> Tensor:
        rows = torch.from_numpy(index.search(queries.factors[0].numpy(force=True), k)[1])
        if (rows < 0).any():
            raise ValueError(f"index='{kind}' found less than k={k} neighbors of some rows; take index='flat'.")
        return rows.to(references.device)

    return search


def _assigned(geometry: Points, centroids: Tensor) -> Tensor:
    """The centroid nearest to each point, the lowest on a tie."""
    centers = geometry.beside(centroids).block(slice(None))
    half = centers.norm2 / 2
    return torch.cat(
        [
            torch.addmm(half, block.factors[0], centers.factors[0].T, alpha=-1).min(1).indices
            for _, block in geometry.blocks()
        ]
    )  # which takes a third of the time of argmin


def _faiss() -> ModuleType | None:
    """FAISS, where it is installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss
