"""Which few labels to ask for before anything has been trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepal import statistics
from deepal.report import comparing, figures
from deepal.report.figures import COLORS, GRAY
from sections.base import answers, made_with, measured, paragraph

_BASELINE = "Random()"
_SAYS = "{} above Random with {} labels: by 0.10 at least, in 95 % of seeds at least"
_LINE = 0.02  # of accuracy
_SHOWN = ("MaxHerding()", "TypiClust()", "KMeans()", "CoreSet()", "ProbCover(classes=10)", _BASELINE)


@dataclass(frozen=True)
class FewLabels:
    """Accuracy of one nearest neighbor among the images that a strategy asked for.

    Args: name: of its folder in `results/`; protocol: what was done; command: that did it; claims: (strategy, labels) where
        it is 0.10 above Random; reading: what is said of it in the end.
    """

    name: str
    title: str
    protocol: str
    command: str
    claims: Sequence[tuple[str, int]]
    reading: str
    is_made = True

    def lines(self) -> Iterator[str]:
        yield f"## {self.title}"
        yield paragraph(self.protocol)
        yield f"    {self.command}"
        yield made_with([0, self._seeds - 1], [self._file["environment"]])
        yield f"![Accuracy against labels](reproduction/{self.name}.svg)"
        budgets = [int(each) for each in self._file["measured"][_BASELINE]]
        names = sorted(self._file["measured"], key=lambda name: -self._of(name, budgets[1]).mean())
        header = ["", *(f"{labels} labels" for labels in budgets)]
        yield comparing.markdown(
            [header, *([f"`{name}`", *(self._said(name, each) for each in budgets)] for name in names)]
        )
        found = [(name, labels, self._gain(name, labels), self._wins(name, labels)) for name, labels in self.claims]
        if found:
            yield answers(
                [
                    (_SAYS.format(name, labels), f"{gain:+.3f}, {wins:.0%}", gain >= 0.1 and wins >= 0.95)
                    for name, labels, gain, wins in found
                ]
            )
        yield paragraph(self.reading)

    def draw(self, folder: Path) -> None:
        figure = figures.new_figure(6.4, 4.2)
        axes = figure.subplots()
        budgets = [int(each) for each in self._file["measured"][_BASELINE]]
        shown = [name for name in _SHOWN if name in self._file["measured"]]
        means = {name: [self._of(name, each).mean() for each in budgets] for name in shown}
        colors = dict(zip(_SHOWN, [*COLORS[: len(_SHOWN) - 1], GRAY], strict=True))
        top = 1.0
        for name in sorted(shown, key=lambda name: -means[name][0]):
            axes.plot(budgets, means[name], color=colors[name], marker="o", markersize=4)
            top = min(top - _LINE, means[name][0])  # names are a line apart at least
            axes.annotate(name, (budgets[0] * 0.95, top), color=colors[name], ha="right", va="center", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(3.2, 110)
        axes.set_xticks(budgets, [str(each) for each in budgets])
        axes.minorticks_off()
        axes.set_xlabel("labels", color=GRAY)
        axes.set_title("accuracy of one nearest neighbor", loc="left", fontsize=11)
        figures.plain(axes)
        figures.save(figure, folder / f"{self.name}.svg")

    @cached_property
    def _file(self) -> dict[str, Any]:
        return measured(self.name)

    @property
    def _seeds(self) -> int:
        return len(next(iter(self._file["measured"][_BASELINE].values())))

    def _of(self, name: str, labels: int) -> np.ndarray:
        return np.array(self._file["measured"][name][str(labels)])

    def _gain(self, name: str, labels: int) -> float:
        return float((self._of(name, labels) - self._of(_BASELINE, labels)).mean())

    def _wins(self, name: str, labels: int) -> float:
        return float((self._of(name, labels) > self._of(_BASELINE, labels)).mean())

    def _said(self, name: str, labels: int) -> str:
        made = statistics.estimate(self._of(name, labels))
        wins = "" if name == _BASELINE else f" ({self._wins(name, labels):.0%})"
        return f"{made.mean:.3f} ± {made.high - made.mean:.3f}{wins}"


ON_DIGITS = FewLabels(
    name="few_labels",
    title="Digits without training: which few labels cover most",
    protocol="""
        For each seed 1,200 of scikit-learn's digits are the pool and the other 597 test it. A strategy chooses from
        the pool, as directions from its mean pixels, with nothing labeled, and every test image gets the class of the
        nearest one that was chosen: what is measured is the choice alone. "k-means++" is the seeding by itself, and
        "balanced" draws as many of each class, as no strategy can. Accuracy, with 95 % intervals over seeds; in
        parentheses, in how many seeds it is above that of Random.
    """,
    command="python benchmarks/few_labels.py --out results/few_labels/measured.json",
    claims=[(name, labels) for name in ("TypiClust()", "MaxHerding()") for labels in (10, 20)],
    reading="""
        Plain k-means, and of each cluster the image nearest to its centroid, does as well on raw pixels as the
        methods that were made for few labels; what was made for them is not what makes the difference there.
        ProbCover's rule for its radius finds one within which hardly anything lies, and most of the query is left to
        chance; given a larger one it is among the best. k-center asks for outliers first, and does better where it
        may leave out one in fifty (RobustCoreSet).
    """,
)

ON_MNIST = FewLabels(
    name="pretrained",
    title="MNIST by the features of a pretrained network: which few labels cover most",
    protocol="""
        For each seed a strategy chooses from 10,000 of MNIST's first 20,000 training images, with nothing labeled, by
        the 1,280 features of an EfficientNet-Lite0 with the weights of ImageNet (images scaled to 96 pixels), as
        directions from their mean; each of the 10,000 test images gets the class of the nearest one that was chosen,
        by these features. Nothing is trained. Accuracy, with 95 % intervals over seeds; in parentheses, in how many
        seeds it is above that of Random.
    """,
    command="python benchmarks/pretrained.py labels --root data --out results/pretrained/measured.json",
    claims=[],
    reading="""
        These features were made for photographs, and still it is clear which images to ask for: k-means, TypiClust
        and MaxHerding are ahead of Random in each seed with each number of labels, most where labels are fewest.
        k-center asks for what is far from all else, and with 100 labels it is behind Random in each seed.
    """,
)
