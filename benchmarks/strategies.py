"""Strategies on scikit-learn's digits, over paired seeds: for one seed, the same first labels and the same first weights.

    python benchmarks/strategies.py --seeds 10 --workers 2

20 to 200 labels, 10 a cycle, no validation set; an MLP of two hidden layers of 128 units with dropout 0.5, trained from
scratch with Adam (3e-3) for 300 full-batch steps. AULC is the area under test accuracy against labels (trapezoids) over the
range of labels. A run that was stopped goes on; a run that is there is not repeated.
"""

import argparse
import multiprocessing
import statistics
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from rich.progress import track

from deepal import Learner
from deepal.data import Digits
from deepal.ledger import Result
from deepal.modules import Classifier
from deepal.strategies import (
    BADGE,
    CoreSet,
    Entropy,
    KMeans,
    LeastConfidence,
    Margin,
    Prefilter,
    QueryStrategy,
    Random,
)

MARGIN_THEN_KMEANS = Prefilter(Margin(), KMeans(), factor=10)
STRATEGIES = (Random(), Margin(), LeastConfidence(), Entropy(), BADGE(), CoreSet(), KMeans(), MARGIN_THEN_KMEANS)


def main() -> None:
    """Run every strategy with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--root", type=Path, default=Path("runs/strategies"))
    options = parser.parse_args()
    jobs = [(strategy, seed) for seed in range(options.seeds) for strategy in STRATEGIES]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        done = pool.imap(partial(run, options.root), jobs)
        curves = dict(zip(jobs, track(done, "runs", total=len(jobs)), strict=True))

    print("| strategy | AULC [20, 200] | against Random, paired | wins | labels to 90 % | accuracy with 200 labels |")
    print("|---|---|---|---|---|---|")
    random = [area(curves[Random(), seed]) for seed in range(options.seeds)]
    for strategy in STRATEGIES:
        own = [curves[strategy, seed] for seed in range(options.seeds)]
        gains = [area(curve) - base for curve, base in zip(own, random, strict=True)]
        wins = "-" if strategy == Random() else f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        gain = "-" if strategy == Random() else f"{statistics.mean(gains):+.4f} ± {statistics.stdev(gains):.4f}"
        final = statistics.mean(curve[-1][1] for curve in own)
        reached = statistics.median(labels_to(0.9, curve) for curve in own)
        areas = [area(curve) for curve in own]
        name = repr(strategy).replace(", keep=None", "")
        print(
            f"| `{name}` | {statistics.mean(areas):.4f} ± {statistics.stdev(areas):.4f} | {gain} | {wins} | "
            f"{reached:.0f} | {final:.4f} |"
        )


def run(root: Path, job: tuple[QueryStrategy, int]) -> list[tuple[int, float]]:
    """One run: its curve, (labels, test accuracy)."""
    strategy, seed = job
    learner = Learner(
        strategy=strategy,
        module=partial(Classifier, optimizer=partial(torch.optim.Adam, lr=3e-3)),
        data=Digits(batch_size=256, epoch_steps=100, validation=0),
        trainer={"max_steps": 300},
        query_size=10,
        budget=200,
        seed=seed,
        root=root,
    )
    return [point(result) for result in learner.run()]


def point(result: Result) -> tuple[int, float]:
    """(labels, test accuracy)."""
    return result.labels, result.metrics["test/accuracy"]


def area(curve: list[tuple[int, float]]) -> float:
    """Trapezoids under a curve, over its range of labels."""
    pairs = pairwise(curve)
    return sum((b - a) * (y + z) / 2 for (a, y), (b, z) in pairs) / (curve[-1][0] - curve[0][0])


def labels_to(accuracy: float, curve: list[tuple[int, float]]) -> float:
    """The fewest labels that reach an accuracy; infinite where none does."""
    return next((labels for labels, reached in curve if reached >= accuracy), float("inf"))


if __name__ == "__main__":
    main()
