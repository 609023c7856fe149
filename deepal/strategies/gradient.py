"""Strategies over gradients of the last layer, in factored form (`functional.gradients`)."""

from dataclasses import dataclass

import torch

from deepal.functional import coverage
from deepal.functional.geometry import FactoredGradients
from deepal.strategies.base import Choice, QueryStrategy, View, one_a_sample


@dataclass(frozen=True)
class BADGE(QueryStrategy):
    """k-means++ over the gradients that the predicted labels would give: uncertain rows are long, similar rows are close
    (Ash et al., 2020).

    Args: first: how the first row is found: of largest gradient (the authors' code), uniformly, or by its squared norm.
    """

    first: coverage.First = "max_norm"
    needs = {"pool": ("logit_gradient", "embedding")}

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        geometry = FactoredGradients(*one_a_sample(self, *view.pool["logit_gradient", "embedding"]))
        return Choice(coverage.d2_sampling(geometry, query_size, generator, self.first))
