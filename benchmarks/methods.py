"""What single methods cost: gradient length, contrast with neighbors, and a cycle of VAAL.

    pip install -e ".[peers]"
    python benchmarks/methods.py --root DATA

CPU-seconds (user and system) of one process and one thread, both sides in alternation, the ratio of each pair taken, and
the median of the pairs printed.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from deepal import Learner
from deepal.data import MNIST, AtRandom
from deepal.functional import gradients
from deepal.modules import VAAL, Classifier
from deepal.nn import MLP
from deepal.signals import Signals
from deepal.strategies import CAL, Unlabeledness
from deepal.strategies.base import View, choose
from deepal.task import Task

STEPS, BATCH = 300, 64


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="where MNIST is")
    parser.add_argument("--pairs", type=int, default=3, help="how often each is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("deepal").setLevel(logging.ERROR)
    print("| work | other | deepal | ratio |\n|---|---|---|---|")
    for what, pair in (
        ("EGL, last layer, 10,000 rows, 10 classes, 512 features: `vmap(grad)`", gradient_length(10_000)),
        ("the same, `vmap(grad)` of 100 rows at a time", gradient_length(100)),
        ("CAL, 50,000 x 512, 1,000 labeled, 100 asked: scikit-activeml", contrast()),
        (f"a cycle of VAAL, {STEPS} steps: the bare steps of its three networks", vaal(options.root)),
    ):
        times = [tuple(map(seconds, pair)) for _ in range(options.pairs)]
        other, ours = (statistics.median(each) for each in zip(*times, strict=True))
        ratio = statistics.median(one / two for one, two in times)  # how often ours goes into the other
        print(f"| {what} | {other:.3f} s | {ours:.4f} s | {ratio:.3g} |", flush=True)


def seconds(work: Callable[[], object]) -> float:
    """CPU-seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def gradient_length(rows_at_once: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Of the last layer: by a gradient for each row and class, of so many rows at once, and in closed form."""
    coins = torch.Generator().manual_seed(0)
    embedding, weight = torch.randn(10_000, 512, generator=coins), 0.05 * torch.randn(10, 512, generator=coins)
    probs = torch.softmax(embedding @ weight.T, 1)

    def loss(weight: Tensor, row: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(weight @ row, label)

    def by_gradients() -> Tensor:
        of_labels = torch.func.vmap(torch.func.grad(loss), (None, None, 0))
        of_rows = torch.func.vmap(of_labels, (None, 0, None))
        parts = [of_rows(weight, rows, torch.arange(10)).flatten(2).norm(dim=2) for rows in embedding.split(rows_at_once)]
        return (probs * torch.cat(parts)).sum(1)

    ours = partial(gradients.expected_gradient_length, probs, embedding)
    assert torch.allclose(by_gradients(), ours(), rtol=1e-4)
    return by_gradients, ours


def contrast() -> tuple[Callable[[], object], Callable[[], object]]:
    """What the peer says of features by a classifier that has nothing to compute, and what we say."""
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import ContrastiveAL
    from sklearn.base import BaseEstimator

    coins = torch.Generator().manual_seed(0)
    embedding, weight = torch.randn(51_000, 512, generator=coins), 0.1 * torch.randn(10, 512, generator=coins)
    probs = torch.softmax(embedding @ weight.T, 1)
    features, target = embedding.numpy(), np.full(51_000, np.nan)
    target[50_000:] = probs[50_000:].argmax(1)

    class Known(SkactivemlClassifier, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray) -> "Known":
            return self

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return torch.softmax(torch.as_tensor(X, dtype=torch.float32) @ weight.T, 1).numpy()

    peer = ContrastiveAL(nearest_neighbors_dict={"n_neighbors": 10}, random_state=0)
    known = Known(classes=list(range(10))).fit(features, target)
    pool, labeled = (Signals.of({"embedding": embedding[rows], "probs": probs[rows]}) for rows in (_POOL, _LABELED))
    view = View(pool=pool, labeled=labeled, holdout=labeled)
    return (
        lambda: peer.query(features, target, known, fit_clf=False, batch_size=100),
        lambda: choose(CAL(), view, 100, torch.Generator().manual_seed(0)),
    )


_POOL, _LABELED = slice(0, 50_000), slice(50_000, None)


def vaal(root: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """The steps alone, on images in memory; and a cycle of the learner, which also prepares, keeps, reads and asks."""
    of = partial(Classifier, partial(MLP, hidden=(256,)))
    images = torch.rand(4096, 1, 28, 28)
    targets = torch.randint(10, (4096,))

    def bare() -> None:
        module = VAAL(of, width=16)
        module.configure_network(Task((1, 28, 28), tuple("0123456789"), (0.0,), (1.0,)))
        task, vae, adversary = (
            Adam(module.of.parameters()),
            Adam(module.vae.parameters()),
            Adam(module.adversary.parameters()),
        )
        module._seen = []
        for _ in range(STEPS):
            rows = torch.randint(4096, (5, BATCH))
            losses = [
                (task, lambda rows=rows: module.of.loss({"input": images[rows[0]], "target": targets[rows[0]]}, 500)[0]),
                *[(vae, lambda i=i, rows=rows: module.vae_loss(images[rows[i]], images[rows[i + 2]])) for i in (1, 2)],
                (adversary, lambda rows=rows: module.adversary_loss(images[rows[1]], images[rows[3]])),
            ]
            for optimizer, loss in losses:
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()

    def cycle() -> None:
        with tempfile.TemporaryDirectory() as folder:
            learner = Learner(
                strategy=Unlabeledness(), module=partial(VAAL, of, width=16), initial=AtRandom(500), query_size=100,
                data=MNIST(root=root, batch_size=BATCH, validation=0, pool_size=10_000, epoch_steps=100), budget=600,
                trainer={"max_steps": STEPS}, threads=1, root=Path(folder), test_every=10**6,
            )  # fmt: skip
            first = learner.ask()
            learner.tell(first, [learner.data.true_label(each) for each in first])
            assert len(learner.ask()) == 100

    return bare, cycle


if __name__ == "__main__":
    main()
