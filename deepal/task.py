"""What a network has to know of the data, what a simulation may, and what people do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Protocol

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

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Task":
        """A task from its fields, as JSON keeps them."""
        return cls(**{each.name: tuple(fields[each.name]) for each in dataclass_fields(cls)})

    def normalize(self, images: Tensor) -> Tensor:
        """Raw images (B, channels, height, width), uint8 or float, as a network reads them; rows of features are that."""
        if images.ndim == 2:
            return images
        if images.dtype == torch.uint8:
            images = images.float() / 255
        mean, std = self._spread(images)
        return (images - mean) / std

    def restore(self, images: Tensor) -> Tensor:
        """Images (B, channels, height, width), as a network reads them, on the scale that they had before, of 0 to 1 where
        that was one of bytes."""
        mean, std = self._spread(images)
        return images * std + mean

    def _spread(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (images.new_tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return mean, std


class Truth(Protocol):
    """The true classes, which only a simulation can say: for oracles that play people, and for a balanced start."""

    classes: tuple[str, ...]

    def true_label(self, position: int) -> str: ...


class Catalog(Truth, Protocol):
    """Images as people know them: by name, by file, by sight."""

    def name(self, position: int) -> str: ...

    def position(self, name: str) -> int | None: ...

    def path(self, position: int) -> Path | None: ...

    def pictures(self, positions: Sequence[int]) -> Tensor | None:
        """(n, channels, height, width); None where they are nothing to look at."""
        ...

    def label(self, given: Any) -> str:
        """A label as it is written down. Raises ValueError for what is none."""
        ...
