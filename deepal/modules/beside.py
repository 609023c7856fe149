"""Parts of a module that are trained beside its classifier, each by an optimizer of its own (Lightning's manual
optimization)."""

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from torch import Tensor
from torch.optim import Optimizer


def optimized_beside(optimized: Any, *others: Optimizer) -> Any:
    """What `configure_optimizers` returns, of what `Measured.optimized_by` has made and of the others."""
    first, schedules = optimized, []
    if isinstance(optimized, dict):
        first, schedules = optimized["optimizer"], [optimized["lr_scheduler"]]
    return [first, *others], schedules


def optimizers_of(module: LightningModule) -> list[LightningOptimizer]:
    """The optimizers of a module. A step of the fit is one of the first."""
    first, *others = module.optimizers()
    for other in others:
        other._on_before_step = other._on_after_step = do_nothing_closure
    return [first, *others]


def step(module: LightningModule, loss: Tensor, *optimizers: LightningOptimizer) -> None:
    """A step by this loss, of these optimizers."""
    for each in optimizers:
        each.zero_grad()
    module.manual_backward(loss)
    for each in optimizers:
        each.step()
