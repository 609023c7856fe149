"""Images by position: the one thing that the loaders ask of a data set. Whole batches at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as vision


class Images(Protocol):
    """N images of one shape and their classes. Images and classes are read apart, so that the classes of what is not
    labeled need never be read."""

    def __len__(self) -> int: ...

    def images(self, positions: Sequence[int] | Tensor) -> Tensor:
        """(B, channels, height, width), uint8 from 0 to 255, or float."""
        ...

    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        """The true classes (B,), int64."""
        ...


class TensorImages:
    """Images that fit in memory, served as slices of one tensor.

    Args: data (N, channels, height, width), classes (N,), integers.
    """

    def __init__(self, data: Tensor, classes: Tensor | Sequence[int]) -> None:
        self.data, self.classes = data, torch.as_tensor(classes, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.data)

    def images(self, positions: Sequence[int] | Tensor) -> Tensor:
        return self.data[torch.as_tensor(positions)]

    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        return self.classes[torch.as_tensor(positions)]


class DatasetImages:
    """Images of any `torch.utils.data.Dataset` of (image, class) pairs, read item by item.

    An item's image is a PIL image, an array or a tensor, all of one shape. Such a data set reads the class along with
    the image, where it computes both; one that has `image(position)` and `target(position)` is read by these instead.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def images(self, positions: Sequence[int] | Tensor) -> Tensor:
        read = getattr(self.dataset, "image", lambda position: self.dataset[position][0])
        return torch.stack([_as_tensor(read(int(position))) for position in positions])

    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        read = getattr(self.dataset, "target", lambda position: self.dataset[position][1])
        return torch.tensor([int(read(int(position))) for position in positions], dtype=torch.long)


@dataclass(frozen=True)
class ImageSet:
    """What a data set holds: images to train on, images to test on, and the names of the classes."""

    train: Images
    test: Images
    classes: tuple[str, ...]


def fingerprint(images: Images) -> str:
    """A hash of the images, without their classes: of all of them where they are in memory, else of 256 spread evenly."""
    digest = blake2b(str(len(images)).encode(), digest_size=16)
    if isinstance(images, TensorImages):
        data = images.data
    else:
        data = images.images(torch.linspace(0, len(images) - 1, min(256, len(images))).long().unique())
    digest.update(str((tuple(data.shape), data.dtype)).encode())
    digest.update(data.contiguous().numpy())
    return digest.hexdigest()


def _as_tensor(image: object) -> Tensor:
    if isinstance(image, Tensor):
        return image
    return vision.to_image(image)
