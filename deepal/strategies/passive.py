"""Passive learning: the baseline that every active strategy has to beat."""

from dataclasses import dataclass

import torch

from deepal.strategies.base import Choice, QueryStrategy, View


@dataclass(frozen=True)
class Random(QueryStrategy):
    """Uniformly at random, without replacement. Reads nothing, so the pool is not scanned.

    Args: replica: another number is another draw from the same seed. Two of them beside each other show what a comparison
        calls a difference where there is none.
    """

    replica: int = 0

    def __post_init__(self) -> None:
        if self.replica < 0:
            raise ValueError(f"Random(replica={self.replica}) must be 0 or more.")

    def select(self, view: View, query_size: int, generator: torch.Generator) -> Choice:
        for _ in range(self.replica + 1):
            rows = torch.randperm(len(view.pool), generator=generator)
        return Choice(rows[:query_size])
