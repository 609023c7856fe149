"""Strategies that find clusters first, and ask about each (`functional.neighbors`, `functional.typicality`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from deepal.functional import linkage, neighbors, turns, typicality, uncertainty
from deepal.functional.geometry import directions
from deepal.strategies.base import (
    Choice,
    Composed,
    Needs,
    QueryStrategy,
    Scoring,
    Sizes,
    View,
    one_a_sample,
    together,
    top_k,
)
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

    def __post_init__(self) -> None:
        if self.max_clusters < 1 or self.min_size < 0 or self.neighbors < 1:
            raise ValueError(f"{self!r} needs max_clusters and neighbors of at least 1, and a min_size of at least 0.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        points, labeled = directions(*one_a_sample(self, view.pool["embedding"], view.labeled["embedding"]))
        count = min(len(labeled) + query_size, self.max_clusters, len(labeled) + len(points))
        _, cluster = neighbors.k_means(torch.cat([labeled, points]), count, generator)
        known, cluster = cluster[: len(labeled)], cluster[len(labeled) :]
        return Choice(typicality.in_turn(points, cluster, known, query_size, self.min_size, self.neighbors))

    def workspace(self, sizes: Sizes) -> int:
        rows, clusters = sizes.pool + sizes.labeled, min(sizes.labeled + sizes.query_size, self.max_clusters)
        return 8 * rows * sizes.embedding + neighbors.workspace(
            rows, clusters, sizes.embedding
        )  # directions, of both sets and together


@dataclass(frozen=True)
class Typicality(Scoring):
    """Rows in the midst of many like them, by the mean distance to the nearest others of the pool (Hacohen et al., 2022).
    Alone it asks for the same again and again; in a `Mixture` it keeps an uncertain row from being an outlier.

    Args: neighbors: how many.
    """

    neighbors: int = 20
    needs = {"pool": ("embedding",)}

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise ValueError(f"Typicality(neighbors={self.neighbors}) must be at least 1.")

    def scores(self, view: View, generator: torch.Generator) -> Tensor:
        (points,) = directions(*one_a_sample(self, view.pool["embedding"]))
        return typicality.typicality(points, self.neighbors)

    def workspace(self, sizes: Sizes) -> int:
        return 4 * sizes.pool * sizes.embedding + 48 * sizes.pool * self.neighbors


@dataclass(frozen=True)
class WeightedKMeans(Composed):
    """k-means over the most uncertain rows, in which a row counts by its uncertainty, and of each cluster the row nearest
    to its centroid (Zhdanov, 2019).

    Args: by: says how uncertain a row is, in scores that are not negative; factor: of the query size is the number of
        rows that are clustered.
    """

    by: Scoring = field(default_factory=Margin)
    factor: float = 10
    keeps_prefix = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.by, Scoring):
            raise ValueError(
                f"WeightedKMeans(by={self.by!r}) weighs rows by scores, which this does not give; Margin() does."
            )
        if not 1 <= self.factor < inf:
            raise ValueError(
                f"WeightedKMeans(factor={self.factor}) must be a number, 1 at least: fewer rows than the query cannot do."
            )

    @property
    def parts(self) -> tuple[QueryStrategy, ...]:
        return (self.by,)

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return together(self.by.needs, {"pool": ("embedding",)})

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        scores = self.by.scores(view, generator)
        if len(scores) and scores.min() < 0:
            raise ValueError(f"{self!r} weighs rows by scores, and some are negative.")
        kept = top_k(scores, round(self.factor * query_size), generator, by=repr(self)).sort().values
        (points,) = one_a_sample(self, view.pool.take(kept)["embedding"])
        centroids, cluster = neighbors.k_means(points, min(query_size, len(kept)), generator, scores[kept])
        return Choice(kept[neighbors.medoids(points, centroids, cluster)])

    def workspace(self, sizes: Sizes) -> int:
        kept = min(round(self.factor * sizes.query_size), sizes.pool)
        clustered = 4 * kept * sizes.embedding + neighbors.workspace(kept, sizes.query_size, sizes.embedding)
        return max(self.by.workspace(sizes), 4 * sizes.pool + clustered)


@dataclass(frozen=True)
class ClusterMargin(QueryStrategy):
    """The rows of least margin, but not many of a kind: of those on a short list the clusters take turns, the smallest
    first, each with a row drawn at random (Citovsky et al., 2021).

    Clusters are found once in a run, by average linkage over the embeddings of the first cycle. The authors merge up to a
    distance that they choose for each data set; here it is down to a number of clusters. Rows that come to the pool later
    are clusters of their own.

    Args:
        clusters: how many; as many as there are rows in the first query by default.
        factor: of the query size is the length of the short list.
        sample: where the pool is larger, so many of its rows, drawn at random, are clustered (16 s for 20,000 of 784
            features), and the others join the cluster whose centroid is nearest.
    """

    clusters: int | None = None
    factor: float = 10
    sample: int = 20_000
    needs = {"pool": ("probs", "embedding")}
    keeps_prefix = False
    artifacts = ("cluster",)

    def __post_init__(self) -> None:
        if not self.factor >= 1 or self.sample < 1 or (self.clusters is not None and self.clusters < 1):
            raise ValueError(f"{self!r} needs a factor, a sample and clusters of at least 1.")

    def once(self, view: View, query_size: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        (points,) = one_a_sample(self, view.pool["embedding"])
        some = torch.randperm(len(points), generator=generator)[: self.sample].sort().values
        cluster = linkage.average_linkage(points[some], self.clusters or query_size)
        if len(some) == len(points):
            return {"cluster": cluster}
        nearest = neighbors.nearest(points, neighbors.means(points[some], cluster))[1].squeeze(1)
        return {"cluster": nearest.index_copy_(0, some, cluster)}

    def workspace(self, sizes: Sizes) -> int:
        sample = min(self.sample, sizes.pool)
        return max(48 * sizes.pool, 24 * sizes.pool + linkage.workspace(sample, sizes.embedding))

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        doubt = view.pool.map(lambda signals: uncertainty.margin(signals["probs"]), ("probs",))
        kept = top_k(doubt, round(self.factor * query_size), generator, by=repr(self))
        cluster = view.pool["cluster"][kept]
        alone = cluster == -1
        cluster[alone] = -1 - torch.arange(int(alone.sum()))
        rows = kept[turns.smallest_first(cluster, doubt[kept], generator)[:query_size]]
        return Choice(rows, doubt[rows])
