"""The learning curve of a run as a picture: accuracy against labels."""

from collections.abc import Sequence
from pathlib import Path

from deepal.entries import Result
from deepal.report import figures
from deepal.report.figures import COLORS, GRAY
from deepal.watching import Watcher


class Curve(Watcher):
    """Draws `curve.png` into the run folder when a run ends.

    Args: title: above the picture; metric: which of the measured.
    """

    def __init__(self, title: str, metric: str = "test/accuracy") -> None:
        self.title, self.metric = title, metric

    def end(self, folder: Path, results: Sequence[Result]) -> None:
        measured = [each for each in results if self.metric in each.metrics]
        if measured:
            draw(measured, self.metric, self.title, folder / "curve.png")


def draw(results: Sequence[Result], metric: str, title: str, path: Path) -> None:
    """Draw one metric of these results against the labels that they had."""
    figure = figures.new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    labels, values = [each.labels for each in results], [each.metrics[metric] for each in results]
    axes.plot(labels, values, color=COLORS[0], marker="o", markersize=4, linewidth=1.8)
    axes.annotate(
        f"{values[-1]:.3f}",
        (labels[-1], values[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=COLORS[0],
    )
    more = f", {results[-1].validation} more for validation" if results[-1].validation else ""
    axes.set_xlabel(f"labels (initial ones included{more})", color=GRAY)
    axes.set_ylabel(metric.replace("test/", "test "), color=GRAY)
    axes.set_title(title, loc="left", fontsize=11)
    axes.margins(x=0.1)
    figures.plain(axes)
    figures.save(figure, path)
