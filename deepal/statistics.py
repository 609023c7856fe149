"""How strategies are compared: learning curves, areas under them, paired differences over seeds. Pure functions on arrays.

S seeds, n points of a curve, M strategies. A curve is `values` (n,) of a metric at `labels` (n,), ascending; higher is
better. Two strategies are paired where their rows are of the same seeds: they start from the same labels and weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

LEVEL = 0.95
"""Of all intervals."""
FEWEST = 3
"""Seeds below which no interval is drawn: the t distribution has nothing to say of two."""
FEWEST_TESTED = 4
"""Seeds below which no test is made: of three, Wilcoxon's smallest p-value is a quarter."""


def aulc(labels: ArrayLike, values: ArrayLike) -> Array:
    """Area under the learning curve: trapezoids over the range of labels, divided by that range; of a single number of
    labels the value there.

    Args: labels (n,); values (..., n). Returns (...,), within the range of the values.

    >>> round(float(aulc([20, 30, 50], [0.5, 0.7, 0.9])), 4)
    0.7333
    """
    x, y = _array(labels), _array(values)
    if not len(x) or (np.diff(x) <= 0).any():
        raise ValueError(f"labels must be one number at least, ascending, and are {x.tolist()}.")
    if len(x) == 1:
        return y[..., 0]
    return ((y[..., 1:] + y[..., :-1]) / 2 * np.diff(x)).sum(-1) / (x[-1] - x[0])


def on_grid(labels: ArrayLike, values: ArrayLike, grid: ArrayLike) -> Array:
    """A curve at other numbers of labels, linearly between its points; NaN outside of them.

    Args: labels (n,), values (n,), grid (m,). Returns (m,).
    """
    return np.interp(_array(grid), _array(labels), _array(values), np.nan, np.nan)


def labels_to(labels: ArrayLike, values: ArrayLike, target: float) -> Array:
    """The fewest labels measured with which a curve reaches `target`; infinite where it never does (censored).

    Args: labels (n,); values (..., n). Returns (...,).
    """
    there = _array(values) >= target
    return np.where(there.any(-1), _array(labels)[there.argmax(-1)], np.inf)


@dataclass(frozen=True)
class Reached:
    """Labels to a target over seeds.

    Args:
        median: of all seeds, those that never reach it counting as more than any; infinite where half of them do not.
        seeds: how many reach it, of
        of: so many.
    """

    median: float
    seeds: int
    of: int


def reached(labels: ArrayLike) -> Reached:
    """Summarise labels to a target, (S,): nobody is left out, so the slow ones cannot make a strategy look fast.

    >>> reached([70, 90, float("inf")])
    Reached(median=90.0, seeds=2, of=3)
    """
    ordered = np.sort(_array(labels))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return Reached(float(middle.mean()), int(np.isfinite(ordered).sum()), len(ordered))


@dataclass(frozen=True)
class Estimate:
    """A mean over `seeds` seeds, their standard deviation, and the `LEVEL` interval of the mean; NaN below three seeds."""

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int


def estimate(values: ArrayLike) -> Estimate:
    """Mean of (S,) and its interval by Student's t: a percentile bootstrap of so few covers far less than it says.

    >>> made = estimate([0.90, 0.92, 0.94])
    >>> round(made.mean, 3), round(made.low, 3), round(made.high, 3)
    (0.92, 0.87, 0.97)
    """
    y = _array(values)
    mean, low, high = (each.item() for each in band(y[:, None]))
    return Estimate(mean, float(y.std(ddof=1)) if len(y) > 1 else np.nan, low, high, len(y))


def band(values: ArrayLike) -> tuple[Array, Array, Array]:
    """Mean over seeds, and its interval, at every point of a curve. Args: values (S, n). Returns three of (n,)."""
    y = _array(values)
    seeds, mean = len(y), y.mean(0)
    if seeds < FEWEST:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * y.std(0, ddof=1) / np.sqrt(seeds)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Difference:
    """A strategy against another over paired seeds.

    Args:
        gain: of the first over the second.
        wins, ties: of the first, in seeds.
        t_test, wilcoxon: two-sided p-values; NaN below four seeds.
    """

    gain: Estimate
    wins: int
    ties: int
    t_test: float
    wilcoxon: float


def difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """Compare (S,) with (S,) of the same seeds. Raises ValueError where they are not as many."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(f"a comparison is of the same seeds, and {len(first)} were given against {len(second)}.")
    gains = first - second
    return Difference(estimate(gains), int((gains > 0).sum()), int((gains == 0).sum()), t_test(gains), wilcoxon(gains))


def t_test(gains: ArrayLike) -> float:
    """Two-sided p-value of Student's t test that paired gains (S,) have mean zero; NaN below four seeds."""
    y = _array(gains)
    if len(y) < FEWEST_TESTED:
        return np.nan
    if np.ptp(y) <= 1e-12 * np.abs(y).max():  # no noise at all: the test divides by it
        return float(y[0] == 0)
    return float(stats.ttest_1samp(y, 0).pvalue)


