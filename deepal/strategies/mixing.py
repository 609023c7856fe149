"""Strategies that mix embeddings with those of labeled rows (`functional.mixing`)."""

from dataclasses import dataclass
from math import ceil, sqrt

import torch
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
        if len(candidates) > query_size:
            directions = normalize(points[candidates].float(), dim=1)
            rows = candidates[neighbors.medoids(directions, *neighbors.k_means(directions, query_size, generator))]
        else:
            others = torch.ones(len(points), dtype=torch.bool).index_fill_(0, candidates, False).nonzero().squeeze(1)
            drawn = torch.randperm(len(others), generator=generator)[: query_size - len(candidates)]
            rows = torch.cat([candidates, others[drawn]])
        return Choice(rows, notes={"candidates": float(len(candidates)), "mixed": mixed})

    def workspace(self, sizes: Sizes) -> int:
        clustered = neighbors.workspace(sizes.pool, sizes.query_size, sizes.embedding)
        return 24 * sizes.pool + 8 * sizes.pool * sizes.embedding + clustered
