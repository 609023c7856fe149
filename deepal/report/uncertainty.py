"""What a cycle was unsure of, as a picture: of the data, or of the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from deepal.entries import Result
from deepal.report import figures
from deepal.report.figures import COLORS, GRAY
from deepal.watching import Watcher

_POINTS = 5000  # of a cloud, at most: more only cover each other


class Uncertainty(Protocol):
    """What is shown: arrays (n,), in nats."""

    positions: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray


class UncertaintyMap(Watcher):
    """Draws `uncertainty/000.png` into the run folder for each cycle that has read a posterior: the predictive entropy of
    the images against the mutual information, with those that it asked. What lies on the diagonal the draws disagree about,
    each of them sure; what lies far below it is ambiguous to each of them, and a label tells little."""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        self.folder = folder

    def uncertain(self, cycle: int, uncertainty: Uncertainty, chosen: Sequence[int]) -> None:
        file = self.folder / "uncertainty" / f"{cycle:03d}.png"
        file.parent.mkdir(exist_ok=True)
        draw(uncertainty, chosen, f"cycle {cycle}: what the model was unsure of, and asked", file)


def draw(uncertainty: Uncertainty, chosen: Sequence[int], title: str, path: Path) -> None:
    """Draw both parts of the uncertainty of images, those at the positions `chosen` marked."""
    epistemic = np.asarray(uncertainty.epistemic)
    entropy = epistemic + np.asarray(uncertainty.aleatoric)
    known = np.isfinite(entropy)  # after a fit that has diverged, little is
    entropy, epistemic = entropy[known], epistemic[known]
    asked = np.isin(np.asarray(uncertainty.positions)[known], np.asarray(chosen))
    others = np.flatnonzero(~asked)
    others = others[:: max(1, -(-len(others) // _POINTS))]
    figure = figures.new_figure(6.4, 4.6)
    axes = figure.add_subplot()
    most = max(float(entropy.max(initial=0.0)), 1e-3) * 1.04
    axes.plot([0, most], [0, most], color=GRAY, linewidth=0.8, linestyle=":")
    axes.scatter(entropy[others], epistemic[others], s=7, color=GRAY, alpha=0.35, linewidths=0, rasterized=True)
    axes.scatter(entropy[asked], epistemic[asked], s=26, color=COLORS[1], edgecolors="white", linewidths=0.6, zorder=3)
    axes.annotate(
        f"asked ({int(asked.sum())})", (0.02, 0.94), xycoords="axes fraction", color=COLORS[1], fontsize=10,
    )  # fmt: skip
    axes.annotate(f"read ({len(entropy):,})", (0.02, 0.88), xycoords="axes fraction", color=GRAY, fontsize=10)
    axes.annotate("dotted: all of it is the model's", (0.02, 0.82), xycoords="axes fraction", color=GRAY, fontsize=8)
    axes.set_xlim(0, most)
    axes.set_ylim(0, max(float(epistemic.max(initial=0.0)), 1e-3) * 1.3)
    axes.set_xlabel("predictive entropy [nats]: all that is uncertain", color=GRAY)
    axes.set_ylabel("mutual information [nats]: of the model", color=GRAY)
    axes.set_title(title, loc="left", fontsize=11)
    figures.plain(axes)
    figures.save(figure, path)
