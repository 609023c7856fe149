"""Kinds of claims on a study of several strategies."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite, log, sqrt

import numpy as np

from deepal.comparison import Setting
from deepal.strategies.bayesian import SATURATED
from sections.base import Claim, Found, row


def gains(least: float, wins: int, names: Sequence[str]) -> Iterator[Claim]:
    """That strategies gain so much on Random, in so many seeds."""
    for name in names:

        def found(setting: Setting, name: str = name) -> Found:
            gain = row(setting, name).gain
            assert gain is not None
            said = f"{gain.gain.mean:+.4f}, {gain.wins} of {gain.gain.seeds}"
            return said, gain.gain.mean >= least and gain.wins >= wins

        yield Claim(f"{name} gains {least:+.3f} of AULC on Random at least, and wins in {wins} seeds", found)


def gain(name: str, holds: Callable[[float], bool]) -> Callable[[Setting], Found]:
    """That the mean gain of a strategy on Random is so."""

    def found(setting: Setting) -> Found:
        gain = row(setting, name).gain
        assert gain is not None
        return f"{gain.gain.mean:+.4f}", holds(gain.gain.mean)

    return found


def interval(name: str, above: bool) -> Callable[[Setting], Found]:
    """That the interval of a strategy's gain lies on one side of nothing."""

    def found(setting: Setting) -> Found:
        gain = row(setting, name).gain
        assert gain is not None
        said = f"{gain.gain.mean:+.4f} [{gain.gain.low:+.4f}, {gain.gain.high:+.4f}]"
        return said, gain.gain.low > 0 if above else gain.gain.high < 0

    return found


def around_nothing(setting: Setting) -> Found:
    """That the interval of the A/A control holds 0."""
    said, above = interval("Random(replica=1)", above=True)(setting)
    return said, not above and not interval("Random(replica=1)", above=False)(setting)[1]


def area(name: str, near: float, within: float) -> Callable[[Setting], Found]:
    """That the area of a strategy is about so large."""

    def found(setting: Setting) -> Found:
        mean = row(setting, name).area.mean
        return f"{mean:.4f}", abs(mean - near) <= within

    return found


def apart(name: str, other: str, least: float, t: float | None = None) -> Callable[[Setting], Found]:
    """That a strategy's area is so much above another's, with seeds paired, and a t statistic above `t`."""

    def found(setting: Setting) -> Found:
        differences = np.subtract(*(setting.areas(row(setting, each).curves.values) for each in (name, other)))
        statistic = differences.mean() / (differences.std(ddof=1) / sqrt(len(differences)))
        said = f"{differences.mean():+.4f}, t = {statistic:.1f}, {int((differences > 0).sum())} of {len(differences)}"
        return said, bool(differences.mean() >= least and (t is None or statistic > t))

    return found


def above(name: str, other: str, labels: float) -> Callable[[Setting], Found]:
    """That a strategy's mean is above another's with so many labels."""

    def found(setting: Setting) -> Found:
        (column,) = np.flatnonzero(setting.grid == labels)
        first, second = (float(row(setting, each).curves.values[:, column].mean()) for each in (name, other))
        return f"{first:.4f} and {second:.4f}", first > second

    return found


def labels_to(name: str, target: int, holds: Callable[[float], bool]) -> Callable[[Setting], Found]:
    """That so many labels, the median over seeds, take a strategy to a target. Args: target: which of them."""

    def found(setting: Setting) -> Found:
        each = row(setting, name)
        reached = each.targets[target]
        said = f"{reached.median:g}" if isfinite(reached.median) else f"> {each.curves.reach:g}"
        return f"{said} ({reached.seeds} of {reached.of})", holds(reached.median)

    return found


def times_less(name: str, target: int, least: float) -> Callable[[Setting], Found]:
    """That Random needs so many times the labels of a strategy, medians both. Args: target: which of them."""

    def found(setting: Setting) -> Found:
        random = row(setting, "Random")
        censored = not isfinite(random.targets[target].median)
        needed = random.curves.reach if censored else random.targets[target].median
        ratio = needed / row(setting, name).targets[target].median
        return f"{'more than ' if censored else ''}{ratio:.2f}", ratio >= least

    return found


def saturated(setting: Setting, name: str, draws: int) -> tuple[int, int]:
    """Queries of BatchBALD that say nine tenths or more of what so many draws can tell apart, and queries in all."""
    records = row(setting, name).curves.records
    queries = [each["notes"]["information"] for record in records for each in record.cycles if each["positions"]]
    return sum(information >= SATURATED * log(draws) for information in queries), len(queries)


def copies(setting: Setting, name: str, images: int) -> float:
    """Copies of an image that is in the same query already, a query, on average; the copies of one are so many apart."""
    records = row(setting, name).curves.records
    queries = [each["positions"] for record in records for each in record.cycles if each["positions"]]
    return float(np.mean([len(query) - len({position % images for position in query}) for query in queries]))
