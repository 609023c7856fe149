"""Images by position: the one thing that the loaders ask of a data set. Whole batches at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as vision

Part = Literal["train", "val", "test"]

UNLABELED = -1
"""The class number of an image whose class nobody has said."""


class UnreadableError(ValueError):
    """Some of the images asked for cannot be read.

    Args: reasons: why, for each position that cannot; part: of the data set that positions are in.
    """

    def __init__(self, reasons: Mapping[int, str], part: Part = "train") -> None:
        self.reasons, self.part = dict(reasons), part
        first = "; ".join(f"{position}: {reason}" for position, reason in list(self.reasons.items())[:5])
        super().__init__(f"{len(self.reasons)} images cannot be read ({first}).")


class Images(ABC):
    """N images of one shape and their classes. Images and classes are read apart, so that the classes of what is not
    labeled need never be read."""

    in_memory: bool = False
    """Whether reading them cannot fail, and costs nothing."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self, positions: Sequence[int] | Tensor) -> Any:
        """(B, channels, height, width), uint8 from 0 to 255, or float; another thing for modules that read another.

        Raises UnreadableError where some cannot be read, with the reason of each.
        """

    @abstractmethod
    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        """The true classes (B,), int64; `UNLABELED` where there is none."""

    def batch(self, positions: Tensor, targets: Tensor | None) -> Any:
        """What a module reads. Args: positions (B,); targets (B, ...) to train on, or None to serve none."""
        batch = {"input": self.images(positions), "position": positions}
        return batch if targets is None else {**batch, "target": targets}

    def true_batch(self, positions: Tensor) -> Any:
        """A batch with the true classes, to validate or test on."""
        return self.batch(positions, self.targets(positions))

    def pictures(self, positions: Sequence[int]) -> Tensor | None:
        """(B, channels, height, width), to look at; None where they are nothing to look at."""
        images = self.images(positions)
        return images if isinstance(images, Tensor) and images.ndim == 4 else None

    def name(self, position: int) -> str:
        """What people call this image: a path, an id; its position where it has no name."""
        return str(position)

    def path(self, position: int) -> Path | None:
        """The file of this image, where it has one of its own."""
        return None

    def position(self, name: str) -> int | None:
        """The position of the image that people call so; None where there is none."""
        return int(name) if name.isascii() and name.isdigit() and int(name) < len(self) else None

    def groups(self, positions: Sequence[int] | Tensor) -> Tensor | None:
        """The group of each image (B,), int64, equal where two belong together; None where there are no groups."""
        return None

    def stamps(self, positions: Sequence[int] | Tensor) -> Tensor:
        """A number for each of these images (B,), int64 and not 0, that is another one when the image is."""
        return torch.ones(len(positions), dtype=torch.int64)

    def fingerprint(self) -> str:
        """A hash of the images, without their classes: of 256 spread evenly."""
        some = torch.linspace(0, len(self) - 1, min(256, len(self))).long().unique()
        return _hashed(len(self), self.images(some))

    def keys(self) -> np.ndarray | None:
        """(N, 2), uint64: hashes of each image's name and of all that is said of it, by which a run knows its images again
        when there are more of them. None: this set of images cannot grow."""
        return None


class TensorImages(Images):
    """Images that fit in memory, served as slices of one tensor.

    Args: data (N, channels, height, width), classes (N,), integers.
    """

    in_memory = True

    def __init__(self, data: Tensor, classes: Tensor | Sequence[int]) -> None:
        self.data, self.classes = data, torch.as_tensor(classes, dtype=torch.long)
        self._hashed_as, self._fingerprint = (0, 0, 0), ""

    def __len__(self) -> int:
        return len(self.data)

    def images(self, positions: Sequence[int] | Tensor) -> Tensor:
        return self.data[torch.as_tensor(positions)]

    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        return self.classes[torch.as_tensor(positions)]

    def fingerprint(self) -> str:
        """A hash of all of them, computed once while nobody writes to them."""
        state = self.data.data_ptr(), len(self), 0 if self.data.is_inference() else self.data._version
        if self._hashed_as != state:
            self._hashed_as, self._fingerprint = state, _hashed(len(self), self.data)
        return self._fingerprint


class Rows(Images):
    """Rows of features in place of images, which still say everything else.

    Args: features: (N, F), by position; of: the images.
    """

    in_memory = True

    def __init__(self, features: Tensor, of: Images) -> None:
        self.features, self.of = features, of

    def __len__(self) -> int:
        return len(self.of)

    def images(self, positions: Sequence[int] | Tensor) -> Tensor:
        return self.features[torch.as_tensor(positions)]

    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        return self.of.targets(positions)

    def name(self, position: int) -> str:
        return self.of.name(position)


class DatasetImages(Images):
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
        return torch.stack(read_each(lambda position: _as_tensor(read(position)), positions))

    def targets(self, positions: Sequence[int] | Tensor) -> Tensor:
        read = getattr(self.dataset, "target", lambda position: self.dataset[position][1])
        return torch.tensor([int(read(int(position))) for position in positions], dtype=torch.long)


@dataclass(frozen=True)
class ImageSet:
    """What a data set holds.

    Args:
        train: images to label and train on.
        test: images to test on.
        classes: the names of the classes.
        candidates: positions in `train` of the images that may be labeled, or drawn for validation. None: all.
        labeled: positions in `train` of the images whose class is known. None: all.
        validation: positions in `train` of images that are there for validation alone. None: they are drawn.
        tested: positions in `test` of the images to test on. None: all.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    candidates: Tensor | None = None
    labeled: Tensor | None = None
    validation: Tensor | None = None
    tested: Tensor | None = None


def read_each(read: Any, positions: Sequence[int] | Tensor) -> list[Any]:
    """`read` of each position; a file that cannot be read is no reason to read the others no more.

    Raises UnreadableError with the reason of each that cannot.
    """
    items, reasons = [], {}
    for position in map(int, positions):
        try:
            items.append(read(position))
        except OSError as error:  # of PIL's too, for what is not an image
            reasons[position] = f"{type(error).__name__}: {error}"
    if reasons:
        raise UnreadableError(reasons)
    return items


def _hashed(count: int, images: Tensor) -> str:
    digest = blake2b(str(count).encode(), digest_size=16)
    digest.update(str((tuple(images.shape), images.dtype)).encode())
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()


def _as_tensor(image: object) -> Tensor:
    if isinstance(image, Tensor):
        return image
    return vision.to_image(image)
