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

from deepal import statistics
from deepal.comparison import Comparison, Curves, Setting

GRAY = "#555555"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""That color-blind people tell apart (Okabe & Ito, 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""That tell the curves apart in print without color."""
Center = Literal["mean", "median"]


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


def draw_curves(comparison: Comparison, center: Center, *paths: Path) -> None:
    """Draw the metric against labels, a panel a setting.

    Args: center: the mean over seeds with its 95 % interval, or the median with the quarter of seeds above and below it;
        no band below three seeds.
    """
    settings = comparison.settings
    across = min(len(settings), 2)
    down = math.ceil(len(settings) / across)
    figure = new_figure(6.8 * across, 4.6 * down)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    names = dict.fromkeys(name for each in settings for name in each.curves if name != comparison.how.baseline)
    styles = {name: _style(i) for i, name in enumerate(names)}
    styles[comparison.how.baseline] = {"color": GRAY, "linestyle": "--", "marker": None}
    for panel, setting in zip(panels, settings, strict=False):
        _draw_setting(panel, setting, styles, center)
    for panel in panels[len(settings) :]:
        panel.set_visible(False)
    save(figure, *paths)


def _style(number: int) -> dict[str, Any]:
    once_around = number % len(COLORS)
    return {"color": COLORS[once_around], "marker": MARKERS[once_around], "linestyle": ("-", "-.", ":")[number // 7 % 3]}


def _draw_setting(axes: Axes, setting: Setting, styles: dict[str, dict[str, Any]], center: Center) -> None:
    ends = []
    for name, curves in setting.curves.items():
        style = styles[name]
        middle, low, high = _band(curves, center)
        every = max(1, len(setting.grid) // 10)
        axes.plot(setting.grid, middle, linewidth=1.6, markersize=3.5, markevery=every, **style)
        axes.fill_between(setting.grid, low, high, color=style["color"], alpha=0.15, linewidth=0)
        ends.append((float(middle[-1]), name, style["color"]))
    if setting.ceiling is not None:
        axes.axhline(setting.ceiling.mean, color=GRAY, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"all {setting.ceiling_labels:,} labels: {setting.ceiling.mean:.4g}", (setting.grid[0], setting.ceiling.mean),
            xytext=(0, 3), textcoords="offset points", color=GRAY, fontsize=8,
        )  # fmt: skip
    _label_ends(axes, float(setting.grid[-1]), ends)
    seeds = sorted({len(each.seeds) for each in setting.curves.values()})
    said = "mean, 95 % interval" if center == "mean" else "median, middle half"
    axes.set_title(
        f"{setting.title}: {said} of {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds",
        loc="left", fontsize=10,
    )  # fmt: skip
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


def _label_ends(axes: Axes, end: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each name where its curve ends, as far apart as is needed to read them."""
    bottom, top = axes.get_ylim()
    apart = (top - bottom) * 0.045
    heights: list[float] = []
    for value, _, _ in sorted(ends):
        heights.append(max(value, heights[-1] + apart) if heights else value)
    excess = max(0.0, (heights[-1] - max(value for value, _, _ in ends)) / 2)  # half up and half down
    for height, (value, name, color) in zip(heights, sorted(ends), strict=True):
        axes.annotate(
            name if len(name) <= 34 else f"{name[:33]}…", (end, value), xytext=(1.02, height - excess),
            textcoords=("axes fraction", "data"), color=color, fontsize=8, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def draw_penalties(comparison: Comparison, *paths: Path) -> bool:
    """Draw the penalty matrix, and the win rates of each setting beside it. Returns whether there was anything to draw."""
    penalties = comparison.penalties()
    if penalties is None:
        return False
    names, size = list(penalties.strategies), 0.62 * len(penalties.strategies) + 2.6
    figure = new_figure(size * (1 + len(comparison.settings)), size + 0.7)
    panels = figure.subplots(1, 1 + len(comparison.settings), squeeze=False).flatten()
    chance = penalties.false_wins * len(names) * (len(names) - 1)
    _draw_matrix(panels[0], penalties.matrix, names, (0, max(penalties.settings, 1)), penalties.losses)
    panels[0].set_title(
        f"Penalties: the row beats the column\nin so many of {penalties.settings} settings (t test, p < 0.05).\n"
        f"By chance alone: {penalties.false_wins:.3g} an entry, {chance:.2g} in all{_control(comparison, penalties)}",
        loc="left", fontsize=9,
    )  # fmt: skip
    for panel, setting in zip(panels[1:], comparison.settings, strict=True):
        of, rates = setting.win_rates()
        _draw_matrix(panel, rates, of, (0, 1), rates.mean(0))
        panel.set_title(
            f"Win rates, {setting.title}:\nshare of seeds in which the row's\narea is better", loc="left", fontsize=9
        )
    save(figure, *paths)
    return True


def _control(comparison: Comparison, penalties: statistics.Penalties) -> str:
    """What the A/A control says."""
    if comparison.control not in penalties.strategies:
        return ""
    i, j = (penalties.strategies.index(name) for name in (comparison.how.baseline, comparison.control))
    matrix = penalties.matrix
    return f".\nThe A/A control, {comparison.how.baseline} against itself: {matrix[i, j]:.2g} and {matrix[j, i]:.2g}"


def _draw_matrix(
    axes: Axes, matrix: np.ndarray, names: Sequence[str], span: tuple[float, float], below: np.ndarray
) -> None:
    """Draw numbers in a grid, and the means of the columns below."""
    short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    axes.imshow(np.vstack([matrix, below]), cmap="Blues", vmin=span[0], vmax=span[1] * 1.3, aspect="equal")
    for (i, j), value in np.ndenumerate(np.vstack([matrix, below])):
        if i != j:
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    axes.axhline(len(names) - 0.5, color="white", linewidth=4)
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names) + 1), [*short, "mean of column"], fontsize=8)
    axes.tick_params(length=0, colors=GRAY)
    for side in axes.spines.values():
        side.set_visible(False)
