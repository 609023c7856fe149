"""Strategies that change embeddings a little, and ask where predictions change with them (`functional.mixing`)."""

from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from deepal.functional import mixing, neighbors
from deepal.strategies.base import Choice, QueryStrategy, Sizes, View, one_a_sample


@dataclass(frozen=True)
class ALFAMix(QueryStrategy):
    """Rows whose prediction changes when a little of the mean of a labeled class is mixed into their embedding, as
    different from each other as they come: the medoids of k-means among them (Parvaneh et al., 2022).

    How much is mixed grows by `step`, divided by the root of the number of features, until more rows change than are
    wanted, or it is 1; what is missing then is drawn at random from the others. Published code draws that with
    replacement, and mixes all labeled rows in where a class has none; here no row is drawn twice, and such a class is left
    out.

    Args: step: above 0, up to 1.
    """

    step: float = 0.03125
    of_last_layer = True
    needs = {"pool": ("embedding", "flip_distance"), "labeled": ("embedding",)}
    keeps_prefix = False

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(f"ALFAMix(step={self.step}) must be above 0, and at most 1.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        embedding, distance = view.pool["embedding", "flip_distance"]
        points, labeled = one_a_sample(self, embedding, view.labeled["embedding"])
        candidates, mixed = torch.empty(0, dtype=torch.long), 0.0
        if len(labeled):
            reach = mixing.farthest(points, mixing.class_means(labeled, view.labeled["target"]))
            wanted = distance / reach * sqrt(points.shape[1])
            for times in range(1, ceil(1 / self.step) + 1):
                mixed = min(1.0, times * self.step)
                candidates = (wanted < mixed).nonzero().squeeze(1)
                if len(candidates) > query_size:
                    break
        rows = _different(points, candidates, query_size, generator)
        return Choice(rows, notes={"candidates": float(len(candidates)), "mixed": mixed})

    def workspace(self, sizes: Sizes) -> int:
        clustered = neighbors.workspace(sizes.pool, sizes.query_size, sizes.embedding)
        return 24 * sizes.pool + 8 * sizes.pool * sizes.embedding + clustered


@dataclass(frozen=True)
class DropQuery(QueryStrategy):
    """Rows of which most draws of dropout on features predict another class, as different from each other as they come: the
    medoids of k-means among them (Gupte et al., 2024). It is made for frozen features of a foundation model, and reads what
    `probes=[FeatureDropout()]` says.

    Where they are fewer than `factor` times the query, rows with fewer such draws are counted too, down to one; what is
    missing then is drawn at random. While nothing is labeled, all rows are clustered.

    Args: factor: see above, at least 1.
    """

    factor: float = 25
    needs = {"pool": ("embedding", "dropout_flips")}
    keeps_prefix = False

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise ValueError(f"DropQuery(factor={self.factor}) must be at least 1: fewer rows than the query cannot do.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        embedding, flips = view.pool["embedding", "dropout_flips"]
        (points,) = one_a_sample(self, embedding)
        kept = torch.ones(len(points), dtype=torch.bool)
        if len(view.labeled):
            kept = flips > 0.5
            for fewer in flips[(flips > 0) & ~kept].unique().flip(0):
                if kept.sum() >= self.factor * query_size:
                    break
                kept = flips >= fewer
        candidates = kept.nonzero().squeeze(1)
        rows = _different(points, candidates, query_size, generator)
        return Choice(rows, notes={"candidates": float(len(candidates))})

    def workspace(self, sizes: Sizes) -> int:
        clustered = neighbors.workspace(sizes.pool, sizes.query_size, sizes.embedding)
        return 24 * sizes.pool + 4 * sizes.pool * sizes.embedding + clustered


def _different(points: Tensor, candidates: Tensor, query_size: int, generator: torch.Generator) -> Tensor:
    """Rows whose embeddings point in different directions: the medoids of k-means among the candidates; or all of these,
    and others at random, where there are no more than are wanted."""
    if len(candidates) > query_size:
        directions = normalize(points[candidates].float(), dim=1)
        return candidates[neighbors.medoids(directions, *neighbors.k_means(directions, query_size, generator))]
    others = torch.ones(len(points), dtype=torch.bool).index_fill_(0, candidates, False).nonzero().squeeze(1)
    drawn = torch.randperm(len(others), generator=generator)[: query_size - len(candidates)]
    return torch.cat([candidates, others[drawn]])