def wilcoxon(gains: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test of paired gains (S,); NaN below four seeds."""
    y = _array(gains)
    if len(y) < FEWEST_TESTED:
        return np.nan
    return float(stats.wilcoxon(y).pvalue) if y.any() else 1.0


def holm(p_values: ArrayLike) -> Array:
    """P-values (m,) as they are after m comparisons (Holm, 1979); NaN stays, and counts as no comparison.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _array(p_values)
    adjusted, rows = np.full_like(p, np.nan), np.flatnonzero(~np.isnan(p))
    order = rows[np.argsort(p[rows], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def win_rates(values: ArrayLike) -> Array:
    """How often each strategy is above each other one, in the seeds that both have, ties counting half.

    Args: values (M, S), NaN where a strategy lacks a seed. Returns (M, M), 0.5 on the diagonal, NaN without a common seed.
    """
    y = _array(values)
    above = y[:, None] - y[None]
    points = np.where(above == 0, 0.5, above > 0) * ~np.isnan(above)
    seeds = (~np.isnan(above)).sum(-1)
    return np.divide(points.sum(-1), seeds, out=np.full(seeds.shape, np.nan), where=seeds > 0)


@dataclass(frozen=True)
class Penalties:
    """The pairwise penalty matrix of Ash et al., 2020.

    Args:
        strategies: M names.
        matrix: (M, M); row i, column j: in how many settings the first beats the second, each setting counting as the
            share of its checkpoints at which it does.
        settings: how many there are.
        chance: how many wins the whole matrix would count, on average, where no strategy differs from another.
    """

    strategies: tuple[str, ...]
    matrix: Array
    settings: int
    chance: float

    @property
    def losses(self) -> Array:
        """The mean of each column, (M,): how often a strategy is beaten; lower is better."""
        return self.matrix.mean(0)

    @property
    def chance_of_an_entry(self) -> float:
        """What an entry off the diagonal is by chance, on average."""
        return self.chance / max(1, self.matrix.size - len(self.matrix))


def penalties(settings: Sequence[Mapping[str, ArrayLike]], baseline: str, significance: float = 0.05) -> Penalties:
    """Who beats whom, in settings (data, module, query size) that need not have the same scale (Ash et al., 2020).

    In each setting a strategy beats another at a checkpoint where the t test of their paired differences is below
    `significance` and its mean is higher, in the seeds that both have.

    Args:
        settings: in each (S, n) values of each strategy after 0, 1, ..., n - 1 queries, the same seeds in each row, NaN
            where a strategy lacks one.
        baseline: of the strategies, mostly Random.
    Raises ValueError for settings of other strategies than the first.
    """
    names, chance = tuple(settings[0]), 0.0
    matrix = np.zeros((len(names), len(names)))
    for by_name in settings:
        if set(by_name) != set(names) or baseline not in by_name:
            raise ValueError(f"a penalty matrix is of the same strategies in each setting, {baseline} among them.")
        arrays = {name: _array(each) for name, each in by_name.items()}
        points = checkpoints(np.nanmean(arrays[baseline], 0))
        for (i, first), (j, second) in combinations(enumerate(names), 2):
            gains = arrays[first] - arrays[second]
            for at in (gains[~np.isnan(gains[:, point]), point] for point in points):
                p_value = t_test(at)
                chance += 0.0 if np.isnan(p_value) else significance / len(points)
                if p_value < significance:
                    winner, loser = (i, j) if at.mean() > 0 else (j, i)
                    matrix[winner, loser] += 1 / len(points)
    return Penalties(names, matrix, len(settings), chance)


def checkpoints(baseline: ArrayLike) -> list[int]:
    """After how many queries strategies are compared: 1, 2, 4, 8, ..., for as long as the baseline is 1 % below what it
    ends with: later everything is the same. Where it never is, after the first.

    Args: baseline (n,): its mean after 0, 1, ..., n - 1 queries.

    >>> checkpoints([0.5, 0.6, 0.7, 0.8, 0.899, 0.9])
    [1, 2]
    """
    y = _array(baseline)
    chosen: list[int] = []
    queries = 1
    while queries < len(y) and (not chosen or y[-1] - y[queries] > 0.01 * abs(y[-1])):
        chosen.append(queries)
        queries *= 2
    return chosen


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, float)
