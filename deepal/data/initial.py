"""The first labels of a run: what is asked before there is a model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from deepal.data.pool import Pool
from deepal.task import Truth


class Initial(ABC):
    """Chooses the positions that are asked first."""

    heeds_budget: bool = True
    """Whether the budget is for it too: no more labels than that."""

    @abstractmethod
    def positions(self, pool: Pool, data: Truth, generator: torch.Generator) -> list[int]:
        """Distinct positions of the pool, in the order to ask. Raises ValueError where there are not enough."""


@dataclass(frozen=True)
class Balanced(Initial):
    """As many of each class, at random. It reads the true classes, so it belongs to simulations, and reports that use it
    say so.

    Args: per_class: how many of each.
    """

    per_class: int = 2

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"initial=Balanced(per_class={self.per_class}) must be at least 1.")

    def positions(self, pool: Pool, data: Truth, generator: torch.Generator) -> list[int]:
        if not data.classes:
            raise ValueError(
                f"initial=Balanced(per_class={self.per_class}) takes as many of each class, and the data does not say "
                f"which classes there are; give it classes=[...], or start with initial=AtRandom(size)."
            )
        left = dict.fromkeys(data.classes, self.per_class)
        chosen = []
        for row in torch.randperm(len(pool), generator=generator).tolist():
            if not any(left.values()):
                break
            name = data.true_label(pool.index[row])
            if left[name]:
                left[name] -= 1
                chosen.append(pool.index[row])
        missing = {name: self.per_class - count for name, count in left.items() if count}
        if missing:
            raise ValueError(
                f"initial=Balanced(per_class={self.per_class}) finds only these of some classes in the pool: {missing}; "
                f"lower per_class, or start with initial=AtRandom(size)."
            )
        return chosen


@dataclass(frozen=True)
class AtRandom(Initial):
    """Uniformly at random. Args: size: how many; 0 is a cold start, where the strategy asks with an untrained model."""

    size: int = 20

    def positions(self, pool: Pool, data: Truth, generator: torch.Generator) -> list[int]:
        if not 0 <= self.size <= len(pool):
            raise ValueError(f"initial=AtRandom(size={self.size}) must be from 0 to {len(pool)}, the size of the pool.")
        return [pool.index[row] for row in torch.randperm(len(pool), generator=generator)[: self.size].tolist()]


@dataclass(frozen=True)
class Given(Initial):
    """These positions of the data set, in this order."""

    at: tuple[int, ...]

    def positions(self, pool: Pool, data: Truth, generator: torch.Generator) -> list[int]:
        pool.require_free(list(self.at))
        return list(self.at)


@dataclass(frozen=True)
class Everything(Initial):
    """Every image that can be labeled, whatever the budget: what a model trained on all of them reaches is the ceiling that
    a strategy works its way up to."""

    heeds_budget = False

    def positions(self, pool: Pool, data: Truth, generator: torch.Generator) -> list[int]:
        return list(pool.index)
