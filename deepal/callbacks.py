"""What is done while a module trains: an exact restart, stopping, and keeping the best weights."""

import logging
import pickle
import sys
import time
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from deepal import folder, seeds

log = logging.getLogger(__name__)


SECONDS_APART = 2.0
"""Between two saved states of a fit, at least: saving one costs more than a short epoch does."""


class ResumableFit(Callback):
    """Saves the whole state of a fit at the start of epochs, atomically, and takes a killed fit up from there, bit for bit.

    Lightning's own restart depends on where in a loop a checkpoint was taken; a fit that is only ever taken up at the
    start of an epoch needs two counters, the states of modules, optimizers, schedulers and callbacks, and a seed: each
    epoch draws from (seed, epoch) alone. A fit that stops needs no state, so none is saved after the last epoch; and one
    that has just saved saves nothing for a while: what a kill costs is an epoch, or that while.

    Args:
        path: of the state file, one a fit.
        seed: of the fit.
        of: a hash of what the fit learns from; the state of another fit is not taken up.
        started: told the epoch that the fit starts with.
    """

    def __init__(self, path: Path, seed: int, of: str, started: Callable[[int], None]) -> None:
        self.path, self.seed, self.of, self.started = path, seed, of, started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = self._saved(pl_module.device)
        if state:
            self._restore(state, trainer, pl_module)
        self._saved_at = time.monotonic()
        self.started(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.current_epoch and time.monotonic() - self._saved_at >= SECONDS_APART:
            self._save(trainer, pl_module)
            self._saved_at = time.monotonic()
        own_coins = (trainer.global_rank,) if trainer.global_rank else ()
        seeds.set_global(seeds.derive(self.seed, "epoch", trainer.current_epoch, *own_coins))

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        state: dict[str, Any] = {
            "of": self.of,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "module": module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "precision": trainer.precision_plugin.state_dict(),
            "callbacks": {key: callback.state_dict() for key, callback in self._others(trainer).items()},
            "own": {},  # what a module keeps besides its weights, through Lightning's own hooks
        }
        module.on_save_checkpoint(state["own"])
        folder.write_atomically(self.path, lambda partial: torch.save(state, partial))

    def _saved(self, device: torch.device) -> dict[str, Any]:
        """The state of this fit, empty where there is none, or a file that was cut off."""
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
        except FileNotFoundError:
            return {}
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s); the fit starts anew.", self.path, error)
            return {}
        return state if state["of"] == self.of else {}

    def _restore(self, state: dict[str, Any], trainer: Trainer, module: LightningModule) -> None:
        module.load_state_dict(state["module"])
        module.on_load_checkpoint(state["own"])
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for config, saved in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
            config.scheduler.load_state_dict(saved)
        trainer.precision_plugin.load_state_dict(state["precision"])
        for key, callback in self._others(trainer).items():
            callback.load_state_dict(state["callbacks"][key])
        _count_as_done(trainer, state["epoch"], state["step"])

    def _others(self, trainer: Trainer) -> dict[str, Callback]:
        every = enumerate(trainer.callbacks)  # type: ignore[attr-defined]
        return {f"{i} {each.state_key}": each for i, each in every if each is not self}


def _count_as_done(trainer: Trainer, epochs: int, steps: int) -> None:
    """Let a fit that is about to enter its first epoch count as one that has finished so many epochs and steps."""
    loop: Any = trainer.fit_loop
    for counts in (loop.epoch_progress.current, loop.epoch_progress.total):
        counts.ready = counts.started = counts.processed = counts.completed = epochs
    loop.epoch_loop._batches_that_stepped = steps
    automatic = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    manual = loop.epoch_loop.manual_optimization.optim_step_progress.total
    for steps_taken in (automatic, manual):
        steps_taken.ready = steps_taken.completed = steps


class StopAtTrainingAccuracy(EarlyStopping):
    """Ends a fit with the first epoch whose training accuracy, measured while training, reaches `accuracy`.

    Args: accuracy: within (0, 1].
    """

    def __init__(self, accuracy: float = 0.99) -> None:
        if not 0 < accuracy <= 1:
            raise ValueError(f"StopAtTrainingAccuracy(accuracy={accuracy}) must be above 0 and at most 1.")
        self.accuracy = accuracy
        super().__init__(
            "train/accuracy",
            mode="max",
            stopping_threshold=accuracy - 1e-6,  # which has to be exceeded, and 1 cannot be
            patience=sys.maxsize,
            check_on_train_epoch_end=True,
        )


class BestWeights(Callback):
    """Ends a fit with the weights of the epoch that was best on validation; with Lightning's `EarlyStopping` beside it,
    early stopping that keeps the best. Parts that a module calls `unmeasured`, because validation says nothing of them,
    stay as they are in the end.

    Args: monitor: a validation metric; mode: whether `max` or `min` is best.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: Literal["max", "min"] = "max") -> None:
        self.monitor, self.mode = monitor, mode
        self._best: float | None = None
        self._weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            measured = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"BestWeights monitors {self.monitor}, which is not measured; measured are {measured}.")
        value = float(trainer.callback_metrics[self.monitor])
        if self._best is None or isnan(self._best) or (value > self._best if self.mode == "max" else value < self._best):
            self._best = value
            others = tuple(f"{part}." for part in getattr(pl_module, "unmeasured", ()))
            self._weights = {
                name: each.detach().clone() for name, each in pl_module.state_dict().items() if not name.startswith(others)
            }

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._weights:
            raise ValueError(
                f"BestWeights waited for {self.monitor}, and the fit ended without a validation; train longer."
            )
        pl_module.load_state_dict({**pl_module.state_dict(), **self._weights})

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._weights = state_dict["best"], state_dict["weights"]


class StepProgress(Callback):
    """Tells how many steps a fit has taken, at most ten times a second."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.tell = tell
        self._told = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self._told > 0.1:
            self._told = time.monotonic()
            self.tell(trainer.global_step)
