"""What records of runs say together: settings, curves, tables. The numbers behind every picture and report.

A setting is all that a run is made of but its strategy and its seed: strategies are compared within one, over seeds that
they share. (Or all but its module and its seed: then modules are, and are meant where it says strategies below.) A run on
the whole training set (`initial=Everything()`) is the ceiling of the setting that it otherwise equals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from deepal import fingerprint, statistics
from deepal.records import Record, RecordError
from deepal.statistics import Array, Difference, Estimate, Penalties, Reached

BASELINE = "Random"
_LOWER_IS_BETTER = {"nll", "ece", "brier", "loss", "error", "rmse", "mae", "mse"}
Axis = Literal["labels", "people"]
Among = Literal["strategy", "module"]


class ComparisonError(ValueError):
    """These runs cannot be compared in this way."""


@dataclass(frozen=True)
class How:
    """What is compared.

    Args:
        metric: of the measured ones.
        better: whether higher or lower is better; None to tell by its name (nll, ece, brier, loss, error: lower).
        targets: of that metric; how many labels reach each is reported.
        baseline: the strategy that others are held against, or the module, as the tables call it.
        among: what is compared with each other: strategies, by the same module, or modules, by the same strategy.
        axis: what the metric is drawn against: labels, or the seconds that people took to answer.
        price: of a label; the axis is then what the labels cost.
    """

    metric: str = "test/accuracy"
    better: Literal["higher", "lower"] | None = None
    targets: Sequence[float] = ()
    baseline: str = BASELINE
    among: Among = "strategy"
    axis: Axis = "labels"
    price: float | None = None

    def __post_init__(self) -> None:
        if self.price is not None and (self.price <= 0 or self.axis != "labels"):
            raise ComparisonError(f"price={self.price} must be above 0, and is of labels: with axis=labels alone.")

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        named_so = not _LOWER_IS_BETTER.isdisjoint(self.metric.replace("/", "_").lower().split("_"))
        return -1 if self.better == "lower" or (self.better is None and named_so) else 1

    def along(self, record: Record) -> Array:
        """Where the cycles of a run lie on the axis."""
        if self.axis == "people":
            if not any(record.times["people"]):
                raise RecordError(f"nobody measured how long answering took in {record.name}; take axis=labels.")
            return np.asarray(record.times["people"], float)[record.tested]
        return record.labels() * (self.price or 1)


@dataclass(frozen=True)
class Curves:
    """One strategy in one setting.

    Args:
        name: of the strategy.
        seeds: (S,).
        values: (S, n), the metric on the grid of the setting.
        axes: where each run was measured.
        records: of the runs.
    """

    name: str
    seeds: tuple[int, ...]
    values: Array
    axes: tuple[Array, ...]
    records: tuple[Record, ...]

    @property
    def reach(self) -> float:
        """How far along the axis all of its runs go, which may be further than the grid."""
        return float(min(axis[-1] for axis in self.axes))

    def seconds(self, phase: str) -> float:
        """Seconds of a phase in a run, the median over seeds, because a machine may stand still; NaN where none was
        measured."""
        cycles = [[each["seconds"].get(phase, np.nan) for each in record.times["cycles"]] for record in self.records]
        measured = [np.nansum(each) for each in cycles if not np.isnan(each).all()]
        return float(np.median(measured)) if measured else np.nan

    def memory(self, where: str) -> int | None:
        """Most bytes held in any cycle, by the `process` or on the `device`; None where that was not measured."""
        cycles = [cycle["memory"] for record in self.records for cycle in record.times["cycles"]]
        return max((each[where] for each in cycles if where in each), default=None)


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
        axes = [how.along(record) for record in records]
        self.grid = _grid(axes, title, how)
        self.is_cut = any(axis[-1] > self.grid[-1] for axis in axes)
        names = _names(records, how.among)
        by_name: dict[str, list[tuple[Record, Array]]] = {}
        for name, record, axis in zip(names, records, axes, strict=True):
            by_name.setdefault(name, []).append((record, axis))
        made = [self._curves(name, runs) for name, runs in by_name.items()]
        self.curves = {each.name: each for each in sorted(made, key=self._rank)}
        self.ceilings = {each.seed: each for each in sorted(ceiling, key=lambda each: each.seed)}  # of equal seeds one
        self.ceiling = (
            statistics.estimate([each.metric(how.metric)[-1] for each in self.ceilings.values()]) if ceiling else None
        )
        self.ceiling_labels = ceiling[0].cycles[-1]["labels"] if ceiling else None

    @property
    def baseline(self) -> Curves | None:
        return self.curves.get(self.how.baseline)

    @property
    def validation(self) -> int:
        """Labels of the validation set of a run, at most."""
        return max(cycle["validation"] for each in self.curves.values() for run in each.records for cycle in run.cycles)

    @property
    def seeds(self) -> list[int]:
        """Seeds of any strategy."""
        return sorted(set().union(*(each.seeds for each in self.curves.values())))

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
                efficiency=self._efficiency(each),
            )
            for each, gain, t_test, wilcoxon in zip(self.curves.values(), gains, t_tests, wilcoxons, strict=True)
        ]

    def areas(self, values: Array) -> Array:
        """Areas under curves on the grid, (S, n) to (S,)."""
        return statistics.aulc(self.grid, values)

    def win_rates(self) -> tuple[list[str], Array]:
        """(names, matrix): in which share of the seeds the area of the row's strategy is better than the column's."""
        rates = statistics.win_rates([self._areas_by_seed(each) for each in self.curves.values()])
        return list(self.curves), rates

    def by_queries(self, names: Sequence[str]) -> dict[str, Array]:
        """The metric after 0, 1, ... queries, higher is better: (all seeds, n) of each strategy, NaN for what it lacks."""
        runs = [record for name in names for record in self.curves[name].records]
        first = max(record.labels()[0] for record in runs)
        last = min(record.labels()[-1] for record in runs)
        labels = np.arange(first, last + 1, runs[0].config["query_size"])
        made = {}
        for name in names:
            by_seed = {
                record.seed: statistics.on_grid(record.labels(), record.metric(self.how.metric), labels)
                for record in self.curves[name].records
            }
            missing = np.full(len(labels), np.nan)
            made[name] = self.how.sign * np.stack([by_seed.get(seed, missing) for seed in self.seeds])
        return made

    def _curves(self, name: str, runs: Sequence[tuple[Record, Array]]) -> Curves:
        ordered = sorted(runs, key=lambda each: each[0].seed)
        values = [statistics.on_grid(axis, record.metric(self.how.metric), self.grid) for record, axis in ordered]
        records, axes = (tuple(each) for each in zip(*ordered, strict=True))
        return Curves(name, tuple(each.seed for each in records), np.stack(values), axes, records)

    def _areas_by_seed(self, curves: Curves) -> Array:
        """The area of each run of a strategy, higher is better, in the order of all seeds; NaN where it lacks one."""
        found = dict(zip(curves.seeds, self.how.sign * self.areas(curves.values), strict=True))
        return np.array([found.get(seed, np.nan) for seed in self.seeds])

    def _gain(self, curves: Curves) -> Difference | None:
        if self.baseline is None or curves is self.baseline:
            return None
        sides = np.stack([self._areas_by_seed(each) for each in (curves, self.baseline)])
        shared = sides[:, ~np.isnan(sides).any(0)]
        return statistics.difference(*shared) if shared.size else None

    def _reached(self, curves: Curves, target: float) -> Reached:
        sign = self.how.sign
        runs = zip(curves.axes, curves.records, strict=True)
        points = [(axis, sign * np.array(record.metric(self.how.metric))) for axis, record in runs]
        return statistics.reached([statistics.labels_to(axis, values, sign * target) for axis, values in points])

    def _efficiency(self, curves: Curves) -> Reached | None:
        if self.baseline is None or curves is self.baseline:
            return None
        return self._reached(curves, float(self.baseline.values[:, -1].mean()))

    def _rank(self, curves: Curves) -> tuple[bool, float, str]:
        return curves.name == self.how.baseline, -self.how.sign * float(self.areas(curves.values).mean()), curves.name


class Comparison:
    """Runs, compared.

    Args: records: of runs; those that are not finished are left out, and of one configuration all but one. how: to compare
        them.
    Raises ComparisonError where there is nothing to compare, and RecordError where a metric was not measured.
    """

    def __init__(self, records: Sequence[Record], how: How | None = None) -> None:
        self.how = how or How()
        self.records = _each_once([each for each in records if each.finished])
        self.unfinished = len({fingerprint.digest(each.config) for each in records if not each.finished})
        self.settings = _settings(self.records, self.how)
        known = dict.fromkeys(name for setting in self.settings for name in setting.curves)
        by_default = self.how.baseline == BASELINE and self.how.among == "strategy"
        if self.how.baseline not in known and not by_default:
            several = {"strategy": "strategies", "module": "modules"}[self.how.among]
            raise ComparisonError(f"baseline={self.how.baseline} is not among the {several}: {', '.join(known)}.")

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
        return statistics.penalties([each.by_queries(names) for each in self.settings], self.how.baseline)


def _each_once(records: Sequence[Record]) -> list[Record]:
    """Of each configuration the record with the most labels, in an order that the records alone decide."""
    best: dict[str, Record] = {}
    for record in sorted((each for each in records if each.cycles), key=lambda each: (each.labels()[-1], repr(each))):
        best[fingerprint.digest(record.config)] = record
    return sorted(
        best.values(), key=lambda each: (each.title["data"], each.title["strategy"], each.seed, repr(each.config))
    )


def _names(records: Sequence[Record], among: Among) -> list[str]:
    """What people call the strategy of each record: by its whole path where two of one title are not the same."""
    kinds: dict[str, set[str]] = {}
    for each in records:
        kinds.setdefault(each.title[among], set()).add(fingerprint.digest(each.config[among]))
    return [
        title if len(kinds[title]) == 1 else f"{title} ({made['class']} {fingerprint.digest(made)[:4]})"
        for title, made in ((each.title[among], each.config[among]) for each in records)
    ]


def _settings(records: Sequence[Record], how: How) -> list[Setting]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        if not record.is_ceiling:
            groups.setdefault(fingerprint.digest(_setting_of(record, how.among)), []).append(record)
    if not groups:
        raise ComparisonError("there is no finished run of a strategy to compare; let one come to its budget.")
    ceilings: dict[str, list[Record]] = {}
    for record in [each for each in records if each.is_ceiling and how.among == "strategy"]:  # a module has its own
        ceilings.setdefault(fingerprint.digest(_setting_of(record, how.among, "initial")), []).append(record)
    titles = _titles([runs[0] for runs in groups.values()], how.among)
    of = [ceilings.get(fingerprint.digest(_setting_of(runs[0], how.among, "initial")), []) for runs in groups.values()]
    made = [Setting(title, runs, above, how) for title, runs, above in zip(titles, groups.values(), of, strict=True)]
    return sorted(made, key=lambda each: each.title)


def _setting_of(record: Record, *without: str) -> dict[str, Any]:
    besides = ("seed", "test_every", *without)  # of which none is the task
    return {key: value for key, value in record.config.items() if key not in besides}


def _titles(firsts: Sequence[Record], among: Among) -> list[str]:
    """What tells settings apart: the data, the module (or the strategy) where there are several, and then whatever else
    differs."""
    titles, by = [each.title["data"] for each in firsts], "module" if among == "strategy" else "strategy"
    if len({each.title[by] for each in firsts}) > 1:
        titles = [f"{title}, {each.title[by]}" for title, each in zip(titles, firsts, strict=True)]
    made = list(titles)
    for title in {title for title in titles if titles.count(title) > 1}:
        twins = [
            (i, dict(fingerprint.leaves(_setting_of(firsts[i], among)))) for i, each in enumerate(titles) if each == title
        ]
        keys = dict.fromkeys(key for _, leaves in twins for key in leaves)
        varied = [key for key in keys if len({repr(leaves.get(key)) for _, leaves in twins}) > 1]
        for i, leaves in twins:
            made[i] = ", ".join([title, *(f"{key}={leaves.get(key)}" for key in varied)])
    return made


def _grid(axes: Sequence[Array], title: str, how: How) -> Array:
    """Where the curves are compared: the points that they all have, or, where they differ, all points of their common
    range."""
    if all(np.array_equal(each, axes[0]) for each in axes):
        return np.unique(axes[0])
    points = np.unique(np.concatenate(axes))
    grid = points[(points >= max(each[0] for each in axes)) & (points <= min(each[-1] for each in axes))]
    if len(grid) < 2:
        raise ComparisonError(f"the runs on {title} have no range of {how.axis} in common; they cannot be compared.")
    return grid
