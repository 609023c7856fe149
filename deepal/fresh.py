"""Fresh parts: what a cycle trains with is made in that cycle. A Trainer that has fitted once does not fit again, and a
module that is used again carries its weights along."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger


def make_module(module: Callable[[], LightningModule]) -> LightningModule:
    """A copy of an instance, or what a function makes. The function is copied first: the parts that it was given were built
    once, and would be the same objects in every cycle."""
    fresh = deepcopy(module)
    return fresh if isinstance(fresh, LightningModule) else fresh()


def make_trainer(
    options: Mapping[str, Any], folder: Path, curves: Path | None = None, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """A Trainer of these options that says nothing by itself.

    Args:
        options: as the user gave them; their callbacks are copied.
        folder: where Lightning may put files.
        curves: the folder of the CSV file that it logs to; None for none.
        callbacks: ours, called before the user's.
    """
    theirs = deepcopy(options.get("callbacks") or [])
    return Trainer(
        **{
            **options,
            "callbacks": [*callbacks, *(theirs if isinstance(theirs, list) else [theirs])],
            "logger": CSVLogger(curves.parent, name=None, version=curves.name) if curves else False,
            "default_root_dir": folder,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,  # the loaders know their share
        }
    )


def steps_of(trainer: Trainer, batches: int) -> int | None:
    """How many steps a fit of so many batches an epoch takes at most; None where that cannot be said."""
    of_epochs = (trainer.max_epochs or 0) * batches
    return min((each for each in (trainer.max_steps, of_epochs) if each > 0), default=None)


@contextmanager
def gpus_looked_for_once() -> Iterator[None]:
    """Where there is no GPU, torch searches for a driver in each step of an optimizer, which takes a fourth of a small one;
    that none are visible is known at once."""
    if "CUDA_VISIBLE_DEVICES" in os.environ or torch.cuda.device_count():
        yield
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
