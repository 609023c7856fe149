"""What posteriors and joint predictions cost, beside the peers: MC dropout, BatchBALD, ensembles.

    pip install -e ".[peers]"
    python benchmarks/posteriors.py --root DATA      # DATA holds MNIST in torchvision's layout

Sides and ratios are as in `pairs.py`.
"""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pairs
import torch
from torch import nn

from deepal.data import MNIST
from deepal.functional import joint
from deepal.modules import Classifier, Ensemble
from deepal.nn import MLP, GalCNN, ResNet18
from deepal.nn.together import Side
from deepal.probes import MCDropout
from deepal.scan import Scan
from deepal.signals import Signals
from deepal.strategies import BALD
from deepal.strategies.base import View, choose
from deepal.task import Task

IMAGES, SAMPLES = 10_000, 10_000
DROPPED = partial(ResNet18, dropout=0.5)
DRAWN = Path("draws.pt")


def classifier(root: str, backbone: Any, labels: int = 0, **options: Any) -> tuple[Classifier, MNIST]:
    """A classifier, trained for a moment on a few labels, and MNIST."""
    data = MNIST(root=root, validation=0)
    data.begin(0, 0)
    torch.manual_seed(0)
    module = Classifier(backbone, **options)
    module.configure_network(data.task)
    optimizer = module.configure_optimizers()
    for _ in range(300 if labels else 0):
        positions = torch.randint(labels, (64,))
        batch = {
            "input": data.task.normalize(data._set.train.images(positions)),
            "target": data._set.train.targets(positions),
        }
        optimizer.zero_grad()
        module.loss(batch, labels)[0].backward()
        optimizer.step()
    return module.eval(), data


# MC dropout


def ours(root: str, draws: int, backbone: Any = GalCNN, images: int = IMAGES) -> Callable[[], Any]:
    """BALD of these images, as a run reads them."""
    module, data = classifier(root, backbone, posterior=MCDropout(draws))
    scan = Scan(module, data, torch.device("cpu"))
    pool = Signals(torch.arange(images), scan)
    return lambda: choose(BALD(), View(pool, pool), 10, torch.Generator().manual_seed(0))


def baal(root: str, draws: int, batch_size: int = 128) -> Callable[[], Any]:
    """Baal's draws of the same network for the same images, held by it as one array."""
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs
    from torch.utils.data import TensorDataset

    module, data = classifier(root, GalCNN)
    images = data.task.normalize(data._set.train.images(torch.arange(IMAGES)))
    wrapper = ModelWrapper(patch_module(module.network), TrainingArgs(batch_size=batch_size, workers=0))
    return lambda: wrapper.predict_on_dataset(TensorDataset(images, torch.zeros(IMAGES)), iterations=draws, verbose=False)


def passes(root: str, draws: int, images: int) -> Callable[[], Any]:
    """A pass through the whole network for each draw."""
    module, data = classifier(root, DROPPED)
    for each in module.modules():
        each.train(isinstance(each, nn.Dropout))
    inputs = data.task.normalize(data._set.train.images(torch.arange(images)))

    def read() -> None:
        with torch.inference_mode():
            for some in inputs.split(128):
                torch.stack([module.probs(some) for _ in range(draws)], 1)

    return read


# BatchBALD


def draw(root: str) -> Path:
    """Write draws of a network that has learned from 100 labels."""
    module, data = classifier(root, GalCNN, labels=100, posterior=MCDropout(100))
    drawn = Scan(module, data, torch.device("cpu")).read(torch.arange(IMAGES), ("mc_probs",))["mc_probs"]
    torch.save(drawn, DRAWN)
    return DRAWN


def lazy(query_size: int) -> Callable[[], Any]:
    """Ours."""
    drawn = torch.load(DRAWN)

    def batch() -> dict[str, Any]:
        found = joint.batch_bald(drawn, query_size, SAMPLES, torch.Generator().manual_seed(0))
        return {"rows": found.rows.tolist(), "share": found.evaluated / (query_size - 1) / IMAGES}

    return batch


