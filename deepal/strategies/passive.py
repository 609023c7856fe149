"""Passive learning: the baseline that every active strategy has to beat."""

from dataclasses import dataclass

import torch

from deepal.strategies.base import Choice, QueryStrategy, View


@dataclass(frozen=True)
class Random(QueryStrategy):
    """Uniformly at random, without replacement. Reads nothing, so the pool is not scanned."""

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        return Choice(torch.randperm(len(view.pool), generator=generator)[:query_size])
