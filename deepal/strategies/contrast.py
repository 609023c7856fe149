"""Strategies that compare a prediction with those of labeled neighbors (`functional.divergence`)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from deepal.functional import divergence, neighbors
from deepal.strategies.base import Scoring, Sizes, View, one_a_sample


@dataclass(frozen=True)
class CAL(Scoring):
    """Contrastive examples: rows of which something else is predicted than of the labeled rows that are nearest to them, by
    the mean divergence (Margatina et al., 2021; for texts there, adapted to images here).

    Neighbors are found among labeled rows alone, in embeddings of length one. While nothing is labeled, chance chooses.

    Args: neighbors: k, how many; all labeled rows while there are no more.
    """

    neighbors: int = 10
    needs = {"pool": ("embedding", "probs"), "labeled": ("embedding", "probs")}

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise ValueError(f"CAL(neighbors={self.neighbors}) must be at least 1.")

    def scores(self, view: View, generator: torch.Generator) -> Tensor:
        if not len(view.labeled):
            return torch.zeros(len(view.pool))
        labeled, predicted = one_a_sample(self, *view.labeled["embedding", "probs"])
        labeled = normalize(labeled.float(), dim=1)

        def differing(signals: Mapping[str, Tensor]) -> Tensor:
            embedding, probs = one_a_sample(self, signals["embedding"], signals["probs"])
            references, known = (each.to(probs.device) for each in (labeled, predicted))
            points = normalize(embedding.float(), dim=1)
            nearest = neighbors.nearest(points, references, min(self.neighbors, len(references)))[1]
            return divergence.mean_divergence(probs, known, nearest)

        return view.pool.map(differing, self.needs["pool"])

    def workspace(self, sizes: Sizes) -> int:
        return 40 * sizes.pool + 4 * sizes.labeled * sizes.embedding + divergence.workspace(sizes.embedding)
