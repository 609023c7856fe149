"""Where and with what a process takes up a run."""

import platform
import socket
from pathlib import Path
from typing import Any

import lightning
import torch

from deepal import __version__


def describe(device: torch.device, threads: int, processes: int) -> dict[str, Any]:
    """Versions, device, threads and processes, as plain values, and whether a run can be repeated bit for bit there."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "deepal": __version__,
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": threads,
        "processes": processes,
        "bit_exact": device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
    }


def _processor() -> str:
    """What the CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