def redux(query_size: int) -> Callable[[], Any]:
    """The authors' own later implementation."""
    from batchbald_redux.batchbald import get_batchbald_batch

    drawn = torch.load(DRAWN)

    def batch() -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()):
            found = get_batchbald_batch(drawn.double().log(), query_size, SAMPLES, dtype=torch.double, device="cpu")
        return {"rows": found.indices}

    return batch


# Ensembles


def trained(backbone: Any, shape: tuple[int, int, int], how: str) -> Callable[[], Any]:
    """200 steps of five networks, in a stack, side by side, or each by itself."""
    task = Task(shape, tuple("0123456789"), (0.0,), (1.0,))
    torch.manual_seed(0)
    modules: list[Any] = [Classifier(backbone) for _ in range(5)] if how == "apart" else [Ensemble(Classifier(backbone), 5)]
    for module in modules:
        module.configure_network(task)
        if how == "side":
            module.networks = Side(module._networks(task))
    optimizers = [module.configure_optimizers() for module in modules]
    size = 64 if how == "apart" else 5 * 64
    images, targets = torch.randn(size, *shape), torch.randint(10, (size,))

    def steps() -> None:
        for _ in range(200):
            for module, optimizer in zip(modules, optimizers, strict=True):
                optimizer.zero_grad()
                module.loss({"input": images, "target": targets}, 1000)[0].backward()
                optimizer.step()

    return steps


def _mlp(shape: Any, classes: int) -> MLP:
    return MLP(shape, classes)


SIDES: dict[str, Callable[[str], Callable[[], Any]]] = {
    "deepal, 20 draws": lambda root: ours(root, 20),
    "baal, 20 draws": lambda root: baal(root, 20),
    "deepal, 100 draws": lambda root: ours(root, 100),
    "baal, 100 draws": lambda root: baal(root, 100),
    "head once": lambda root: ours(root, 20, DROPPED, 512),
    "head, passes": lambda root: passes(root, 20, 512),
    "lazy, 10": lambda root: lazy(10),
    "redux, 10": lambda root: redux(10),
    "lazy, 50": lambda root: lazy(50),
    "dense, stack": lambda root: trained(_mlp, (1, 8, 8), "stack"),
    "dense, side": lambda root: trained(_mlp, (1, 8, 8), "side"),
    "dense, apart": lambda root: trained(_mlp, (1, 8, 8), "apart"),
    "convolutions, side": lambda root: trained(GalCNN, (1, 28, 28), "side"),
    "convolutions, apart": lambda root: trained(GalCNN, (1, 28, 28), "apart"),
}
ROWS = [
    ("MC dropout, 20 draws, CNN of Gal et al., 10,000 images, beside baal", "deepal, 20 draws", "baal, 20 draws"),
    ("MC dropout, 100 draws, the same", "deepal, 100 draws", "baal, 100 draws"),
    ("dropout before the last layer of a ResNet-18, 20 draws, 512 images, beside 20 passes", "head once", "head, passes"),
    ("BatchBALD, 10 of 10,000, 100 draws, 10,000 samples, beside batchbald_redux", "lazy, 10", "redux, 10"),
    ("BatchBALD, 50 of 10,000, beside 10 of them", "lazy, 10", "lazy, 50"),
    ("ensemble of 5 MLPs, 200 steps: a stack, beside five fits", "dense, stack", "dense, apart"),
    ("ensemble of 5 MLPs, 200 steps: side by side, beside five fits", "dense, side", "dense, apart"),
    ("ensemble of 5 CNNs, 200 steps: side by side, beside five fits", "convolutions, side", "convolutions, apart"),
]


if __name__ == "__main__":
    pairs.main(__doc__ or "", SIDES, ROWS, draw)
