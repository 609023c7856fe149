"""Whether wrong labels are forgotten more often than right ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepal.report import comparing, figures
from deepal.report.figures import COLORS, GRAY
from sections.base import answers, made_with, measured, paragraph

_NEVER = "never"
_Setting = tuple[float, int]  # dropout and epochs


@dataclass(frozen=True)
class Forgetting:
    """How well counts of forgetting events tell wrong labels from right ones."""

    name: str = "forgetting"
    is_made = True

    @property
    def claims(self) -> Sequence[tuple[_Setting, float]]:
        return [((dropout, min(self._epochs)), 0.75) for dropout in self._dropouts]

    def lines(self) -> Iterator[str]:
        labels, noise = self._measured["labels"], self._measured["noise"]
        few, many = self._epochs
        yield "## MNIST: wrong labels are forgotten"
        yield paragraph(f"""
            {labels:,} images of MNIST, one label in {round(1 / noise)} wrong, are learned by an MLP with one hidden
            layer of 256 units, with and without dropout: SGD (0.05, momentum 0.9), batches of 64. `ForgettingEvents`
            counts, for each image, how often it was got right when it was shown, and wrong the next time; one that was
            never got right counts as often as it was shown. The area under the ROC curve is how often a wrong label has
            been forgotten more often than a right one; means over seeds, and from least to most.
        """)
        yield "    python benchmarks/forgetting.py --root DATA --out results/forgetting/measured.json"
        runs = self._measured["runs"]
        yield made_with([run["seed"] for run in runs], [run["environment"] for run in runs])
        yield f"![Events of wrong and of right labels](reproduction/{self.name}.svg)"
        header = ["dropout", "epochs", "area", "right labels never forgotten", "wrong ones", "wrong ones never learned"]
        yield comparing.markdown([header, *(self._row(each) for each in self._settings)])
        yield answers(
            [
                (f"area of {least} at least, dropout {of[0]:g}, {of[1]} epochs", f"{area:.3f}", area >= least)
                for of, least in self.claims
                for area in [self._areas(of).mean()]
            ]
        )
        with_dropout = max(self._dropouts)
        yield paragraph(f"""
            Wrong labels stand out while a network has not yet learned them. A negative result: under dropout, after {many}
            epochs, the area is {self._areas((with_dropout, many)).mean():.3f}. Events are counted as training shows images,
            under its dropout, and by then right labels have been forgotten by chance as often as wrong ones have been
            learned by it; after {few} epochs it is {self._areas((with_dropout, few)).mean():.3f}. Without dropout,
            {self._areas((min(self._dropouts), few)).mean():.3f} becomes
            {self._areas((min(self._dropouts), many)).mean():.3f}.
        """)

    def draw(self, folder: Path) -> None:
        figure = figures.new_figure(9.6, 5.2)
        for axes, of in zip(figure.subplots(2, 2).flat, self._settings, strict=True):
            for kind, color, shift in (("right", COLORS[0], -0.2), ("wrong", COLORS[1], 0.2)):
                shares = self._shares(of, kind)
                axes.bar(np.arange(len(shares)) + shift, shares, 0.4, color=color)
            most = len(shares) - 2
            ticks = [*range(0, most, 1 if most < 9 else 2), most + 1]
            axes.set_xticks(ticks, [*(str(each) for each in ticks[:-1]), _NEVER + "\nlearned"], fontsize=8)
            axes.set_title(f"dropout {of[0]:g}, {of[1]} epochs", loc="left", fontsize=10)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            figures.plain(axes)
        first = figure.axes[0]
        for height, (text, color) in enumerate((("right labels", COLORS[0]), ("wrong labels", COLORS[1]))):
            first.annotate(text, (0.5, 0.85 - 0.12 * height), xycoords="axes fraction", color=color)
        for axes in figure.axes[2:]:
            axes.set_xlabel("forgetting events", color=GRAY)
        figures.save(figure, folder / f"{self.name}.svg")

    def _row(self, of: _Setting) -> list[str]:
        areas = self._areas(of)
        shares = {kind: self._shares(of, kind) for kind in ("right", "wrong")}
        return [
            f"{of[0]:g}",
            str(of[1]),
            f"{areas.mean():.3f} ({areas.min():.3f} to {areas.max():.3f})",
            f"{shares['right'][0]:.0%}",
            f"{shares['wrong'][0]:.0%}",
            f"{shares['wrong'][-1]:.0%}",
        ]

    @cached_property
    def _measured(self) -> dict[str, Any]:
        return measured(self.name)

    @property
    def _dropouts(self) -> list[float]:
        return sorted({run["dropout"] for run in self._measured["runs"]})

    @property
    def _epochs(self) -> list[int]:
        return sorted({run["epochs"] for run in self._measured["runs"]})

    @property
    def _settings(self) -> list[_Setting]:
        return [(dropout, epochs) for dropout in self._dropouts for epochs in self._epochs]

    def _runs(self, of: _Setting) -> list[dict[str, Any]]:
        return [run for run in self._measured["runs"] if (run["dropout"], run["epochs"]) == of]

    def _areas(self, of: _Setting) -> np.ndarray:
        return np.array([run["auroc"] for run in self._runs(of)])

    def _shares(self, of: _Setting, kind: str) -> np.ndarray:
        """Of images that were forgotten 0, 1, 2 ... times, in all seeds, and in the end of those never learned."""
        runs = self._runs(of)
        most = max(int(events) for run in runs for each in ("right", "wrong") for events in run[each] if events != _NEVER)
        names = [*map(str, range(most + 1)), _NEVER]
        counts = np.array([sum(run[kind].get(name, 0) for run in runs) for name in names], float)
        return counts / counts.sum()
