"""One pass of a module over images, that leaves no trace: signals by position, and scores that never keep signals."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from deepal.signals import Score


class Scannable(Protocol):
    """A data module that serves any positions under the test transform."""

    def scan_dataloader(self, positions: Tensor) -> Any: ...

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any: ...


@dataclass
class Scan:
    """Reads signals of a module: a `signals.Source`.

    Modes, buffers and the random states are afterwards as they were before. Signals come to the CPU; what does not fit into
    `memory` bytes is held in files in `folder`, which go with the signals.

    Args:
        module: says each signal by a method of that name, or several at once by `say(images, names)`.
        data: serves the images.
        device: where the module is.
        precision: the context that a forward pass runs in, for mixed precision.
        folder: where large signals go; None keeps all in memory.
        memory: bytes of signals held in memory; None for a sixth of what is free, because strategies make copies.
        advance: told how many images have been read, batch by batch.
    """

    module: nn.Module
    data: Scannable
    device: torch.device
    precision: Callable[[], AbstractContextManager] = nullcontext
    folder: Path | None = None
    memory: int | None = None
    advance: Callable[[int], None] = lambda done: None
    seconds: float = field(default=0.0, init=False)
    """Time spent in passes so far."""
    passes: int = field(default=0, init=False)

    def read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Signals of `positions` (n,), a row each, in that order: {name: (n, ...)}."""
        kept: dict[str, Tensor] = {}

        def keep(rows: slice, said: dict[str, Tensor]) -> None:
            if not kept:
                kept.update(self._allocate(len(positions), said))
            for name, values in said.items():
                kept[name][rows] = values

        self._pass(positions, names, keep)
        return kept

    def map(self, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
        """`score` of each position's signals, (n,), in fp32; the signals of a batch are gone with the batch."""
        scores = torch.empty(len(positions))

        def keep(rows: slice, said: dict[str, Tensor]) -> None:
            scores[rows] = score(said)

        self._pass(positions, names, keep)
        return scores

    def _pass(self, positions: Tensor, names: tuple[str, ...], keep: Callable[[slice, dict[str, Tensor]], None]) -> None:
        started, done = time.perf_counter(), 0
        with _untouched(self.module, self.device), torch.inference_mode():
            # A set without rows still has a shape: one image tells it, and none is kept.
            loader = self.data.scan_dataloader(positions) if len(positions) else self._one_image()
            for batch in loader:
                batch = {name: each.to(self.device, non_blocking=True) for name, each in batch.items()}
                images = self.data.on_after_batch_transfer(batch, 0)["input"]
                with self.precision():
                    said = _say(self.module, images, names)
                rows = slice(done, min(done + len(images), len(positions)))
                keep(rows, {name: each[: rows.stop - rows.start] for name, each in said.items()})
                done = rows.stop
                self.advance(done)
        self.passes += 1
        self.seconds += time.perf_counter() - started

    def _one_image(self) -> Any:
        return self.data.scan_dataloader(torch.tensor([0]))

    def _allocate(self, size: int, said: dict[str, Tensor]) -> dict[str, Tensor]:
        """Room for `size` rows of each signal, its bytes a row measured on what the first batch said."""
        needed = {name: size * prod(each.shape[1:]) * _kept_as(each).itemsize for name, each in said.items()}
        memory = _free_memory() // 6 if self.memory is None else self.memory
        with torch.inference_mode(False):
            if self.folder is None or sum(needed.values()) <= memory:
                return {name: torch.empty(size, *each.shape[1:], dtype=_kept_as(each)) for name, each in said.items()}
            return {name: self._mapped(name, size, each, sum(needed.values()), memory) for name, each in said.items()}

    def _mapped(self, name: str, size: int, like: Tensor, needed: int, memory: int) -> Tensor:
        assert self.folder is not None
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise MemoryError(
                f"the signals of {size} images take {needed / 2**30:.1f} GiB, and {memory / 2**30:.1f} GiB of memory and "
                f"{free / 2**30:.1f} GiB of disk are free for them; put a cheaper strategy in front of this one "
                f"(Prefilter(by=Margin(), then=..., keep=10_000)), or scan a part of the pool (pool_subset=...)."
            )
        shape, dtype = (size, *like.shape[1:]), _kept_as(like)
        path = self.folder / f".{name}-{self.passes}.signal"
        mapped = torch.from_file(str(path), shared=True, size=prod(shape), dtype=dtype)
        path.unlink()  # the file lives as long as its mapping: however this process ends, nothing is left behind
        return mapped.view(shape)


def _say(module: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    if hasattr(module, "say"):
        return module.say(images, names)
    return {name: getattr(module, name)(images) for name in names}


def _kept_as(signal: Tensor) -> torch.dtype:
    """Half precision is a way to compute; what is kept is read by functions in fp32."""
    return torch.float32 if signal.dtype in (torch.float16, torch.bfloat16) else signal.dtype


@contextmanager
def _untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """`module` in eval mode; modes, buffers and the random state are put back as they were."""
    modes = {each: each.training for each in module.modules()}
    buffers = {each: each.clone() for each in module.buffers()}
    with isolate_rng(include_cuda=device.type == "cuda"):
        try:
            module.eval()
            yield
        finally:
            for each, training in modes.items():
                each.training = training
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)


def _free_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30  # not a Linux machine: a modest guess; larger signals go to files
