"""Oracles that play people: they answer at once, from the data set's own classes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepal import seeds
from deepal.oracles.base import Answer, Oracle, Question, unanswered
from deepal.task import Catalog


@dataclass(frozen=True)
class DatasetOracle(Oracle):
    """Answers at once with the data set's own classes."""

    def answer(self, questions: Sequence[Question], data: Catalog, folder: Path, seed: int) -> list[Answer]:
        return [Answer(each.position, data.true_label(each.position)) for each in unanswered(questions)]


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

    def answer(self, questions: Sequence[Question], data: Catalog, folder: Path, seed: int) -> list[Answer]:
        return [self._answer(each.position, data, seed) for each in unanswered(questions)]

    def _answer(self, position: int, data: Catalog, seed: int) -> Answer:
        coin = random.Random(seeds.derive(seed, "noise", position))
        true = data.true_label(position)
        wrong = coin.random() < self.rate
        label = coin.choice([name for name in data.classes if name != true]) if wrong else true
        return Answer(position, label, annotator="noisy", wrong=wrong)
