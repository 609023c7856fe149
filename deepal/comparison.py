"""What records of runs say together: settings, curves, tables. The numbers behind every picture and report.

A setting is all that a run is made of but its strategy and its seed: strategies are compared within one, over seeds that
they share. A run on the whole training set (`initial=Everything()`) is the ceiling of the setting that it otherwise equals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from deepal import fingerprint, statistics
from deepal.records import Record, RecordError
from deepal.statistics import Array, Difference, Estimate, Penalties, Reached

BASELINE = "Random"
_LOWER_IS_BETTER = ("nll", "ece", "brier", "loss", "error")
_EVERYTHING = "deepal.data.initial.Everything"
Axis = Literal["labels", "people"]


class ComparisonError(ValueError):
    """These runs cannot be compared in this way."""


@dataclass(frozen=True)
class How:
    """What is compared.

    Args:
        metric: of the measured ones.
        targets: of that metric; how many labels reach each is reported.
        baseline: the strategy that others are held against.
        axis: what the metric is drawn against: labels, or the seconds that people took to answer.
        price: of a label; the axis is then what the labels cost.
    """

    metric: str = "test/accuracy"
    targets: Sequence[float] = ()
    baseline: str = BASELINE
    axis: Axis = "labels"
    price: float | None = None

    def __post_init__(self) -> None:
        if self.price is not None and (self.price <= 0 or self.axis != "labels"):
            raise ComparisonError(f"price={self.price} must be above 0, and is of labels: with axis=labels alone.")

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return -1 if self.metric.rpartition("/")[2] in _LOWER_IS_BETTER else 1


@dataclass(frozen=True)
class Curves:
    """One strategy in one setting. Args: name; seeds (S,); values (S, n) of the metric; records of the runs."""

    name: str
    seeds: tuple[int, ...]
    values: Array
    records: tuple[Record, ...]

    def of(self, seeds: Sequence[int]) -> Array:
        """The values of these seeds, in this order."""
        return self.values[[self.seeds.index(seed) for seed in seeds]]

    def seconds(self, phase: str) -> float:
        """Seconds of a phase in a run, on average; NaN where none was measured."""
        spent = [sum(each["seconds"].get(phase, 0.0) for each in record.times["cycles"]) for record in self.records]
        return float(np.mean(spent)) if spent else np.nan

    def memory(self) -> int:
        """Most bytes that a process held in any cycle."""
        cycles = [cycle for record in self.records for cycle in record.times["cycles"]]
        return max((cycle["memory"].get("process", 0) for cycle in cycles), default=0)


@dataclass(frozen=True)
class Row:
    """A strategy in the table of a setting.

    Args:
        curves: of the strategy.
        area: under the learning curve (AULC).
        final: the metric with all labels.
        gain: of the area over the baseline's, seeds paired, positive where the strategy is better; None for the baseline.
        t_test, wilcoxon: p-values of the gain, after Holm, of all comparisons in the setting.
        targets: labels to each target.
        efficiency: labels to what the baseline reaches with all of its labels.
    """

    curves: Curves
    area: Estimate
    final: Estimate
    gain: Difference | None
    t_test: float
    wilcoxon: float
    targets: tuple[Reached, ...]
    efficiency: Reached | None


class Setting:
    """Strategies compared on one data set with one module.

    Args: title: what tells it from other settings; records: of its runs; ceiling: on everything; how: they are compared.
    """

    def __init__(self, title: str, records: Sequence[Record], ceiling: Sequence[Record], how: How) -> None:
        self.title, self.how = title, how
        axes = [_axis(record, how) for record in records]
        self.grid = _grid(axes, title)
        by_name: dict[str, list[tuple[Record, Array]]] = {}
        for record, axis in zip(records, axes, strict=True):
            values = statistics.on_grid(axis, record.metric(how.metric), self.grid)
            by_name.setdefault(record.title["strategy"], []).append((record, values))
        made = [_curves(name, runs) for name, runs in by_name.items()]
        self.curves = {each.name: each for each in sorted(made, key=self._rank)}
        self.ceiling = statistics.estimate([record.metric(how.metric)[-1] for record in ceiling]) if ceiling else None
        self.ceiling_labels = ceiling[0].cycles[-1]["labels"] if ceiling else None

    @property
    def baseline(self) -> Curves | None:
        return self.curves.get(self.how.baseline)

    @property
    def labels(self) -> int:
        """Labels of a run, at most; those of the validation set are beside them."""
        return max(cycle["labels"] for each in self.curves.values() for run in each.records for cycle in run.cycles)

    @property
    def validation(self) -> int:
        """Labels of the validation set of a run, at most."""
        return max(cycle["validation"] for each in self.curves.values() for run in each.records for cycle in run.cycles)

    @cached_property
    def rows(self) -> list[Row]:
        """The table: the best area first, the baseline last."""
        gains = [self._gain(each) for each in self.curves.values()]
        t_tests, wilcoxons = (
            statistics.holm([np.nan if gain is None else getattr(gain, test) for gain in gains])
            for test in ("t_test", "wilcoxon")
        )
        return [
            Row(
                curves=each,
                area=statistics.estimate(self.areas(each.values)),
                final=statistics.estimate(each.values[:, -1]),
                gain=gain,
                t_test=float(t_test),
                wilcoxon=float(wilcoxon),
                targets=tuple(self._reached(each, target) for target in self.how.targets),
                efficiency=self._reached(each, float(self.baseline.values[:, -1].mean())) if self.baseline else None,
            )
            for each, gain, t_test, wilcoxon in zip(self.curves.values(), gains, t_tests, wilcoxons, strict=True)
        ]

    def areas(self, values: Array) -> Array:
        return statistics.aulc(self.grid, values)

    def shared_seeds(self, names: Sequence[str]) -> list[int]:
        """Seeds that all of these strategies were run with."""
        return sorted(set.intersection(*(set(self.curves[name].seeds) for name in names)))

    def win_rates(self) -> tuple[list[str], Array]:
        """(names, matrix): in which share of the seeds the area of the row's strategy is better than the column's."""
        names = list(self.curves)
        seeds = self.shared_seeds(names)
        areas = [self.how.sign * self.areas(self.curves[name].of(seeds)) for name in names]
        return names, statistics.win_rates(areas)

    def _gain(self, curves: Curves) -> Difference | None:
        if self.baseline is None or curves is self.baseline:
            return None
        seeds = self.shared_seeds([curves.name, self.baseline.name])
        sides = (self.how.sign * self.areas(each.of(seeds)) for each in (curves, self.baseline))
        return statistics.difference(*sides)

    def _reached(self, curves: Curves, target: float) -> Reached:
        return statistics.reached(statistics.labels_to(self.grid, self.how.sign * curves.values, self.how.sign * target))

    def _rank(self, curves: Curves) -> tuple[bool, float, str]:
        return curves.name == self.how.baseline, -self.how.sign * float(self.areas(curves.values).mean()), curves.name


class Comparison:
    """Runs, compared.

    Args: records: of runs, those of one configuration once; how: to compare them.
    Raises ComparisonError where there is nothing to compare, and RecordError where a metric was not measured.
    """

    def __init__(self, records: Sequence[Record], how: How | None = None) -> None:
        self.how = how or How()
        self.records = _each_once(records)
        self.settings = _settings(self.records, self.how)
        known = dict.fromkeys(name for setting in self.settings for name in setting.curves)
        if self.how.baseline not in known and self.how.baseline != BASELINE:
            raise ComparisonError(f"baseline={self.how.baseline} is not among the strategies: {', '.join(known)}.")

    @property
    def control(self) -> str | None:
        """The strategy that is the baseline once more (an A/A control), where there is one."""
        names = [name for setting in self.settings for name in setting.curves]
        return next((name for name in names if name.startswith(f"{self.how.baseline}(replica=")), None)

    def penalties(self) -> Penalties | None:
        """The penalty matrix of the strategies that all settings have; None without the baseline among two of them."""
        names = [name for name in self.settings[0].curves if all(name in each.curves for each in self.settings)]
        if self.how.baseline not in names or len(names) < 2:
            return None
        return statistics.penalties([self._compared(setting, names) for setting in self.settings], self.how.baseline)

    def _compared(self, setting: Setting, names: Sequence[str]) -> tuple[Array, Mapping[str, Array]]:
        seeds = setting.shared_seeds(names)
        return setting.grid, {name: self.how.sign * setting.curves[name].of(seeds) for name in names}


def _each_once(records: Sequence[Record]) -> list[Record]:
    """Of each configuration the record with the most labels, in an order that the records alone decide."""
    best: dict[str, Record] = {}
    for record in records:
        name = fingerprint.digest(record.config)
        if record.cycles and (name not in best or record.cycles[-1]["labels"] > best[name].cycles[-1]["labels"]):
            best[name] = record
    return sorted(
        best.values(), key=lambda each: (each.title["data"], each.title["strategy"], each.seed, repr(each.config))
    )


def _settings(records: Sequence[Record], how: How) -> list[Setting]:
    is_ceiling: Callable[[Record], bool] = lambda record: record.config["initial"].get("class") == _EVERYTHING  # noqa: E731
    groups: dict[str, list[Record]] = {}
    for record in records:
        if not is_ceiling(record):
            groups.setdefault(fingerprint.digest(_setting_of(record)), []).append(record)
    if not groups:
        raise ComparisonError("there is no run to compare, but on whole training sets; give runs of strategies.")
    ceilings: dict[str, list[Record]] = {}
    for record in filter(is_ceiling, records):
        ceilings.setdefault(fingerprint.digest(_setting_of(record, "initial")), []).append(record)
    titles = _titles([runs[0] for runs in groups.values()])
    of = [ceilings.get(fingerprint.digest(_setting_of(runs[0], "initial")), []) for runs in groups.values()]
    made = [Setting(title, runs, above, how) for title, runs, above in zip(titles, groups.values(), of, strict=True)]
    return sorted(made, key=lambda each: each.title)


def _setting_of(record: Record, *without: str) -> dict[str, Any]:
    return {key: value for key, value in record.config.items() if key not in ("strategy", "seed", *without)}


def _titles(firsts: Sequence[Record]) -> list[str]:
    """What tells settings apart: the data, the module where there are several, and then whatever else differs."""
    titles = [each.title["data"] for each in firsts]
    if len({each.title["module"] for each in firsts}) > 1:
        titles = [f"{title}, {each.title['module']}" for title, each in zip(titles, firsts, strict=True)]
    made = list(titles)
    for title in {title for title in titles if titles.count(title) > 1}:
        twins = [(i, dict(fingerprint.leaves(_setting_of(firsts[i])))) for i, each in enumerate(titles) if each == title]
        keys = dict.fromkeys(key for _, leaves in twins for key in leaves)
        varied = [key for key in keys if len({repr(leaves.get(key)) for _, leaves in twins}) > 1]
        for i, leaves in twins:
            made[i] = ", ".join([title, *(f"{key}={leaves.get(key)}" for key in varied)])
    return made


def _axis(record: Record, how: How) -> Array:
    if how.axis == "people":
        if not any(record.times["people"]):
            raise RecordError(f"nobody measured how long answering took in {record.title['strategy']}; take axis=labels.")
        return np.asarray(record.times["people"], float)
    return np.asarray([each["labels"] for each in record.cycles], float) * (how.price or 1)


def _grid(axes: Sequence[Array], title: str) -> Array:
    """Where the curves are compared: the points that they all have, or, where they differ, all points of their common
    range."""
    if all(np.array_equal(each, axes[0]) for each in axes):
        grid = axes[0]
    else:
        points = np.unique(np.concatenate(axes))
        grid = points[(points >= max(each[0] for each in axes)) & (points <= min(each[-1] for each in axes))]
    if len(np.unique(grid)) != len(grid) or len(grid) < 2:
        raise ComparisonError(f"the runs on {title} have no two numbers of labels in common; they cannot be compared.")
    return grid


def _curves(name: str, runs: Sequence[tuple[Record, Array]]) -> Curves:
    ordered = sorted(runs, key=lambda each: each[0].seed)
    records = tuple(record for record, _ in ordered)
    return Curves(name, tuple(each.seed for each in records), np.stack([values for _, values in ordered]), records)
