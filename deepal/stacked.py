"""Heads on frozen features, trained together: the fits of many runs as one, each of which comes out as it would by itself.

A step of one head takes less time than what is around it; a step of fifty is a few products of matrices. Each run has its
own labels, its own initial weights and its own order of its images, which are drawn as in a fit of its own, and nothing of
one head enters another: weights differ by rounding alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from deepal import fingerprint, fresh
from deepal.fitting import HARMLESS
from deepal.modules import Classifier
from deepal.nn import Frozen
from deepal.nn.together import BY_NUMBER, Heads


class Loaded(Protocol):
    """A data module that serves rows of features."""

    trainer: Any

    def train_dataloader(self) -> Any: ...


class Fit(NamedTuple):
    """What a fit needs. Args: module: to train; data: what on; trainer: says how long, and where."""

    module: Any
    data: Loaded
    trainer: Trainer


def why_not(module: LightningModule, options: Mapping[str, Any]) -> str | None:
    """Why fits of this module cannot be a stack, as the end of a sentence; None where they can.

    Args: options: that the Trainer is made of.
    """
    network = getattr(module, "network", None)
    if type(module) is not Classifier or not isinstance(network, Frozen):
        return f"is for Classifier(frozen=True), and the module is {type(module).__name__}"
    if not Heads.hold(network) or module.posterior is not None:
        return "is for linear layers on frozen features, without dropout (Headed(dropout=0)) and without a posterior"
    made = module.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    if type(optimizer) not in BY_NUMBER:
        return f"is for optimizers that look at each number by itself, and {type(optimizer).__name__} does not"
    if options.get("max_steps", -1) <= 0 and (options.get("max_epochs") or -1) <= 0:
        return "needs an end: give trainer.max_steps or trainer.max_epochs"
    for name in sorted({*options} - (HARMLESS - {"callbacks"})):
        return f"trains without Lightning's loop, which trainer.{name} is for; leave it out"
    return None


def fit_together(fits: Sequence[Fit]) -> dict[int, Exception]:
    """Train modules for which `why_not` has nothing to say, those at once that can be: of one shape and one recipe, with as
    many images in batches of the same sizes.

    Returns what has gone wrong, by place; where a stack cannot be trained, its heads are, one by one.
    """
    alike: dict[Any, list[int]] = defaultdict(list)
    orders, failed = {}, {}
    for number, fit in enumerate(fits):
        try:
            fit.data.trainer = fit.trainer
            loader = fit.data.train_dataloader()
            orders[number] = list(islice(_rows(loader), fresh.steps_of(fit.trainer, len(loader))))
            shape = tuple(tuple(each.shape) for each in fit.module.network.parameters())
            recipe = fingerprint.digest(fingerprint.describe([fit.module.optimizer, fit.module.scheduler]))
            sizes = tuple(map(len, orders[number]))
            alike[shape, recipe, fit.module.weight_penalty, len(loader.dataset), sizes].append(number)
        except Exception as error:
            failed[number] = error
    waiting = list(alike.values())
    while waiting:
        group = waiting.pop(0)
        try:
            _fit([fits[number] for number in group], [orders[number] for number in group])
        except Exception as error:
            if len(group) == 1:
                failed[group[0]] = error
            else:
                waiting += [[number] for number in group]
    return failed


def _fit(fits: Sequence[Fit], orders: Sequence[Sequence[Tensor]]) -> None:
    """Train modules that can be one stack. Args: orders: the rows of each batch, of each."""
    device, modules = fits[0].trainer.strategy.root_device, [fit.module for fit in fits]
    served = [fit.data.train_dataloader().dataset for fit in fits]
    images = len(served[0])
    everything = [each[torch.arange(images)] for each in served]
    features, targets = (torch.cat([each[name] for each in everything]).to(device) for name in ("input", "target"))
    heads = Heads([module.network.to(device) for module in modules])
    made = modules[0].optimized_by(modules[0].optimizer, modules[0].scheduler, heads.parameters())
    optimizer, schedule = (made["optimizer"], made["lr_scheduler"]["scheduler"]) if isinstance(made, dict) else (made, None)
    first = images * torch.arange(len(fits)).unsqueeze(1)
    for batches in zip(*orders, strict=True):
        rows = (torch.stack(batches) + first).to(device)
        own = features.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        loss = functional.cross_entropy(heads(own), targets[rows], reduction="sum") / rows.shape[1]  # a sum of means
        loss = loss + modules[0].penalty(heads.hidden_weights(), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
    heads.hand_back([module.network for module in modules])


def _rows(loader: DataLoader) -> Iterator[Tensor]:
    """The rows of each batch, epoch by epoch."""
    for epoch in count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from list(loader.sampler)
