"""What work costs: seconds on the wall and of computing, and memory."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

CLEAR = Path("/proc/self/clear_refs")
"""5, written to it, sets the peak of this process back to what it holds now."""
_STATUS = Path("/proc/self/status")


class Meter:
    """Seconds by phase, the CPU-seconds of this process in all of them, and the most memory that it held.

    Where the system cannot set the peak back, memory is the most that the process ever held. Processes that load data are
    not counted.

    Args: device: whose memory is measured too, where it is a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {"cpu": 0.0}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with suppress(OSError):  # not Linux, or not allowed
            CLEAR.write_text("5")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around the work of one phase, or a part of it."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - wall
        self.seconds["cpu"] += time.process_time() - cpu

    def peak_memory(self) -> dict[str, int]:
        """Bytes held at most, by `process` and, where there is a GPU, `device`."""
        held = {"process": peak()}
        if self.device.type == "cuda":
            held["device"] = torch.cuda.max_memory_allocated(self.device)
        return held


def peak() -> int:
    """The most bytes that this process has held."""
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
