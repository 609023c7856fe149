"""A fit: Lightning's, step by step; or, where nobody looks at single steps, many of them in one of Lightning's.

A training step of a small network takes less time than what Lightning does around it. Where the images are in memory, the
module and the data are of a class that is known to be fit for it, and neither callbacks nor options ask for what happens
around a batch, the loader serves blocks of batches, and the module steps through a block by itself (manual optimization).
Order, coins and arithmetic are those of the ordinary path, so the weights are the same, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deepal.callbacks import StepProgress
from deepal.data.datamodule import ActiveDataModule
from deepal.data.loading import Block

_STEPS = 100
"""Of a block: Lightning's share of a step is lost in them, and people still see that it goes on."""

HARMLESS = {
    "accelerator",
    "benchmark",
    "callbacks",
    "deterministic",
    "devices",
    "log_every_n_steps",
    "max_epochs",
    "max_steps",
}
"""Options of a Trainer that are not about single steps; `max_steps` ends with a block (`loading.InBlocks`)."""

_OF_CALLBACKS = (
    "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step",
)  # fmt: skip
_OF_DATA = ("train_dataloader", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def fit(trainer: Trainer, module: LightningModule, data: ActiveDataModule, options: Mapping[str, Any]) -> None:
    """Train a module on what is labeled. Args: options: that the Trainer was made of."""
    if _may_take_blocks(trainer.callbacks, module, data, options):  # type: ignore[attr-defined]
        with _in_blocks(module, data):
            trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module, datamodule=data)


def _may_take_blocks(
    callbacks: Sequence[Callback], module: LightningModule, data: ActiveDataModule, options: Mapping[str, Any]
) -> bool:
    """Whether nothing is lost when many steps are one to Lightning. A class says so for itself (`in_blocks = True`), and
    not for its subclasses, which may do anything in a step."""
    watching = [each for each in callbacks if not isinstance(each, StepProgress)]
    return (
        vars(type(module)).get("in_blocks", False)
        and "training_step" not in vars(module)
        and module.automatic_optimization
        and data.in_memory
        and all(getattr(type(data), hook) is getattr(ActiveDataModule, hook) for hook in _OF_DATA)
        and set(options) <= HARMLESS
        and not any(is_overridden(hook, each, Callback) for each in watching for hook in _OF_CALLBACKS)
        and _steps_plainly(module.configure_optimizers())
    )


def _steps_plainly(optimizers: Any) -> bool:
    """Whether there is one optimizer, and a schedule, if any, that steps with it."""
    if isinstance(optimizers, Optimizer):
        return True
    if not isinstance(optimizers, dict) or not isinstance(optimizers.get("optimizer"), Optimizer):
        return False
    schedule = optimizers.get("lr_scheduler")
    return (
        isinstance(schedule, dict)
        and isinstance(schedule.get("scheduler"), LRScheduler)
        and not isinstance(schedule["scheduler"], ReduceLROnPlateau)
        and schedule.get("interval") == "step"
        and schedule.get("frequency", 1) == 1
    )


@contextmanager
def _in_blocks(module: LightningModule, data: ActiveDataModule) -> Iterator[None]:
    """Let the loader serve blocks, and the module step through them."""
    step: Any = module.training_step
    module.automatic_optimization, data.block = False, _STEPS

    def step_through(block: Block, batch_idx: int) -> None:
        _step_through(module, step, data, block)

    module.training_step = step_through  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.training_step
        module.automatic_optimization, data.block = True, None


def _step_through(
    module: LightningModule, step: Callable[[Any, int], Mapping[str, Tensor]], data: ActiveDataModule, block: Block
) -> None:
    """What Lightning does with each of the batches: a training step inside the optimizer's, and the schedule's."""
    trainer = module.trainer
    optimizer, schedules = trainer.optimizers[0], [each.scheduler for each in trainer.lr_scheduler_configs]
    for index, batch in enumerate(data.batches_of(block), block.first):

        def loss_of(batch: Any = batch, index: int = index) -> Any:
            with torch.enable_grad():
                loss = step(batch, index)["loss"]
            optimizer.zero_grad()
            loss.backward()
            return loss

        optimizer.step(loss_of)
        for schedule in schedules:
            schedule.step()
    _count(trainer, len(block.rows))


def _count(trainer: Trainer, steps: int) -> None:
    """Let Lightning count the steps of a block, of which it sees one."""
    loop = trainer.fit_loop.epoch_loop
    progress = loop.manual_optimization.optim_step_progress.total
    progress.ready += steps
    progress.completed += steps
    loop._batches_that_stepped += steps - 1
