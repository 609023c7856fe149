"""What is left of strategies that compare embeddings where features are many."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepal import statistics
from deepal.report import comparing, figures
from deepal.report.figures import COLORS, GRAY
from sections.base import made_with, measured, paragraph

_PIXELS = 64
_BASELINE = "Random()"
_SHOWN = ("CoreSet()", "KMeans()", "MaxHerding()", "Projected(of=MaxHerding)", _BASELINE)


@dataclass(frozen=True)
class Dimensions:
    """Accuracy of one nearest neighbor among the images that a strategy asked for, by pixels and noise beside them."""

    name: str = "dimensions"
    claims: Sequence[object] = ()
    is_made = True

    def lines(self) -> Iterator[str]:
        yield "## Digits beside noise: what many features do to distances"
        yield paragraph("""
            For each seed 1,200 of scikit-learn's digits are the pool and the other 597 test it. A strategy chooses
            40 of the pool by 64 pixels and so many features of noise, each as spread as a pixel is on average;
            every test image gets the class of the nearest one that was chosen, by pixels alone: the noise is there
            for the choice and for nothing else. Accuracy, with 95 % intervals over seeds, and how distances are
            spread: hubness is the skewness of how often an image is among the 10 nearest of others, contrast the
            mean distance over that to the nearest, dimension that of the space around an image.
        """)
        yield "    python benchmarks/dimensions.py --out results/dimensions/measured.json"
        yield made_with([0, self._seeds - 1], [self._file["environment"]])
        yield f"![Accuracy against features](reproduction/{self.name}.svg)"
        header = ["", *(f"{_PIXELS + noise} features" for noise in self._noise)]
        rows = [[f"`{name}`", *(self._said(name, noise) for noise in self._noise)] for name in self._file["accuracy"]]
        spread = [[name, *(self._spread(name, noise) for noise in self._noise)] for name in self._file["spread"]]
        yield comparing.markdown([header, *rows, *spread])
        yield paragraph(self._reading())

    def _reading(self) -> str:
        most = self._noise[-1]
        lost, kept = (self._gain(name, most) for name in ("MaxHerding()", "Projected(of=MaxHerding)"))
        kmeans, center = self._gain("KMeans()", most), self._gain("CoreSet()", most)
        return f"""
            With {_PIXELS + most} features MaxHerding gains {lost:+.3f} on Random, k-means {kmeans:+.3f}; by 32
            principal components MaxHerding gains {kept:+.3f}. k-center gains {center:+.3f}, as it does without
            noise: asking for what is far from all else was no better to begin with. A run, and `deepal select`, say
            it where a strategy has compared embeddings of a contrast below 1.25.
        """

    def draw(self, folder: Path) -> None:
        figure = figures.new_figure(6.4, 4.2)
        axes = figure.subplots()
        features = [_PIXELS + noise for noise in self._noise]
        colors = dict(zip(_SHOWN, [*COLORS[: len(_SHOWN) - 1], GRAY], strict=True))
        low = 0.0
        for name in sorted(_SHOWN, key=lambda name: self._of(name, self._noise[-1]).mean()):
            means = [self._of(name, noise).mean() for noise in self._noise]
            axes.plot(features, means, color=colors[name], marker="o", markersize=4)
            low = max(low + 0.012, means[-1])  # names are a line apart at least
            axes.annotate(name, (features[-1] * 1.08, low), color=colors[name], va="center", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(55, 6500)
        axes.set_xticks(features, [str(each) for each in features])
        axes.minorticks_off()
        axes.set_xlabel("features", color=GRAY)
        axes.set_title("accuracy of one nearest neighbor, 40 labels", loc="left", fontsize=11)
        figures.plain(axes)
        figures.save(figure, folder / f"{self.name}.svg")

    @cached_property
    def _file(self) -> dict[str, Any]:
        return measured(self.name)

    @property
    def _noise(self) -> list[int]:
        return [int(each) for each in self._file["accuracy"][_BASELINE]]

    @property
    def _seeds(self) -> int:
        return len(self._of(_BASELINE, 0))

    def _of(self, name: str, noise: int) -> np.ndarray:
        return np.array(self._file["accuracy"][name][str(noise)])

    def _gain(self, name: str, noise: int) -> float:
        return float((self._of(name, noise) - self._of(_BASELINE, noise)).mean())

    def _said(self, name: str, noise: int) -> str:
        made = statistics.estimate(self._of(name, noise))
        return f"{made.mean:.3f} ± {made.high - made.mean:.3f}"

    def _spread(self, name: str, noise: int) -> str:
        return f"{np.mean(self._file['spread'][name][str(noise)]):.2f}"
