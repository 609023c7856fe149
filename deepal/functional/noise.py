"""Noise without a state: each number is a function of a seed and of counters (a position, a draw, a unit), so that it is
the same however the work is cut up, in whatever order, on whatever device. The counters are mixed by splitmix64's
finalizer (Steele, Lea & Flood, 2014), in 64-bit integers that wrap around.
"""

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def seed_of(generator: torch.Generator) -> int:
    """A seed, drawn from a generator on whatever device, within [0, 2^62)."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def uniform(seed: int, *counters: Tensor) -> Tensor:
    """Numbers within (0, 1), independent and uniform for different seeds or counters.

    Args: counters: whole numbers, of shapes that broadcast together. Returns fp64, of the shape that they broadcast to.

    >>> together = uniform(0, torch.arange(4), torch.tensor(7))
    >>> torch.equal(together[2:], uniform(0, torch.arange(2, 4), torch.tensor(7)))
    True
    """
    mixed = torch.tensor(seed, device=counters[0].device)
    for counter in counters:
        mixed = _mixed(mixed ^ _mixed(counter.long() + _GOLDEN))
    return ((_mixed(mixed) >> 12 & 2**52 - 1).double() + 0.5) / 2**52


def gumbel(seed: int, *counters: Tensor) -> Tensor:
    """Noise of the standard Gumbel distribution. The rows with the k largest `log weight + noise` are a draw of k without
    replacement in proportion to the weights  (Gumbel, 1954; Kool et al., 2019).

    Args: as for `uniform`. Returns fp64.
    """
    return -torch.log(-torch.log(uniform(seed, *counters)))


def _mixed(counter: Tensor) -> Tensor:
    counter = (counter ^ (counter >> 30 & 2**34 - 1)) * _FIRST
    counter = (counter ^ (counter >> 27 & 2**37 - 1)) * _SECOND
    return counter ^ (counter >> 31 & 2**33 - 1)
