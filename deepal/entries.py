"""What is written into a ledger (`deepal.ledger`), and what its parts are called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

INITIAL = -1
"""The cycle of the first labels, which no model asked for."""
OF_LABELS, OF_VALIDATION, OF_POOL = "labels/", "val/", "pool/"
"""What names of metrics begin with that are no test's: of what a model was trained on, of the validation set, and of what
can be asked."""
WRONG, PSEUDO, PSEUDO_ACCURACY = f"{OF_LABELS}wrong", f"{OF_LABELS}pseudo", f"{OF_LABELS}pseudo_accuracy"
"""The share of labels that is wrong, where a simulation knows; how many pseudo-labels there were, and which share of these
is right, of those whose truth is in the data."""
PSEUDO_LABELS, COMPARED = "pseudo_labels", "compared"
"""What predictions are for."""


def is_of_test(metric: str) -> bool:
    """Whether a metric is one that a test has measured."""
    return not metric.startswith((OF_LABELS, OF_VALIDATION, OF_POOL))


class Predictions(NamedTuple):
    """What a model takes some images for.

    Args: positions: in the data set, ascending; classes: the number of the class of each.
    """

    positions: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Query:
    """Positions to ask, in order.

    Args:
        positions: in the data set.
        items: what people call each; its position where it has no name.
        scores: of each, where the strategy has one.
        predicted: what the model took each for, where it could say.
        aleatoric, epistemic: expected entropy and mutual information of each, in nats, where the model has a posterior.
        notes: what the strategy has to say of the query, by name.
        artifacts: the hash of what the strategy has computed for this and all later queries, where it has.
        predictions: of the model that chose, by what they are for: `pseudo_labels` train the next model besides labels, and
            stopping rules compare the next one with theirs.
    """

    positions: tuple[int, ...] = ()
    items: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    predicted: tuple[str | None, ...] | None = None
    aleatoric: tuple[float, ...] | None = None
    epistemic: tuple[float, ...] | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    artifacts: str | None = None
    predictions: Mapping[str, Predictions] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a cycle measured.

    Args:
        cycle: its number, from 0.
        labels: that the model was trained on, of
        asked: positions that were asked (some gave no label), beside
        validation: labels of the validation set.
        metrics: by name.
        seconds: by phase, of the process that ended the phase; `cpu` is what that process computed in all of them.
        answers: a hash of the labels that the model was trained on.
        memory: most bytes held in the cycle, by `process` and, where there is a GPU, `device`.
    """

    cycle: int
    labels: int
    asked: int
    validation: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    answers: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_tested(self) -> bool:
        """Whether the model of this cycle was tested."""
        return any(is_of_test(name) for name in self.metrics)


class Forgetting(NamedTuple):
    """How a labeled image fared while the model of a cycle was trained.

    Args:
        position: in the data set.
        events: how often it was wrong after it had been right; as often as it was shown, where it never was right.
        shown: how often it was in a batch.
        learned: whether it was right at any time.
    """

    position: int
    events: int
    shown: int
    learned: bool
