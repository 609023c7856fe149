"""Figures of a comparison: learning curves with their intervals, and who beats whom. Same input, same bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from deepal import statistics
from deepal.comparison import Comparison, Curves, Setting

GRAY = "#555555"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""That color-blind people tell apart (Okabe & Ito, 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""That tell the curves apart in print without color."""
Center = Literal["mean", "median"]
_LINE = 0.19  # inches that a name beside the curves takes
_LINES = {"linewidth": 1.6, "markersize": 3.5}
_End = tuple[float, str, dict[str, Any]]  # where a curve ends, its name, and how it is drawn
_FEW = 8  # curves, whose bands can still be told apart


def new_figure(width: float, height: float) -> Figure:
    """A figure that draws to files alone. Args: width, height: in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Without what is not needed: light lines to read values off, no box."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GRAY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, *paths: Path) -> None:
    """Save a figure under these names, each in the format that its suffix says, with nothing of this hour in it."""
    with rc_context({"svg.hashsalt": "deepal", "svg.fonttype": "path"}):
        for path in paths:
            metadata: dict[str, Any] = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
            figure.savefig(path, metadata=metadata)


def curves(comparison: Comparison, center: Center = "mean") -> Figure:
    """The metric against labels, a panel a setting.

    Args: center: the mean over seeds with its 95 % interval, or the median with the quarter of seeds above and below it;
        no band below three seeds.
    """
    settings = comparison.settings
    across = min(len(settings), 2)
    down = math.ceil(len(settings) / across)
    height = max(4.6, 1.3 + _LINE * max(len(each.curves) for each in settings))
    figure = new_figure(6.8 * across, height * down)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    names = dict.fromkeys(name for each in settings for name in each.curves if name != comparison.how.baseline)
    styles = {name: _style(i) for i, name in enumerate(names)}
    styles[comparison.how.baseline] = {**_LINES, "color": GRAY, "linestyle": "--", "marker": None}
    for panel, setting in zip(panels, settings, strict=False):
        _draw_setting(panel, setting, styles, center, line=_LINE / (height - 1.1))
    for panel in panels[len(settings) :]:
        panel.set_visible(False)
    return figure


def _style(number: int) -> dict[str, Any]:
    once_around = number % len(COLORS)
    turn = ("-", "-.", ":")[number // len(COLORS) % 3]
    return {**_LINES, "color": COLORS[once_around], "marker": MARKERS[once_around], "linestyle": turn}


def _draw_setting(axes: Axes, setting: Setting, styles: dict[str, dict[str, Any]], center: Center, line: float) -> None:
    """Args: line: of a name, as a part of the height of the axes."""
    ends: list[_End] = []
    shade = 0.15 if len(setting.curves) <= _FEW else 0.06
    for name, curves in setting.curves.items():
        style = styles[name]
        middle, low, high = _band(curves, center)
        every = max(1, len(setting.grid) // 10)
        axes.plot(setting.grid, middle, markevery=every, **style)
        axes.fill_between(setting.grid, low, high, color=style["color"], alpha=shade, linewidth=0)
        ends.append((float(middle[-1]), name, style))
    if setting.ceiling is not None:
        axes.axhline(setting.ceiling.mean, color=GRAY, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"all {setting.ceiling_labels:,} labels: {setting.ceiling.mean:.4g}", (setting.grid[0], setting.ceiling.mean),
            xytext=(0, 3), textcoords="offset points", color=GRAY, fontsize=8,
        )  # fmt: skip
    _label_ends(axes, float(setting.grid[-1]), ends, line)
    seeds = sorted({len(each.seeds) for each in setting.curves.values()})
    band = (", 95 % interval" if center == "mean" else ", middle half") if seeds[-1] >= statistics.FEWEST else ""
    count = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    axes.set_title(f"{setting.title}: {center}{band} of {_many(count, 'seed')}", loc="left", fontsize=10)
    axes.set_xlabel(axis_title(setting), color=GRAY)
    axes.set_ylabel(setting.how.metric.replace("test/", "test "), color=GRAY)
    plain(axes)


def axis_title(setting: Setting) -> str:
    """What curves are drawn against."""
    if setting.how.axis == "people":
        return "seconds that people took to answer"
    more = f", {setting.validation} more for validation" if setting.validation else ""
    if setting.how.price:
        return f"cost of labels at {setting.how.price:g} each (initial ones included{more})"
    return f"labels (initial ones included{more})"


def _band(curves: Curves, center: Center) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if center == "mean":
        return statistics.band(curves.values)
    middle = np.median(curves.values, axis=0)
    if len(curves.values) < statistics.FEWEST:
        return middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)
    low, high = np.quantile(curves.values, (0.25, 0.75), axis=0)
    return middle, low, high


def _label_ends(axes: Axes, end: float, ends: Sequence[_End], line: float) -> None:
    """Write each name, with a piece of its curve, where the curve ends, or as near to that as leaves all of them legible,
    within the axes."""
    bottom, top = axes.get_ylim()
    apart = (top - bottom) * line * np.arange(len(ends))
    ends = sorted(ends, key=lambda each: each[:2])
    heights = isotonic_regression([value for value, _, _ in ends] - apart).x  # least squares, so far apart at least
    heights = np.clip(heights, bottom, max(top - apart[-1], bottom)) + apart
    beside = axes.get_yaxis_transform()
    for height, (value, name, style) in zip(heights, ends, strict=True):
        leader = {"arrowstyle": "-", "color": style["color"], "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        axes.annotate("", (end, value), xytext=(1.03, height), textcoords=beside, arrowprops=leader, annotation_clip=False)
        piece = Line2D((1.035, 1.06, 1.085), [height] * 3, transform=beside, clip_on=False, markevery=[1], **style)
        axes.add_artist(piece)
        axes.text(1.1, height, _short(name, 28), transform=beside, color=style["color"], fontsize=8, va="center")


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def penalties(comparison: Comparison) -> Figure | None:
    """The penalty matrix, and the win rates of each setting beside it; None where there is nothing to hold against."""
    found = comparison.penalties()
    if found is None:
        return None
    names, panels_in_all = list(found.strategies), 1 + len(comparison.settings)
    size = 0.62 * max(len(each.curves) for each in comparison.settings) + 2.6
    across = min(panels_in_all, 3)
    figure = new_figure(size * across, (size + 1.3) * math.ceil(panels_in_all / across))
    panels = figure.subplots(math.ceil(panels_in_all / across), across, squeeze=False).flatten()
    _draw_matrix(panels[0], found.matrix, names, max(found.settings, 1), "loss (mean of column)", found.losses)
    panels[0].set_title(
        f"Penalties: the row beats the column\nin so many of {_many(found.settings, 'setting')} (t test, p < 0.05).\n"
        f"By chance alone: {found.chance_of_an_entry:.3g} an entry, {found.chance:.2g} in all"
        f"{_control(comparison, found)}",
        loc="left", fontsize=9,
    )  # fmt: skip
    for panel, setting in zip(panels[1:], comparison.settings, strict=False):
        of, rates = setting.win_rates()
        others = np.where(np.eye(len(of)), np.nan, rates)
        beaten = np.array([np.nanmean(each) if np.isfinite(each).any() else np.nan for each in others.T])
        _draw_matrix(panel, rates, of, 1, "beaten by the others", beaten)
        panel.set_title(
            f"Win rates, {setting.title}:\nshare of seeds in which the row's\narea is better", loc="left", fontsize=9
        )
    for panel in panels[panels_in_all:]:
        panel.set_visible(False)
    return figure


def _control(comparison: Comparison, found: statistics.Penalties) -> str:
    """What the A/A control says."""
    if comparison.control not in found.strategies:
        return ""
    i, j = (found.strategies.index(name) for name in (comparison.how.baseline, comparison.control))
    matrix = found.matrix
    return f".\nThe A/A control, {comparison.how.baseline} against itself: {matrix[i, j]:.2g} and {matrix[j, i]:.2g}"


def _many(count: object, what: str) -> str:
    return f"{count} {what}" + ("" if str(count) == "1" else "s")


def _draw_matrix(
    axes: Axes, matrix: np.ndarray, names: Sequence[str], most: float, below: str, summary: np.ndarray
) -> None:
    """Draw numbers in a grid, and a summary of the columns below. Args: most: that an entry can be; below: its name."""
    numbers = np.vstack([matrix, summary])
    axes.imshow(numbers, cmap="Blues", vmin=0, vmax=most * 1.3, aspect="equal")
    for (i, j), value in np.ndenumerate(numbers):
        if i != j and not np.isnan(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    axes.axhline(len(names) - 0.5, color="white", linewidth=4)
    short = [_short(name, 24) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names) + 1), [*short, below], fontsize=8)
    axes.tick_params(length=0, colors=GRAY)
    for side in axes.spines.values():
        side.set_visible(False)
