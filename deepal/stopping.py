"""When a run ends before its budget: rules that read what was measured on validation images and on the pool, never on test
images, and decide by the ledger alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deepal import seeds
from deepal.entries import OF_POOL, OF_VALIDATION, Predictions, Result
from deepal.functional import agreement, noise, uncertainty
from deepal.numeric import is_count, is_number

UNCERTAINTY, AGREEMENT = f"{OF_POOL}uncertainty", f"{OF_POOL}agreement"
"""Metrics of the pool: the mean entropy of predictions, in nats; kappa of the predictions of two models in a row."""


class Around(NamedTuple):
    """What a rule may look at when a model is trained.

    Args:
        pool: (n,) positions that can be asked.
        first: (N,) positions that could be asked or were labeled when the run began, and can be read.
        seed: of the run's own coins, the same in each cycle.
        probs: a function from positions (n,) to class probabilities (n, C).
        before: what the last model has predicted of what the rule watches.
    """

    pool: Tensor
    first: Tensor
    seed: int
    probs: Callable[[Tensor], Tensor]
    before: Predictions


class Measured(NamedTuple):
    """What a rule has measured: metrics by name, and predictions that it wants to see again in the next cycle."""

    metrics: Mapping[str, float]
    predictions: Predictions | None = None


@dataclass(frozen=True)
class StoppingRule(ABC):
    """Says when a run has labels enough. A subclass is a frozen dataclass with `reason`; it raises ValueError for numbers
    by which it could not decide. What it reads has to be named, or nobody measures it: `validated`, or `reads_pool` with
    `measure`.

    >>> @dataclass(frozen=True)
    ... class Twice(StoppingRule):
    ...     above: float = 0.9
    ...     validated = "val/accuracy"
    ...
    ...     def reason(self, results):
    ...         last = [each.metrics[self.validated] for each in results[-2:]]
    ...         return f"twice above {self.above}" if len(last) == 2 and min(last) > self.above else None
    >>> Twice().validated
    'val/accuracy'
    """

    reads_pool = False
    """Whether it reads what is predicted of images (`measure`)."""

    @property
    def validated(self) -> str | None:
        """The metric of the validation set that it reads, `val/` and its name; None where it reads none. The validation set
        is measured in each cycle where a rule names one."""
        return None

    def measure(self, around: Around) -> Measured:
        """What it has to know of the model of a cycle, besides."""
        return Measured({})

    @abstractmethod
    def reason(self, results: Sequence[Result]) -> str | None:
        """Why to stop after these results of all cycles, as a sentence; None where there is no reason."""


@dataclass(frozen=True)
class TargetMetric(StoppingRule):
    """The validation set says that the model is good enough.

    Args: value: of the metric, in its unit; metric: its name; mode: whether it is to be `max` or `min`.
    """

    value: float
    metric: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        _refuse(self, self.metric, self.mode)
        if not is_number(self.value):
            raise ValueError(f"{self!r} needs a number to come to.")

    @property
    def validated(self) -> str:
        return self.metric

    def reason(self, results: Sequence[Result]) -> str | None:
        (found,) = _values(results[-1:], self.metric)
        if found is None or not (_is_same(found, self.value) or (found > self.value) == (self.mode == "max")):
            return None
        return f"{self.metric} has come to {found:.4g}, of {self.value:g} that was wanted"


@dataclass(frozen=True)
class NoImprovement(StoppingRule):
    """The validation set has not been better for so many cycles than it was before.

    Args: cycles: how many; by: how much better counts, 0 or more; metric, mode: as of `TargetMetric`.
    """

    cycles: int = 5
    by: float = 0.0
    metric: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        _refuse(self, self.metric, self.mode)
        if not (is_count(self.cycles) and is_number(self.by) and self.by >= 0):
            raise ValueError(f"{self!r} needs a number of cycles, 1 at least, and a difference that is not negative.")

    @property
    def validated(self) -> str:
        return self.metric

    def reason(self, results: Sequence[Result]) -> str | None:
        sign = 1 if self.mode == "max" else -1
        values = [sign * value for value in _values(results, self.metric) if value is not None]
        before, lately = values[: -self.cycles], values[-self.cycles :]
        if not before or (max(lately) > max(before) + self.by and not _is_same(max(lately), max(before) + self.by)):
            return None
        return f"{self.metric} has been no better than {sign * max(before):.4g} for {self.cycles} cycles"


@dataclass(frozen=True)
class OverallUncertainty(StoppingRule):
    """The model is sure of what is left of the pool: its mean entropy is low (Zhu et al., 2010).

    Args: below: in nats, 0 or more; size: the mean is of so many images of the pool at most, drawn in each cycle.
    """

    below: float = 0.01
    size: int = 10_000
    reads_pool = True

    def __post_init__(self) -> None:
        if not (is_number(self.below) and self.below >= 0 and is_count(self.size)):
            raise ValueError(f"{self!r} needs an entropy that is not negative, of a number of images, 1 at least.")

    def measure(self, around: Around) -> Measured:
        seen = _some(around.pool, self.size, seeds.derive(around.seed, "overall", len(around.pool)))
        if not len(seen):
            return Measured({})
        return Measured({UNCERTAINTY: float(uncertainty.entropy(around.probs(seen)).double().mean())})

    def reason(self, results: Sequence[Result]) -> str | None:
        (found,) = _values(results[-1:], UNCERTAINTY)
        if found is None or found >= self.below:
            return None
        return f"the mean entropy of the pool is {found:.3g} nats, below {self.below:g}"


@dataclass(frozen=True)
class StablePredictions(StoppingRule):
    """More labels do not change what is predicted: on a fixed set of images, labeled or not, models of successive cycles
    agree, by the mean of Cohen's kappa over a window (Bloodgood & Vijay-Shanker, 2009).

    Args: kappa: the mean from which on they do; window: of so many pairs of models; size: of the set.
    """

    kappa: float = 0.99
    window: int = 3
    size: int = 2000
    reads_pool = True

    def __post_init__(self) -> None:
        if not (is_number(self.kappa) and 0 < self.kappa <= 1 and is_count(self.window) and is_count(self.size)):
            raise ValueError(f"{self!r} needs a kappa above 0 and at most 1, a window and a size of 1 at least.")

    def measure(self, around: Around) -> Measured:
        watched = _some(around.first, self.size, seeds.derive(around.seed, "watched")).sort().values
        probs = around.probs(watched)
        if probs.ndim != 2:
            raise ValueError(
                f"{self!r} compares one class an image, and this module says probs of shape "
                f"(images, {', '.join(map(str, probs.shape[1:]))}); OverallUncertainty takes any."
            )
        predicted = probs.argmax(-1)
        known = dict(zip(*around.before, strict=True))
        both = [row for row, position in enumerate(watched.tolist()) if position in known]
        then = torch.tensor([known[int(watched[row])] for row in both])
        metrics = {AGREEMENT: agreement.cohen_kappa(predicted[both], then)} if both else {}
        return Measured(metrics, Predictions(tuple(watched.tolist()), tuple(predicted.tolist())))

    def reason(self, results: Sequence[Result]) -> str | None:
        lately = [value for value in _values(results, AGREEMENT)[-self.window :] if value is not None]
        if len(lately) < self.window or sum(lately) / self.window < self.kappa:
            return None
        return f"predictions hardly change: kappa is {sum(lately) / self.window:.4f} over {self.window} cycles"


def first_reason(rules: Sequence[StoppingRule], results: Sequence[Result]) -> str | None:
    """That of the first rule which has one; None before there are results. Raises ValueError for a rule that reads a metric
    which nobody has measured."""
    for rule in rules if results else ():
        try:
            if said := rule.reason(results):
                return said
        except KeyError as error:
            raise ValueError(
                f"{rule!r} reads {error}, which cycle {results[-1].cycle} has not measured: name a metric of the "
                f"validation set in `validated`, or have `measure` measure it."
            ) from error
    return None


def _some(positions: Tensor, size: int, seed: int) -> Tensor:
    """So many of these at most, by a number drawn for each: nearly the same ones where a few positions are gone."""
    return positions[noise.uniform(seed, positions).argsort()[:size]]


def _values(results: Sequence[Result], metric: str) -> list[float | None]:
    """Of each cycle; None where that is no number, as when a training has diverged."""
    found = [each.metrics.get(metric) for each in results]
    return [value if value is not None and isfinite(value) else None for value in found]


def _is_same(one: float, two: float) -> bool:
    """Whether two are one number in single precision, in which metrics are measured: 18 of 20 is less than 0.9 there."""
    return isclose(one, two, rel_tol=1e-6)


def _refuse(rule: StoppingRule, metric: str, mode: str) -> None:
    """Raises ValueError for a metric of the test set, or of none."""
    if mode not in ("max", "min"):
        raise ValueError(f"{type(rule).__name__}(mode={mode!r}) must be max or min.")
    if not metric.startswith(OF_VALIDATION):
        raise ValueError(
            f"{type(rule).__name__}(metric={metric!r}) must be one of the validation set, {OF_VALIDATION}accuracy say: a "
            f"run that stops by its test images says too much of itself."
        )
