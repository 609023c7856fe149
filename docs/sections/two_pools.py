"""What learns beside a classifier, or looks at one, on a pool where classes are alike and on one where they are not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepal import records, statistics
from deepal.comparison import Comparison, Curves, How, Row, Setting
from deepal.report import comparing, figures
from deepal.report.figures import GRAY
from sections.base import RESULTS, made_with, paragraph, row

_PROTOCOL = """
    10,000 images of MNIST to label, drawn for each seed, in two ways: classes as they are, and the largest class ten times
    the smallest. 100 labels at random, 100 a cycle, to 1,000. An MLP with one hidden layer of 256 units and dropout 0.5,
    drawn anew in each cycle, 300 steps of Adam (1e-3) on 64 images; 10,000 test images, classes alike.
"""
_PHASES = ("fit", "record", "scan", "select")
_POOLS = {None: "Classes alike", 10: "The largest class ten times the smallest"}


@dataclass(frozen=True)
class TwoPools:
    """A study on both pools. Args: name: of its folder; module: what is said of it; config: that made it; reading: what is
    said in the end of the two settings, classes alike first."""

    name: str
    title: str
    module: str
    config: str
    reading: Callable[[Setting, Setting], str]
    claims: Sequence[object] = ()

    def lines(self) -> Iterator[str]:
        yield f"## {self.title}"
        yield paragraph(f"{_PROTOCOL} {self.module}")
        yield "\n".join(f"    {each}" for each in self.commands)
        if not self.is_made:
            yield "**Open**: it has not been run to its end yet."
            return
        runs = records.read(RESULTS / self.name / "study.json")
        yield made_with([run.seed for run in runs], [each for run in runs for each in run.environments])
        yield f"![Accuracy against labels](reproduction/{self.name}.svg)"
        by_accuracy, by_f1 = self.settings("test/accuracy"), self.settings("test/macro_f1")
        for pool, title in _POOLS.items():
            yield f"**{title}**"
            yield comparing.markdown(_table(by_accuracy[pool], by_f1[pool]))
        yield f"![Classes of what was asked for](reproduction/{self.name}-classes.svg)"
        yield paragraph(self.reading(*by_accuracy.values()))

    @property
    def commands(self) -> Sequence[str]:
        return [f"deepal study {self.config} --workers 2"]

    @property
    def is_made(self) -> bool:
        return (RESULTS / self.name / "study.json").exists()

    def draw(self, folder: Path) -> None:
        if self.is_made:
            comparison = Comparison(records.read(RESULTS / self.name / "study.json"), How())
            figures.save(figures.curves(comparison), folder / f"{self.name}.svg")
            self._draw_classes(folder / f"{self.name}-classes.svg")

    def settings(self, metric: str) -> dict[float | None, Setting]:
        """By how much larger the largest class is."""
        comparison = Comparison(records.read(RESULTS / self.name / "study.json"), How(metric))
        found = {_of(setting).config["data"]["imbalance"]: setting for setting in comparison.settings}
        return {pool: found[pool] for pool in _POOLS}

    def _draw_classes(self, file: Path) -> None:
        """The share of each class among what each strategy asked for, all seeds together."""
        settings = self.settings("test/accuracy")
        names = [each.curves.name for each in settings[None].rows]
        figure = figures.new_figure(9.6, 1.2 + 0.34 * len(names))
        for axes, (pool, setting) in zip(figure.subplots(1, 2), settings.items(), strict=True):
            shares = np.stack([np.mean([_shares(run) for run in setting.curves[name].records], 0) for name in names])
            axes.imshow(shares, cmap="cividis", vmin=0, vmax=0.3, aspect="auto")
            for (line, number), share in np.ndenumerate(shares):
                color = "white" if share < 0.15 else "black"
                axes.text(number, line, f"{share:.0%}", ha="center", va="center", fontsize=7, color=color)
            axes.set_yticks(range(len(names)), names if pool is None else [""] * len(names))
            axes.set_xticks(range(shares.shape[1]), [str(each) for each in range(shares.shape[1])])
            axes.set_xlabel("class", color=GRAY)
            axes.set_title(_POOLS[pool], loc="left", fontsize=10)
            axes.tick_params(length=0)
        figures.save(figure, file)


def _of(setting: Setting) -> records.Record:
    return next(iter(setting.curves.values())).records[0]


def _table(by_accuracy: Setting, by_f1: Setting) -> list[list[str]]:
    header = [
        "",
        "AULC of accuracy",
        "gain on Random [95 %]",
        "p (t)",
        "AULC of macro F1",
        "class entropy",
        "seconds a cycle",
    ]
    return [header, *(_line(each, row(by_f1, each.curves.name)) for each in by_accuracy.rows)]


def _line(each: Row, f1: Row) -> list[str]:
    gain = ["-", "-"]
    if each.gain is not None:
        found = each.gain.gain
        gain = [
            f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
            "<0.0001" if each.t_test < 1e-4 else f"{each.t_test:.4f}",
        ]
    areas = [f"{of.area.mean:.4f} ± {of.area.high - of.area.mean:.4f}" for of in (each, f1)]
    entropy = statistics.estimate([_entropy(run) for run in each.curves.records])
    return [f"`{each.curves.name}`", areas[0], *gain, areas[1], f"{entropy.mean:.3f}", f"{seconds(each.curves):.2f}"]


def _shares(run: records.Record) -> np.ndarray:
    """Of each class among all that was asked for, (C,)."""
    names = sorted({name for cycle in run.cycles for name in cycle["classes"]})
    counts = np.array([sum(cycle["classes"].get(name, 0) for cycle in run.cycles) for name in names], float)
    return counts / counts.sum()


def _entropy(run: records.Record) -> float:
    """Of those shares, as a part of the largest there can be."""
    shares = _shares(run)
    return float(-(shares * np.log(shares)).sum() / np.log(len(shares)))


def seconds(curves: Curves) -> float:
    """To train, record, read and choose, a cycle, the median over seeds."""
    return sum(found for phase in _PHASES if (found := curves.seconds(phase)) > 0) / len(curves.records[0].cycles)


def _gains(setting: Setting, name: str) -> str:
    found = row(setting, name).gain
    assert found
    return f"{found.gain.mean:+.4f}"


def _read_one_pass(alike: Setting, uneven: Setting) -> str:
    return f"""
        ALFAMix ({_gains(alike, "ALFAMix")} and {_gains(uneven, "ALFAMix")}) is where Margin is
        ({_gains(alike, "Margin")}, {_gains(uneven, "Margin")}): its closed form asks for what lies near a boundary in the
        features of the last layer. EGL gains {_gains(alike, "EGL")} and {_gains(uneven, "EGL")}. CAL, made for texts and a
        pretrained network, loses where classes are alike, {_gains(alike, "CAL")}, and gains little where they are not,
        {_gains(uneven, "CAL")}. Where classes are uneven all of them ask for the rare ones more often than chance does,
        and gain more for that. Random drawn once more differs from itself by {_gains(alike, "Random(replica=1)")} and
        {_gains(uneven, "Random(replica=1)")}.
    """


def _read_dynamics(alike: Setting, uneven: Setting) -> str:
    cost = alike.curves["Margin"]
    return f"""
        LabelDispersion gains {_gains(alike, "LabelDispersion")} and {_gains(uneven, "LabelDispersion")}, Margin
        {_gains(alike, "Margin")} and {_gains(uneven, "Margin")}, PredictionFlips {_gains(alike, "PredictionFlips")} and
        {_gains(uneven, "PredictionFlips")}. What it costs: 14 passes over the pool, one after each 20 steps but the first,
        take {cost.seconds("record") / len(cost.records[0].cycles):.2f} s a cycle here, beside
        {cost.seconds("fit") / len(cost.records[0].cycles):.2f} s of training; with `follow` a part of the pool, so
        much less. All strategies of the table pay for it, because they share their callbacks.
    """


def _read_loss_prediction(alike: Setting, uneven: Setting) -> str:
    return f"""
        A negative result: beside Random on the same module PredictedLoss gains {_gains(alike, "PredictedLoss")} and
        {_gains(uneven, "PredictedLoss")}. What is known of the reason: on 3,000 other images, after 400 steps on 1,000
        labels, the head tells wrong answers from right ones with an AUROC of .80, .80 and .81 (seeds 0 to 2), where the
        largest probability does with .90. The head's loss reaches the features until the end here, and Random itself is
        lower than on a plain classifier. The paper trains a ResNet on up to 10,000 images of CIFAR,
        and ranks a random part of the pool; this says nothing of that.
    """


def _read_mal(alike: Setting, uneven: Setting) -> str:
    return f"""
        UnlabeledEntropy gains {_gains(alike, "UnlabeledEntropy")} and {_gains(uneven, "UnlabeledEntropy")} on Random, and
        Margin on the same module more, {_gains(alike, "Margin")} and {_gains(uneven, "Margin")}. The paper has no code and
        no table that could be held against this.
    """


def _read_vaal(alike: Setting, uneven: Setting) -> str:
    by_itself = [_gains(setting, "Margin") for setting in ONE_PASS.settings("test/accuracy").values()]
    return f"""
        A negative result: Unlabeledness gains {_gains(alike, "Unlabeledness")} and {_gains(uneven, "Unlabeledness")} on
        Random. It does not know the classifier, which learns from labels alone here as it does by itself, where Margin
        gains {by_itself[0]} and {by_itself[1]} (above). Labeled images are drawn at random at first, so that there is
        little by which others could be told from them, and what is told all the same is asked for: wide digits, twos and
        sixes (below). Where labeled images do lack something it is found: of 4,000 images, 500 of them labeled and all of
        these digits from 0 to 4, the first hundred that it asks for are digits from 5 to 9 (a test). Independent reruns of
        the paper on CIFAR find it near Random too (Munjal et al., 2022).
    """


ONE_PASS = TwoPools(
    name="one_pass_mnist",
    title="MNIST: gradient length, contrast and mixing",
    module="",
    config="configs/study/one_pass_mnist.yaml",
    reading=_read_one_pass,
)
DYNAMICS = TwoPools(
    name="dynamics_mnist",
    title="MNIST: label dispersion",
    module="What the network predicts of the pool is recorded after each 20 steps.",
    config="configs/study/dynamics_mnist.yaml",
    reading=_read_dynamics,
)
LOSS_PREDICTION = TwoPools(
    name="loss_prediction_mnist",
    title="MNIST: predicted loss",
    module="All strategies are on `LossPrediction`, whose head trains the features too.",
    config="configs/study/loss_prediction_mnist.yaml",
    reading=_read_loss_prediction,
)
MINIMAX = TwoPools(
    name="mal_mnist",
    title="MNIST: minimax active learning",
    module="All strategies are on `MAL`, and its network learns from the unlabeled pool too.",
    config="configs/reproduce/mal_mnist.yaml",
    reading=_read_mal,
)
VARIATIONAL = TwoPools(
    name="vaal_mnist",
    title="MNIST: variational adversarial active learning",
    module="Both strategies are on `VAAL`: an autoencoder of 16 channels takes two steps for one of the classifier.",
    config="configs/reproduce/vaal_mnist.yaml",
    reading=_read_vaal,
)
