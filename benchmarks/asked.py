"""What each strategy asks for first, as images: copied from MNIST by the positions that the studies in `results/` hold.

    python benchmarks/asked.py --root DATA --out results/asked

It writes `measured.json`, which names strategies, and `images.png`, a row of images for each of them, from which
`docs/reproduction.py` draws.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from deepal import records
from deepal.data import MNIST
from deepal.records import Record

RESULTS = Path(__file__).parent.parent / "results"
STUDIES = ("one_pass_mnist", "dynamics_mnist", "loss_prediction_mnist", "mal_mnist", "vaal_mnist")
SEED, CYCLES, SHOWN = 0, (0, 4), 18


def main() -> None:
    """Look them up, and copy them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="the folder that holds MNIST")
    parser.add_argument("--out", type=Path, default=Path("asked"), help="the folder to write into")
    options = parser.parse_args()
    loaded = MNIST(root=options.root).load()
    found = list(runs())
    asked = [[position for cycle in CYCLES for position in run.cycles[cycle]["positions"][:SHOWN]] for run in found]
    rows = [torch.cat(list(loaded.train.data[positions].view(-1, 28, 28)), 1) for positions in asked]
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(rows).numpy()).save(options.out / "images.png", optimize=True)
    measured = {
        "seed": SEED,
        "shown": SHOWN,
        "labels": [found[0].cycles[cycle]["labels"] for cycle in CYCLES],
        "strategies": [run.title["strategy"] for run in found],
        "classes": [loaded.train.classes[positions].view(len(CYCLES), -1).tolist() for positions in asked],
    }
    (options.out / "measured.json").write_text(json.dumps(measured) + "\n")


def runs() -> Iterator[Record]:
    """A run of each strategy on the pool whose classes are alike, of the first study that has it."""
    seen = set()
    for study in STUDIES:
        for run in records.read(RESULTS / study / "study.json"):
            name = run.title["strategy"]
            if run.seed == SEED and run.config["data"]["imbalance"] is None and name not in seen:
                seen.add(name)
                yield run


if __name__ == "__main__":
    main()
