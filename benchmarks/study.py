"""What a study costs beyond bare training: runs on digits against a bare PyTorch script of the same protocol.

    python benchmarks/study.py --pairs 5

20 to 200 labels, 10 a cycle; the MLP of 128 and 128 units, Adam, 300 full-batch steps and test accuracy in each cycle;
Random, and Margin, which reads the pool. CPU-seconds (user and system) of one process and one thread, its start and imports
excluded; all measured in alternation, the ratio of each pair taken, and the median of the pairs printed. "Ordinary" is the
same run with a callback that looks at each batch, so that Lightning takes every step by itself.
"""

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from deepal import Learner
from deepal.data import Digits
from deepal.modules import Classifier
from deepal.nn import MLP
from deepal.strategies import Margin, QueryStrategy, Random

FIRST, QUERY, BUDGET, STEPS = 20, 10, 200, 300


class Looks(Callback):
    """Looks at each batch, and sees nothing."""

    def on_train_batch_end(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="how often each is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("deepal").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, 1 thread, CPU-seconds of a run of 19 cycles, {options.pairs} pairs\n")
    print("| strategy | bare | deepal | ratio | ordinary steps | ratio |\n|---|---|---|---|---|---|")
    for strategy in (Random(), Margin()):
        works = (partial(bare, strategy), partial(ours, strategy, []), partial(ours, strategy, [Looks()]))
        for work in works:
            seconds(work)  # warm, once
        measured = [tuple(map(seconds, works)) for _ in range(options.pairs)]
        script, blocks, ordinary = (statistics.median(each) for each in zip(*measured, strict=True))
        ratios = [statistics.median(each[i] / each[0] for each in measured) for i in (1, 2)]
        name = type(strategy).__name__
        print(f"| {name} | {script:.2f} | {blocks:.2f} | {ratios[0]:.2f} | {ordinary:.2f} | {ratios[1]:.2f} |", flush=True)


def seconds(work: Callable[[], None]) -> float:
    """CPU-seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def bare(strategy: QueryStrategy) -> None:
    """The protocol, and nothing else."""
    train, targets, test, test_targets = _tensors()
    generator = torch.Generator().manual_seed(0)
    left = torch.randperm(len(train), generator=generator)
    labeled, left = left[:FIRST], left[FIRST:]
    accuracy = []
    while True:
        network = MLP((1, 8, 8), 10)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        images, classes = train[labeled], targets[labeled]
        for _ in range(STEPS):
            loss = nn.functional.cross_entropy(network(images), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            accuracy.append((network(test).argmax(1) == test_targets).float().mean().item())
            if len(labeled) == BUDGET:
                return
            order = torch.randperm(len(left), generator=generator)
            if isinstance(strategy, Margin):
                first, second = torch.softmax(network(train[left]), 1).topk(2).values.unbind(1)
                order = (first - second).argsort()
        labeled, left = torch.cat([labeled, left[order[:QUERY]]]), left[order[QUERY:]]


def _tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The images of digits, normalised, and their classes."""
    data = Digits(validation=0)
    data.begin(0, 0)
    parts = (data._set.train, data._set.test)
    (train, targets), (test, test_targets) = ((data.task.normalize(each.data), each.classes) for each in parts)
    return train, targets, test, test_targets


def ours(strategy: QueryStrategy, callbacks: list[Callback]) -> None:
    """A run of deepal: ledger, checkpoints, curves, metrics, tables and all."""
    root = Path(tempfile.mkdtemp())
    try:
        Learner(
            strategy=strategy,
            module=partial(Classifier, optimizer=partial(torch.optim.Adam, lr=3e-3)),
            data=Digits(batch_size=256, epoch_steps=100, validation=0),
            trainer={"max_steps": STEPS, "accelerator": "cpu", "callbacks": callbacks},
            query_size=QUERY,
            budget=BUDGET,
            root=root,
        ).run()
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
