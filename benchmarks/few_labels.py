"""Which few labels to ask for before anything has been trained: one nearest neighbor on pixels, scikit-learn's digits.

    python benchmarks/few_labels.py --out results/few_labels/measured.json

For each seed 1,200 images are the pool and 597 test it. A strategy chooses among the pool, as directions from its mean,
with nothing labeled; every test image then gets the class of the nearest image that was chosen. No network, no training:
what is measured is the choice alone. "k-means++" is the seeding by itself; "balanced" knows the classes, as no strategy
does. What came out is in `docs/reproduction.md`.
"""

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from deepal.data import Digits
from deepal.functional import coverage, geometry, neighbors
from deepal.preflight import environment
from deepal.signals import Signals
from deepal.strategies import (
    CoreSet,
    FacilityLocation,
    KMeans,
    MaxHerding,
    ProbCover,
    QueryStrategy,
    Random,
    RobustCoreSet,
    TypiClust,
    View,
)

LABELS = (10, 20, 40, 100)
POOL = 1200
STRATEGIES: dict[str, QueryStrategy] = {
    "Random()": Random(),
    "Random(replica=1)": Random(replica=1),
    "CoreSet()": CoreSet(),
    "RobustCoreSet(outliers=0.02)": RobustCoreSet(outliers=0.02),
    "KMeans()": KMeans(),
    "TypiClust()": TypiClust(),
    "MaxHerding()": MaxHerding(),
    "FacilityLocation()": FacilityLocation(),
    "ProbCover(classes=10)": ProbCover(classes=10),
    **{f"ProbCover({radius})": ProbCover(radius) for radius in (0.55, 0.65, 0.75, 1.0)},
}


def main() -> None:
    """Choose, and write down what one nearest neighbor makes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="how many")
    parser.add_argument("--out", type=Path, default=Path("few_labels.json"), help="the file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of radii that cover little
    loaded = Digits().load()
    images = torch.cat([each.images(range(len(each))) for each in (loaded.train, loaded.test)]).flatten(1)
    classes = torch.cat([each.targets(range(len(each))) for each in (loaded.train, loaded.test)])
    measured: dict[str, dict[int, list[float]]] = defaultdict(lambda: {labels: [] for labels in LABELS})
    for seed in range(options.seeds):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        pool, test = geometry.directions(images[order[:POOL]], images[order[POOL:]])
        of_pool, of_test = classes[order[:POOL]], classes[order[POOL:]]
        for (name, choose), labels in product(_choices(pool, of_pool).items(), LABELS):
            rows = choose(labels, torch.Generator().manual_seed(seed))
            nearest = rows[neighbors.nearest(test, pool[rows])[1].squeeze(1)]
            measured[name][labels].append(round(float((of_pool[nearest] == of_test).double().mean()), 4))
        print(f"{seed + 1} of {options.seeds} seeds", end="\r", flush=True)
    for name, found in measured.items():
        print(name, {labels: round(sum(each) / len(each), 3) for labels, each in found.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in measured.items())
    made_with = environment(torch.device("cpu"), threads=1, processes=1)
    made_with.pop("host")
    options.out.write_text(f'{{"environment": {json.dumps(made_with)}, "measured": {{\n{lines}\n}}}}\n')


def _choices(pool: Tensor, classes: Tensor) -> dict[str, Callable[[int, torch.Generator], Tensor]]:
    """How rows are chosen, by name."""
    view = View(Signals.of({"embedding": pool}), Signals.of({"embedding": pool[:0]}))

    def by(strategy: QueryStrategy) -> Callable[[int, torch.Generator], Tensor]:
        return lambda labels, generator: strategy.select(view, labels, generator).rows

    def seeding(labels: int, generator: torch.Generator) -> Tensor:
        return coverage.d2_sampling(geometry.Points(pool), labels, generator, "uniform")

    def balanced(labels: int, generator: torch.Generator) -> Tensor:
        order = torch.randperm(len(pool), generator=generator)
        return torch.cat([order[classes[order] == each][: labels // 10] for each in range(10)])

    chosen = {name: by(strategy) for name, strategy in STRATEGIES.items()}
    return {**chosen, "k-means++": seeding, "balanced": balanced}


if __name__ == "__main__":
    main()
