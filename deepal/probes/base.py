"""What a probe is: it reads a module that knows nothing of it, with noise in its weights, masks in its layers, sketches."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Probe(ABC):
    """Says one signal of any module, without touching its weights (`torch.func.functional_call` runs it with others).

    A subclass is a frozen dataclass. It is given to the learner (`probes=[MyProbe()]`), and strategies read what it says by
    name, like anything that a module says.
    """

    says: str
    """The name of the signal."""
    asks: tuple[str, ...] = ()
    """Methods of the module that it calls: a module without them is refused before the first epoch."""

    @abstractmethod
    def start(self, module: nn.Module, generator: torch.Generator) -> Callable[[Any], Tensor]:
        """A function from images (B, ...) to the signal (B, ...), for one pass over them.

        Coins are tossed here, with the generator, which is seeded alike for every pass of a cycle and in every process:
        noise and masks are the same for all images.
        """
