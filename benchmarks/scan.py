"""What the loop costs beyond bare PyTorch: a scan against the forward pass, a fit against the training steps.

    python benchmarks/scan.py --root DATA            # DATA holds MNIST in torchvision's layout

One process, one thread, data in memory, CPU-seconds (user and system), both sides in alternation; the ratio of each pair
is taken, and the median of the pairs printed. A bare forward pass is the fastest of three batch sizes over images that are
normalised already, under inference mode, and keeps the same signals.
"""

import argparse
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from deepal import callbacks
from deepal.data import MNIST, ActiveDataModule, Digits
from deepal.fresh import make_trainer
from deepal.modules import Classifier
from deepal.nn import MLP, BatchBALDCNN
from deepal.scan import Scan
from deepal.watching import quiet_lightning

SIGNALS = ("probs", "embedding")
STEPS, BATCH = 500, 64


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="the folder that holds MNIST")
    parser.add_argument("--pairs", type=int, default=5, help="how often each pair is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    mnist = begun(MNIST(root=options.root, epoch_steps=100, validation=0), labeled=1000)
    digits = begun(Digits(epoch_steps=100, validation=0), labeled=200)

    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread, CPU-seconds\n")
    print("| workload | bare | deepal | ratio |\n|---|---|---|---|")
    with quiet_lightning():
        row("scan, 60,000 MNIST images, CNN of BatchBALD", *scan_pair(mnist), options.pairs)
        for name, data, backbone in (
            ("fit, 500 steps of 64, CNN of BatchBALD", mnist, BatchBALDCNN),
            ("fit, 500 steps of 64, MLP on digits", digits, MLP),
        ):
            bare, ours = fit_pair(data, backbone, STEPS)
            row(name, bare, ours, options.pairs)
        fixed = statistics.median(seconds(fit_pair(digits, MLP, 1)[1]) for _ in range(4 * options.pairs))
    print(f"\nfixed cost of one cycle's Trainer (a fit of one step): {1000 * fixed:.0f} ms")


def row(name: str, bare: Callable[[], None], ours: Callable[[], None], pairs: int) -> None:
    """Measure a pair in alternation, and print its medians."""
    bare(), ours()  # warm caches, once
    measured = [(seconds(bare), seconds(ours)) for _ in range(pairs)]
    medians = [statistics.median(each) for each in zip(*measured, strict=True)]
    ratio = statistics.median(second / first for first, second in measured)
    print(f"| {name} | {medians[0]:.2f} s | {medians[1]:.2f} s | {ratio:.2f} |", flush=True)


def seconds(work: Callable[[], None]) -> float:
    """CPU-seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def begun(data: ActiveDataModule, labeled: int) -> ActiveDataModule:
    """A data module with so many labels."""
    data.begin(seed=0, validation_size=0)
    chosen = data.pool.index[:labeled]
    data.pool.label(chosen, [data.classes.index(data.true_label(position)) for position in chosen], cycle=0)
    return data


def drawn(data: ActiveDataModule, backbone: type) -> Classifier:
    """A classifier, its weights drawn."""
    torch.manual_seed(0)
    module = Classifier(backbone)
    module.configure_network(data.task)
    return module


def scan_pair(data: ActiveDataModule) -> tuple[Callable[[], None], Callable[[], None]]:
    """The bare forward pass over all training images, and our scan."""
    module = drawn(data, BatchBALDCNN).eval()
    images = data.task.normalize(data._set.train.images(range(60_000)))
    network = module.network

    def forward(batch: int) -> None:
        with torch.inference_mode():
            kept: list[tuple[Tensor, Tensor]] = []
            for some in images.split(batch):
                embedding = network.forward_features(some)
                kept.append((torch.softmax(network.head(embedding), -1), embedding))
            for each in zip(*kept, strict=True):
                torch.cat(each)

    fastest = min((128, 512, 2048), key=lambda batch: min(seconds(lambda: forward(batch)) for _ in range(2)))
    scan = Scan(module=module, data=data, device=torch.device("cpu"))
    return lambda: forward(fastest), lambda: scan.read(torch.arange(60_000), SIGNALS) and None


def fit_pair(data: ActiveDataModule, backbone: type, steps: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The bare training steps, and a fit as the learner makes it: checkpoints, curves and progress included."""
    positions = torch.tensor(data.pool.labeled)
    images, targets = data.task.normalize(data._set.train.images(positions)), torch.tensor(data.pool.labels)

    def bare() -> None:
        network = drawn(data, backbone).network.train()
        optimizer = torch.optim.Adam(network.parameters())
        taken = 0
        while taken < steps:
            for rows in torch.randperm(len(images)).split(BATCH)[: steps - taken]:
                loss = nn.functional.cross_entropy(network(images[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                taken += 1

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            extra = [
                callbacks.ResumableFit(path / "fit.ckpt", 0, "", lambda epoch: None),
                callbacks.StepProgress(lambda done: None),
            ]
            trainer = make_trainer(
                {"max_steps": steps, "accelerator": "cpu", "devices": 1}, path, path / "curves" / "0", extra
            )
            trainer.fit(drawn(data, backbone), datamodule=data)

    return bare, ours


if __name__ == "__main__":
    main()
