"""What is left of strategies that compare embeddings where features are many: scikit-learn's digits, and noise beside them.

    python benchmarks/dimensions.py --out results/dimensions/measured.json

For each seed 1,200 images are the pool and 597 test it. A strategy chooses 40 of the pool by pixels beside so many features
of noise, each as spread as a pixel is on average; every test image then gets the class of the chosen image whose pixels are
nearest. The noise is there for the choice alone, and Random does not see it. What came out is in `docs/reproduction.md`.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch

from deepal import fingerprint
from deepal.data import Digits
from deepal.functional import dimension, neighbors
from deepal.preflight import environment
from deepal.signals import Signals
from deepal.strategies import CoreSet, KMeans, MaxHerding, Projected, QueryStrategy, Random, TypiClust, View
from deepal.strategies.base import choose

LABELS, POOL, PIXELS = 40, 1200, 64
NOISE = (0, 16, 64, 256, 1024)
COMPARED = (CoreSet(), KMeans(), TypiClust(), MaxHerding())
STRATEGIES: tuple[QueryStrategy, ...] = (Random(), *COMPARED, *(Projected(each, 32) for each in COMPARED))


def main() -> None:
    """Choose, and write down what one nearest neighbor makes of it, and how distances are spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--out", type=Path, default=Path("dimensions.json"), help="the file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = Digits().load()
    images = torch.cat([each.images(range(len(each))) for each in (loaded.train, loaded.test)]).flatten(1).float()
    classes = torch.cat([each.targets(range(len(each))) for each in (loaded.train, loaded.test)])
    accuracy: dict[str, dict[int, list[float]]] = {_name(each): {noise: [] for noise in NOISE} for each in STRATEGIES}
    spread: dict[str, dict[int, list[float]]] = {name: {noise: [] for noise in NOISE} for name in dimension.Spread._fields}
    for seed, noise in product(range(options.seeds), NOISE):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        pool, test = images[order[:POOL]], images[order[POOL:]]
        seen = torch.cat([pool, pool.std(0).mean() * torch.randn(POOL, noise, generator=generator)], 1)
        view = View(Signals.of({"embedding": seen}), Signals.of({"embedding": seen[:0]}))
        for strategy in STRATEGIES:
            rows = choose(strategy, view, LABELS, torch.Generator().manual_seed(seed)).rows
            nearest = order[rows[neighbors.nearest(test, pool[rows])[1].squeeze(1)]]
            hits = (classes[nearest] == classes[order[POOL:]]).double().mean()
            accuracy[_name(strategy)][noise].append(round(float(hits), 4))
        found = dimension.spread(seen, generator)
        assert found
        for name, value in found._asdict().items():
            spread[name][noise].append(round(value, 3))
        print(f"seed {seed}, {PIXELS + noise} features", end="\r", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    made_with = environment(torch.device("cpu"), threads=1, processes=1)
    made_with.pop("host")
    parts = [f'"environment": {json.dumps(made_with)}']
    for name, measured in (("accuracy", accuracy), ("spread", spread)):
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(each)}" for key, each in measured.items())
        parts.append(f'"{name}": {{\n{lines}\n}}')
    options.out.write_text("{" + ",\n".join(parts) + "}\n")


def _name(strategy: QueryStrategy) -> str:
    title = fingerprint.title(fingerprint.describe(strategy))
    return title if "(" in title else f"{title}()"


if __name__ == "__main__":
    main()
