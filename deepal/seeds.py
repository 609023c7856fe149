"""Seeds derived from seeds: every coin of a run comes from (run seed, cycle, phase, epoch), and from nothing else."""

import random
from hashlib import blake2b

import numpy as np
import torch


def derive(seed: int, *keys: int | str) -> int:
    """A seed for what `keys` name, the same on every machine, within [0, 2^63).

    >>> derive(0, "fit", 3) == derive(0, "fit", 3), derive(0, "fit", 3) == derive(0, "fit", 4)
    (True, False)
    """
    return int.from_bytes(blake2b(repr((seed, *keys)).encode(), digest_size=8).digest(), "big") >> 1


def set_global(seed: int) -> None:
    """Seed the generators that code of other people draws from: torch's, NumPy's and Python's own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
