"""Strategies that find clusters first, and ask about each (`functional.neighbors`, `functional.typicality`)."""

from dataclasses import dataclass, field

import torch

from deepal.functional import neighbors, typicality
from deepal.functional.geometry import directions
from deepal.strategies.base import Choice, Needs, QueryStrategy, Scoring, View, one_a_sample, top_k
from deepal.strategies.uncertainty import Margin


@dataclass(frozen=True)
class TypiClust(QueryStrategy):
    """As many clusters as there will be labels, and of each that has none yet, the largest first, the most typical row:
    for budgets of a few labels a class (Hacohen et al., 2022). It wants features that were learned without labels.

    Features are taken as directions from the mean. Labeled rows are clustered with the others; clusters of `min_size` rows
    or fewer are asked last. Published code averages squared distances to the neighbors; here it is the distances, as in
    the paper.

    Args: max_clusters: more are never made; min_size: see above; neighbors: of a row, by which it is typical.
    """

    max_clusters: int = 500
    min_size: int = 5
    neighbors: int = 20
    needs = {"pool": ("embedding",), "labeled": ("embedding",)}
    keeps_prefix = False

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = directions(*one_a_sample(self, view.pool["embedding"], view.labeled["embedding"]))
        count = min(len(labeled) + query_size, self.max_clusters, len(labeled) + len(points))
        _, cluster = neighbors.k_means(torch.cat([labeled, points]), count, generator)
        known, cluster = cluster[: len(labeled)], cluster[len(labeled) :]
        return Choice(typicality.in_turn(points, cluster, known, query_size, self.min_size, self.neighbors))


@dataclass(frozen=True)
class WeightedKMeans(QueryStrategy):
    """k-means over the most uncertain rows, in which a row counts by its uncertainty, and of each cluster the row nearest
    to its centroid (Zhdanov, 2019).

    Args: by: says how uncertain a row is, in scores that are not negative; factor: of the query size is the number of
        rows that are clustered.
    """

    by: Scoring = field(default_factory=Margin)
    factor: float = 10
    keeps_prefix = False

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise ValueError(
                f"WeightedKMeans(factor={self.factor}) must be at least 1: fewer rows than the query cannot do."
            )

    @property
    def needs(self) -> Needs:  # type: ignore[override]  # of `by`, and embeddings
        names = dict.fromkeys((*self.by.needs.get("pool", ()), "embedding"))
        return {**self.by.needs, "pool": tuple(names)}

    @property
    def joint(self) -> bool:  # type: ignore[override]
        return self.by.joint

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        scores = self.by.scores(view, generator)
        if len(scores) and scores.min() < 0:
            raise ValueError(f"{self!r} weighs rows by scores, and some are negative.")
        kept = top_k(scores, round(self.factor * query_size), generator, by=repr(self)).sort().values
        (points,) = one_a_sample(self, view.pool.take(kept)["embedding"])
        centroids, cluster = neighbors.k_means(points, min(query_size, len(kept)), generator, scores[kept])
        return Choice(kept[neighbors.medoids(points, centroids, cluster)])
