"""The processes that work on a run together. The first of them decides; the others do as it says."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from torch import Tensor, distributed, nn

from deepal.data.images import UnreadableError

_LOST = re.compile("gloo|nccl|connection|peer|socket", re.IGNORECASE)
T = TypeVar("T")
_LAUNCHER = "DEEPAL_LAUNCHER"  # in the environment of the processes that the first one has launched: its number
_BLOCK = 2**24  # numbers sent at a time


def _end_with(parent: int) -> None:
    """End this process soon after the one that launched it, wherever it waits."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class RanksError(RuntimeError):
    """The processes of a run cannot go on together."""


class Ranks:
    """One process, or as many as a Trainer asks for, launched as its own launcher would: a second start of the same
    command for each, or whatever torchrun or SLURM have started already.

    Args: trainer: says how many, and which of them this one is.
    """

    def __init__(self, trainer: Trainer | None = None) -> None:
        self.rank = trainer.global_rank if trainer else 0
        self.processes = trainer.world_size if trainer else 1
        self.device = trainer.strategy.root_device if trainer else torch.device("cpu")
        self._nodes = trainer.num_nodes if trainer else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that decides, and alone writes."""
        return self.rank == 0

    def meet(self) -> None:
        """Launch the others, or come to where they wait."""
        if self.processes > 1 and not distributed.is_initialized():
            if self.first:
                os.environ[_LAUNCHER] = str(os.getpid())
            else:
                launcher = int(os.environ.get(_LAUNCHER, os.getppid()))
                threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
            accelerator = "cpu" if self.device.type == "cpu" else "gpu"
            devices = self.processes // self._nodes
            Fabric(accelerator=accelerator, devices=devices, num_nodes=self._nodes, strategy="ddp").launch()

    def decided(self, decide: Callable[[], T]) -> T:
        """What the first process decides, told to all."""
        decision = [decide() if self.first else None]
        if self.processes > 1:
            distributed.broadcast_object_list(decision, device=self._meeting_place())
        return decision[0]  # type: ignore[return-value]

    def in_turn(self, do: Callable[[], T]) -> T:
        """What each process does, the first one before the others: what it leaves in files they find there."""
        if self.processes == 1:
            return do()
        first = do() if self.first else None
        self.decided(lambda: None)
        return first if self.first else do()  # type: ignore[return-value]

    def each(self, own: T) -> list[T]:
        """What every process has, in the order of their ranks."""
        if self.processes == 1:
            return [own]
        gathered: list[Any] = [None] * self.processes
        distributed.all_gather_object(gathered, own)
        return gathered

    def together(self, own: dict) -> dict:
        """The entries of all processes' dictionaries."""
        return {key: value for each in self.each(own) for key, value in each.items()}

    def add_up(self, own: Tensor) -> None:
        """Replace `own` by the sum over all processes: rows that one has filled in, and the others have left zero."""
        if self.processes == 1:
            return
        for block in own.view(-1).split(_BLOCK):
            there = block.to(self._meeting_place(), torch.uint8 if block.dtype == torch.bool else None)
            distributed.all_reduce(there)
            block.copy_(there)

    def align(self, module: nn.Module) -> None:
        """Give every process the first one's weights and buffers: batch norm has seen other images in each."""
        if self.processes == 1:
            return
        with torch.no_grad():
            for each in module.state_dict().values():
                there = each.to(self._meeting_place())
                distributed.broadcast(there, src=0)
                each.copy_(there)

    @contextmanager
    def on_its_own(self) -> Iterator[None]:
        """Around work in which processes do not tell each other what they cannot read: of several, all have to end then."""
        try:
            yield
        except UnreadableError as error:
            if self.processes == 1:
                raise
            raise RanksError(f"an image has become unreadable ({error}); the same command goes on without it.") from error

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """Says what has happened where another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.processes == 1 or not _LOST.search(str(error)):
                raise
            raise RanksError(
                f"process {self.rank} of {self.processes} has lost another one, which was killed or has failed; the same "
                f"command goes on from here."
            ) from error

    def _meeting_place(self) -> torch.device:
        return self.device if distributed.get_backend() == "nccl" else torch.device("cpu")
