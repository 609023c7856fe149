"""Who answers: from the data set (a simulation, with or without noise), or people."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deepal import seeds
from deepal.task import Truth

Status = Literal["labeled", "abstained", "invalid"]


@dataclass(frozen=True)
class Answer:
    """What an oracle says of one position.

    Args:
        position: in the data set.
        label: the name of the class; None where there is none to give.
        status: labeled, abstained (not asked again), or invalid (the image cannot be used).
        annotator: who said so.
        seconds: how long it took, where that is known.
        wrong: whether the label is known to be wrong, which only a simulation can say.
    """

    position: int
    label: str | None
    status: Status = "labeled"
    annotator: str = "dataset"
    seconds: float | None = None
    wrong: bool | None = None


class Oracle(ABC):
    """Answers queries. The learner does not know whether today or in a week: positions without an answer stay open."""

    @abstractmethod
    def answer(self, positions: Sequence[int], data: Truth, seed: int) -> list[Answer]:
        """Answers to as many of `positions` as there are answers for; every coin comes from `seed` and the position."""


@dataclass(frozen=True)
class DatasetOracle(Oracle):
    """Answers at once with the data set's own classes."""

    def answer(self, positions: Sequence[int], data: Truth, seed: int) -> list[Answer]:
        return [Answer(position, data.true_label(position)) for position in positions]


@dataclass(frozen=True)
class NoisyOracle(Oracle):
    """Answers a wrong class, uniformly among the others, with this probability: a careless annotator.

    A position gets the same answer whenever it is asked. The rate as it came out is recorded with each cycle's metrics
    (`labels/wrong`). Args: rate: within [0, 1].
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"NoisyOracle(rate={self.rate}) must be within 0 and 1.")

    def answer(self, positions: Sequence[int], data: Truth, seed: int) -> list[Answer]:
        return [self._answer(position, data, seed) for position in positions]

    def _answer(self, position: int, data: Truth, seed: int) -> Answer:
        coin = random.Random(seeds.derive(seed, "noise", position))
        true = data.true_label(position)
        wrong = coin.random() < self.rate
        label = coin.choice([name for name in data.classes if name != true]) if wrong else true
        return Answer(position, label, annotator="noisy", wrong=wrong)
