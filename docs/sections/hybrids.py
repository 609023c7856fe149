"""Strategies made of others, and training on images that nobody has labeled."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepal import records, statistics
from deepal.comparison import How, Setting
from deepal.entries import PSEUDO, PSEUDO_ACCURACY
from deepal.report import comparing, figures
from deepal.report.figures import COLORS, GRAY
from sections.base import RESULTS, Claim, Study, answers, made_with, paragraph, row
from sections.claims import around_nothing, gains

_CEAL = "PseudoLabels(of=Margin)"
_STAYS = "PseudoLabels(of=Margin, threshold=0.05, decay=0)"
_SHORT_LIST = "Prefilter(by=Margin, then=KMeans)"
_MIXED = "Mixture(of=[Entropy, Typicality], weights=[1, 1])"
_SCHEDULE = "Schedule(of=[TypiClust, Margin], until=[100])"


def _read_hybrids(setting: Setting) -> str:
    def said(name: str, other: str) -> str:
        differences = np.subtract(*(setting.areas(row(setting, each).curves.values) for each in (name, other)))
        interval = statistics.estimate(differences)
        return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"

    runs = records.read(RESULTS / "hybrids_mnist" / "study.json")

    def taken(threshold: float) -> str:
        """How many pseudo-labels there were, and how many were right."""
        cycles = [
            cycle["metrics"]
            for run in runs
            if run.config["strategy"].get("threshold") == threshold
            for cycle in run.cycles
            if PSEUDO in cycle["metrics"]
        ]
        right = np.mean([each[PSEUDO_ACCURACY] for each in cycles])
        return (
            f"{np.mean([each[PSEUDO] for each in cycles]):,.0f} in each of {len(cycles)} cycles, {right:.2%} of them right"
        )

    def asked(name: str) -> str:
        """Of which class most was asked and least, in all seeds."""
        counts: Counter[str] = Counter()
        for run in runs:
            if run.title["strategy"] == name:
                counts.update(number for cycle in run.cycles for number in Counter(cycle["classes"]).elements())
        (most, many), *_, (least, few) = counts.most_common()
        return f"{many / counts.total():.0%} digits {most} and {few / counts.total():.0%} digits {least}"

    first, last = (int(setting.grid[i]) for i in (0, -1))
    early = {name: row(setting, name).curves.values[:, 1].mean() for name in ("Random", "Margin", _SCHEDULE)}
    return f"""
        With the paper's threshold and decay CEAL has taken {taken(0.005)}, and none after its second query: the threshold
        has fallen to 0. It gains {said(_CEAL, "Margin")} of area on Margin, with the same seeds. With a threshold of 0.05
        that stays it has taken {taken(0.05)}, and gains {said(_STAYS, "Margin")}. The short list gains
        {said(_SHORT_LIST, "Margin")} on Margin, the schedule {said(_SCHEDULE, "Margin")}. A negative result: the mixture of
        entropy and typicality gains {said(_MIXED, "Margin")}, and is far behind Random. What is dense it asks for again in
        every query: {asked(_MIXED)}, where Margin asks for {asked("Margin")}. Another: pseudo-labels of which one in thirty
        is wrong do harm where they are many. Of accuracy with {setting.grid[1]:g} labels, after the first query, it is
        {", ".join(f"{value:.3f} ({name})" for name, value in early.items())}. All areas are from {first} to {last} labels.
    """


HYBRIDS = Study(
    name="hybrids_mnist",
    title="MNIST: strategies made of others",
    protocol="""
        10,000 images of MNIST to label, drawn for each seed; two labels a class, 40 a cycle, to 500. An MLP with one hidden
        layer of 256 units and dropout 0.5, drawn anew in each cycle, 300 steps of Adam (1e-3) on 64 images. Pseudo-labels
        around Margin, with the threshold and decay of CEAL (Wang et al., 2017) and with a threshold that stays; clusters of
        ten times as many uncertain images as are asked for; entropy and typicality by places; typical images first, and
        uncertain ones from 100 labels on.
    """,
    commands=["deepal study configs/study/hybrids_mnist.yaml --workers 2"],
    how=How(targets=(0.85, 0.9)),
    claims=(
        *gains(0.015, 5, ("Margin",)),
        Claim("The A/A control gains nothing: its interval holds 0", around_nothing),
    ),
    reading=_read_hybrids,
)


@dataclass(frozen=True)
class FromUnlabeled:
    """FixMatch beside the same training from labels alone."""

    name: str = "fixmatch_mnist"
    is_made = True
    claims: Sequence[tuple[str, float]] = (("gain", 0.08), ("accuracy", 0.95))

    def lines(self) -> Iterator[str]:
        yield "## MNIST, 40 labels: how the model trains counts for more than what it asks"
        yield paragraph("""
            All of MNIST, four labels a class drawn at random, and no query. The network of Gal et al. (2017),
            2,000 steps of Adam (1e-3) on 32 labeled images and seven times as many unlabeled ones, shifts by up
            to two pixels as weak augmentation, `RandAugment` and `Cutout` as strong; a threshold of 0.95; the
            average of weights over the last tenth of the steps is tested. Beside it the same network, steps,
            average and weak augmentation, with the weight of unlabeled images at 0, with the same labels.
        """)
        yield "    deepal study configs/study/fixmatch_mnist.yaml"
        runs = records.read(RESULTS / self.name / "study.json")
        yield made_with([run.seed for run in runs], [each for run in runs for each in run.environments])
        with_them, without = self._accuracies
        yield f"![Accuracy of each seed](reproduction/{self.name}.svg)"
        yield comparing.markdown(
            [
                ["seed", "FixMatch", "labels alone", "gain"],
                *(
                    [str(seed), f"{with_them[seed]:.4f}", f"{without[seed]:.4f}", f"{with_them[seed] - without[seed]:+.4f}"]
                    for seed in with_them
                ),
            ]
        )
        gain = np.mean([with_them[seed] - without[seed] for seed in with_them])
        accuracy = np.mean(list(with_them.values()))
        least, aim = (value for _, value in self.claims)
        yield answers(
            [
                (f"FixMatch is {least} above the same training from labels alone at least", f"{gain:+.4f}", gain >= least),
                (f"and comes to {aim}", f"{accuracy:.4f}", accuracy >= aim),
            ]
        )
        yield paragraph(f"""
            Means of {len(with_them)} seeds. No strategy on this page gains as much on random sampling as this training does
            on labels alone; strategies may be asked on top of it (`--config configs/method/fixmatch.yaml`).
        """)

    def draw(self, folder: Path) -> None:
        figure = figures.new_figure(6.4, 2.0)
        axes = figure.subplots()
        parts = zip(("labels alone", "FixMatch"), reversed(self._accuracies), (GRAY, COLORS[0]), strict=True)
        for place, (name, found, color) in enumerate(parts):
            axes.plot(list(found.values()), [place] * len(found), "o", color=color)
            axes.text(min(found.values()), place + 0.2, name, color=color)
        axes.set(yticks=[], ylim=(-0.5, 1.7), xlabel="test accuracy with 40 labels, a point a seed")
        figures.plain(axes)
        figures.save(figure, folder / f"{self.name}.svg")

    @property
    def _accuracies(self) -> tuple[dict[int, float], dict[int, float]]:
        """Test accuracy by seed, with unlabeled images and without."""
        found: dict[bool, dict[int, float]] = {True: {}, False: {}}
        for run in records.read(RESULTS / self.name / "study.json"):
            found[bool(run.config["module"]["unlabeled_weight"])][run.seed] = run.cycles[-1]["metrics"]["test/accuracy"]
        return found[True], found[False]
