"""Whether a network forgets wrong labels more often than right ones, on MNIST (Toneva et al., 2019).

    python benchmarks/forgetting.py --root DATA --out results/forgetting/measured.json

One label in ten is wrong. `ForgettingEvents` counts how often each image was got right and then wrong the next time it was
shown; an image that was never got right counts as forgotten each time. Events are those of training, under its dropout,
so networks with and without it are measured. What came out is in `docs/reproduction.md`.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from scipy.stats import mannwhitneyu
from torch.optim import SGD

from deepal import Learner, records
from deepal.data import MNIST, AtRandom
from deepal.ledger import Ledger
from deepal.modules import Classifier
from deepal.nn import MLP
from deepal.oracles import NoisyOracle
from deepal.recorders import ForgettingEvents
from deepal.strategies import Random

NOISE = 0.1
NEVER = "never"


def main() -> None:
    """Train, count, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="the folder that holds MNIST")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--labels", type=int, default=4000, help="how many")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.5], help="of the network, each by itself")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 50], help="of training, each by itself")
    parser.add_argument("--out", type=Path, default=Path("forgetting.json"), help="the file to write")
    options = parser.parse_args()
    runs = []
    for dropout, epochs, seed in product(options.dropout, options.epochs, range(options.seeds)):
        runs.append(one(options.root, options.labels, dropout, epochs, seed))
        print({name: value for name, value in runs[-1].items() if name != "environment"}, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(each) for each in runs)
    options.out.write_text(f'{{"labels": {options.labels}, "noise": {NOISE}, "runs": [\n{lines}\n]}}\n')


def one(root: str, labels: int, dropout: float, epochs: int, seed: int) -> dict[str, Any]:
    """What one network forgot."""
    module = partial(Classifier, partial(MLP, hidden=(256,), dropout=dropout), partial(SGD, lr=0.05, momentum=0.9))
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            strategy=Random(), module=module, data=MNIST(root=root, validation=0), oracle=NoisyOracle(NOISE),
            initial=AtRandom(labels), budget=labels, trainer={"max_epochs": epochs, "callbacks": [ForgettingEvents()]},
            seed=seed, root=Path(folder),
        )  # fmt: skip
        (result,) = learner.run()
        rows = Ledger(learner.folder / "ledger.sqlite").forgetting(0)
        (environment,) = next(iter(records.read(learner.folder))).environments
    wrong, right = ([each for each in rows if bool(each["wrong"]) is said] for said in (True, False))
    events = [torch.tensor([each["events"] for each in some]).numpy() for some in (wrong, right)]
    return {
        "dropout": dropout,
        "epochs": epochs,
        "seed": seed,
        "environment": environment,
        "accuracy": result.metrics["test/accuracy"],
        "auroc": float(mannwhitneyu(*events).statistic / (len(wrong) * len(right))),
        "wrong": counted(wrong),
        "right": counted(right),
    }


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many images were forgotten how often."""
    counts = Counter(each["events"] for each in rows if each["learned"])
    never = sum(not each["learned"] for each in rows)
    return {**{str(events): counts[events] for events in sorted(counts)}, NEVER: never}


if __name__ == "__main__":
    main()
