"""Strategies that spread a query over the embedding space (`functional.coverage`, `functional.neighbors`)."""

from dataclasses import dataclass
from math import ceil

import torch

from deepal.functional import coverage, neighbors, robust
from deepal.strategies.base import Choice, QueryStrategy, Sizes, View, one_a_sample


@dataclass(frozen=True)
class CoreSet(QueryStrategy):
    """Greedy k-center over embeddings, the labeled set included (Sener & Savarese, 2018)."""

    needs = {"pool": ("embedding",), "labeled": ("embedding",)}

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = one_a_sample(self, view.pool["embedding"], view.labeled["embedding"])
        return Choice(coverage.k_center(points, labeled, query_size))

    def workspace(self, sizes: Sizes) -> int:
        return coverage.workspace(sizes.pool, sizes.labeled + sizes.query_size, sizes.embedding)


@dataclass(frozen=True)
class RobustCoreSet(QueryStrategy):
    """k-center that leaves out the farthest images, which may be outliers: to the optimum in small pools, farthest first
    but for them in large ones (Sener & Savarese, 2018).

    Args:
        outliers: the share of the pool that may be left out, from 0 to less than 1, one image at least where it is not 0.
        exact_up_to: so many images of a pool are searched for the optimum, by mixed-integer programming (some
            seconds for 300).
    """

    outliers: float = 1e-4
    exact_up_to: int = 300
    needs = {"pool": ("embedding",), "labeled": ("embedding",)}
    keeps_prefix = False

    def __post_init__(self) -> None:
        if not 0 <= self.outliers < 1 or self.exact_up_to < 0:
            raise ValueError(f"{self!r} needs outliers as a share, from 0 to less than 1, and exact_up_to of at least 0.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = one_a_sample(self, view.pool["embedding"], view.labeled["embedding"])
        outliers = ceil(self.outliers * len(points))
        if query_size < len(points) <= self.exact_up_to:
            rows, radius, proven = robust.k_center(points, labeled, query_size, outliers)
            return Choice(rows, notes={"radius": radius, "proven": float(proven)})
        return Choice(coverage.k_center(points, labeled, query_size, ignore=outliers))

    def workspace(self, sizes: Sizes) -> int:
        searched = robust.workspace(sizes.pool) if sizes.query_size < sizes.pool <= self.exact_up_to else 0
        return searched + coverage.workspace(sizes.pool, sizes.labeled + sizes.query_size, sizes.embedding)


@dataclass(frozen=True)
class KMeans(QueryStrategy):
    """k-means over embeddings with a cluster a label, and of each cluster the row nearest to its centroid; the largest
    cluster is asked first (a baseline that equals far newer methods at low budgets)."""

    needs = {"pool": ("embedding",)}
    keeps_prefix = False

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        (points,) = one_a_sample(self, view.pool["embedding"])
        centroids, cluster = neighbors.k_means(points, query_size, generator)
        return Choice(neighbors.medoids(points, centroids, cluster))

    def workspace(self, sizes: Sizes) -> int:
        return neighbors.workspace(sizes.pool, sizes.query_size, sizes.embedding)
