"""What a network has to know of the data, and what a simulation may."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """The shape of an image, the classes, and how pixels become inputs.

    Args:
        input_shape: (channels, height, width).
        classes: their names, in the order of the class numbers.
        mean, std: of each channel, on the scale of 0 to 1.
    """

    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: Tensor) -> Tensor:
        """Raw images (B, channels, height, width), uint8 or float, as a network reads them."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        mean, std = (images.new_tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return (images - mean) / std


class Truth(Protocol):
    """The true classes, which only a simulation can say: for oracles that play people, and for a balanced start."""

    classes: tuple[str, ...]

    def true_label(self, position: int) -> str: ...
