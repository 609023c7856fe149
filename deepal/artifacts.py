"""What a strategy computes once in a run: signals of the training images, in a file whose hash the ledger holds."""

from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepal import folder

UNKNOWN = -1
"""Said of images that were not in the pool then."""


class ArtifactsLostError(ValueError):
    """What was computed once is not there any more."""


def save(path: Path, positions: Tensor, signals: Mapping[str, Tensor]) -> str:
    """Write signals (n, ...) of these positions (n,), integers. Returns the hash of the file."""
    order = positions.argsort()
    every = {"position": positions[order], **{name: each[order] for name, each in signals.items()}}
    folder.write_atomically(path, lambda partial: save_file(every, partial))
    return _hash(path)


def load(path: Path, digest: str, positions: Tensor) -> dict[str, Tensor]:
    """The signals of these positions (n,), -1 where there is none. Raises ArtifactsLostError where the file is not the one
    that was written."""
    if not path.exists() or _hash(path) != digest:
        raise ArtifactsLostError(
            f"{path} is missing or was changed, and holds what the strategy has computed before its first query; restore "
            f"it, or start another run under another name."
        )
    signals = load_file(path)
    known = signals.pop("position")
    place = torch.searchsorted(known, positions).clamp_max(len(known) - 1)
    there = known[place] == positions
    return {name: _where(there, each[place]) for name, each in signals.items()}


def _where(there: Tensor, values: Tensor) -> Tensor:
    return torch.where(there.view(-1, *[1] * (values.ndim - 1)), values, UNKNOWN)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()[:32]
