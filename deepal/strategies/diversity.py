"""Strategies that spread a query over the embedding space (`functional.coverage`, `functional.neighbors`)."""

from dataclasses import dataclass

import torch

from deepal.functional import coverage, neighbors
from deepal.strategies.base import Choice, QueryStrategy, View, one_a_sample


@dataclass(frozen=True)
class CoreSet(QueryStrategy):
    """Greedy k-center over embeddings, the labeled set included (Sener & Savarese, 2018)."""

    needs = {"pool": ("embedding",), "labeled": ("embedding",)}

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = one_a_sample(self, view.pool["embedding"], view.labeled["embedding"])
        return Choice(coverage.k_center(points, labeled, query_size))


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
