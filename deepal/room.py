"""Room for signals of many samples: in memory, or in files that go with them."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor


@dataclass
class Room:
    """Where signals are held.

    Args:
        folder: where large ones go; None keeps all in memory.
        memory: bytes held in memory; None for a sixth of what is free, because strategies make copies.
    """

    folder: Path | None = None
    memory: int | None = None

    def of(self, size: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Zeros for `size` rows of each signal, its bytes a row measured on some that were read: {name: (size, ...)}.

        Raises MemoryError, with a cure, where they do not fit on the disk either.
        """
        needed = {name: size * prod(each.shape[1:]) * _kept_as(each).itemsize for name, each in like.items()}
        memory = free_memory() // 6 if self.memory is None else self.memory
        with torch.inference_mode(False):
            if self.folder is None or sum(needed.values()) <= memory:
                return {name: torch.zeros(size, *each.shape[1:], dtype=_kept_as(each)) for name, each in like.items()}
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_too_much(size, sum(needed.values()), memory)
            return {name: _mapped(self.folder, size, each) for name, each in like.items()}

    def _refuse_too_much(self, size: int, needed: int, memory: int) -> None:
        assert self.folder is not None
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise MemoryError(
                f"the signals of {size} images take {needed / 2**30:.1f} GiB, and {memory / 2**30:.1f} GiB of memory and "
                f"{free / 2**30:.1f} GiB of disk are free for them; put a cheaper strategy in front of this one "
                f"(Prefilter(by=Margin(), then=..., keep=10_000)), or scan a part of the pool (pool_subset=...)."
            )


def free_memory() -> int:
    """Bytes of memory that can be had without swapping, on this machine and, in a container, of its share."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30  # not a Linux machine: a modest guess; larger signals go to files
    return min(free, _free_of_share(free))


_SHARE = Path("/sys/fs/cgroup")


def _free_of_share(otherwise: int) -> int:
    """Bytes that a container may still have; what it has read of files and can drop does not count."""
    try:
        limit, used = (int((_SHARE / f"memory.{each}").read_text()) for each in ("max", "current"))
        lines = (_SHARE / "memory.stat").read_text().splitlines()
        of_files = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file"))
    except (OSError, ValueError, StopIteration):
        return otherwise  # no container, or one without a limit
    return max(0, limit - used + of_files)


def _mapped(folder: Path, size: int, like: Tensor) -> Tensor:
    shape, dtype = (size, *like.shape[1:]), _kept_as(like)
    path = folder / f".{uuid4().hex}-{os.getpid()}.signal"
    mapped = torch.from_file(str(path), shared=True, size=prod(shape), dtype=dtype)
    path.unlink()  # the file lives as long as its mapping: however this process ends, nothing is left behind
    return mapped.view(shape)


def _kept_as(signal: Tensor) -> torch.dtype:
    """Half precision is a way to compute; what is kept is read by functions in fp32."""
    return torch.float32 if signal.dtype in (torch.float16, torch.bfloat16) else signal.dtype
