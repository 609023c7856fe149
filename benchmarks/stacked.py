"""Heads of many runs trained as one stack, against one after another, and against a bare script of the same protocol.

    python benchmarks/stacked.py --root data --seeds 50

Features of MNIST under an untrained network of BatchBALD (128 features) or, by `--width`, under a layer of so many units; a
pool of 10,000 images and as many to test on; 20 to 100 labels, 20 a cycle, by Margin; in each of the five cycles a linear
layer from scratch, 300 steps of at most 64 images by Adam. CPU-seconds of one thread; the features have been read before.
"""

import argparse
import logging
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from deepal.data import MNIST, Balanced
from deepal.functional import uncertainty
from deepal.modules import Classifier
from deepal.nn import MLP, BatchBALDCNN
from deepal.strategies import Margin
from deepal.study import Study

FIRST, QUERY, BUDGET, STEPS, BATCH = 20, 20, 100, 300, 64


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--width", type=int, help="of the features; 128 of the network of BatchBALD by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("deepal").setLevel(logging.ERROR)
    backbone = partial(MLP, hidden=[options.width]) if options.width else BatchBALDCNN
    everything = MNIST(root=options.root, batch_size=BATCH, epoch_steps=100, validation=0)
    data = MNIST(root=options.root, batch_size=BATCH, epoch_steps=100, validation=0, pool_size=10_000)
    with tempfile.TemporaryDirectory() as out:
        made = partial(
            Study, strategies=[Margin()], modules=[Classifier(backbone, frozen=True)], query_size=QUERY,
            initial=Balanced(FIRST // 10), trainer={"max_steps": STEPS}, root=Path(out),
        )  # fmt: skip
        made(data=everything, seeds=[0], name="first", budget=FIRST).run()  # which reads all features
        features = Path(out) / "first" / ".features"
        taken, fits, trained, asked = {}, {}, {}, {}
        for name in ("alone", "together"):
            shutil.copytree(features, Path(out) / name / ".features")
            study = made(data=data, seeds=options.seeds, name=name, budget=BUDGET, stacked=name == "together")
            started = time.process_time()
            found = study.run()
            taken[name] = time.process_time() - started
            fits[name] = sum(cycle["seconds"]["fit"] for record in found for cycle in record.times["cycles"])
            asked[name] = {record.seed: [cycle["positions"] for cycle in record.cycles] for record in found}
            trained[name] = {run.seed: load_file(run.folder / "model.safetensors") for run in study.runs.values()}
        (kept,) = features.iterdir()
        rows = [torch.from_numpy(np.load(kept / f"{part}.npy")) for part in ("train", "test")]
    started = time.process_time()
    for seed in range(options.seeds):
        bare(seed, *rows, data)
    taken["bare"] = time.process_time() - started
    apart = {
        seed: max(float((weight - trained["together"][seed][name]).abs().max()) for name, weight in of.items())
        for seed, of in trained["alone"].items()
        if asked["alone"][seed] == asked["together"][seed]
    }
    each = {name: value / options.seeds for name, value in taken.items()}
    print(f"torch {torch.__version__}, 1 thread, {options.seeds} runs of 5 cycles, {rows[0].shape[1]} features")
    print(f"fits: {fits['alone']:.1f} s one after another, {fits['together']:.1f} s as a stack", end="")
    print(f" ({fits['alone'] / fits['together']:.1f} times); the same queries in {len(apart)} runs,", end="")
    print(f" where the last weights differ by {max(apart.values()):.1g} at most")
    print(f"CPU-seconds a run: {each['bare']:.3f} bare, {each['alone']:.3f} one after another", end="")
    print(f" ({each['alone'] / each['bare']:.2f} of bare), {each['together']:.3f} side by side", end="")
    print(f" ({each['together'] / each['bare']:.2f})")


def bare(seed: int, train: Tensor, test: Tensor, data: MNIST) -> None:
    """The protocol, and nothing else: steps of a head, its predictions of the test images and the pool, and the query."""
    coins = torch.Generator().manual_seed(seed)
    targets, test_targets = (images.targets(torch.arange(len(images))) for images in (data._set.train, data._set.test))
    pool = torch.randperm(len(train), generator=coins)[:10_000]
    labeled = torch.cat([pool[targets[pool] == number][: FIRST // 10] for number in range(10)])
    while True:
        head = nn.Linear(train.shape[1], 10)
        optimizer = torch.optim.Adam(head.parameters())
        own, classes, done = train[labeled], targets[labeled], 0
        while done < STEPS:
            for rows in torch.randperm(len(labeled), generator=coins).split(BATCH):
                loss = functional.cross_entropy(head(own[rows]), classes[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1
                if done == STEPS:
                    break
        with torch.inference_mode():
            (head(test).argmax(1) == test_targets).double().mean().item()
            if len(labeled) == BUDGET:
                return
            left = pool[~torch.isin(pool, labeled)]
            scores = uncertainty.margin(torch.softmax(head(train[left]), 1))
        labeled = torch.cat([labeled, left[scores.topk(QUERY).indices]])


if __name__ == "__main__":
    main()
