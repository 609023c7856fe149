"""Data sets by name. Each says what it loads; everything else is `ActiveDataModule`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.utils.data import Dataset

from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import DatasetImages, ImageSet, TensorImages
from deepal.fingerprint import NEUTRAL

DIGITS = tuple("0123456789")


@dataclass(kw_only=True, eq=False)
class Digits(ActiveDataModule):
    """1,797 scans of handwritten digits, 8 x 8 gray (scikit-learn's `load_digits`): 1,200 to train on, 597 to test.
    It ships with scikit-learn, so it needs no network."""

    def load(self) -> ImageSet:
        from sklearn.datasets import load_digits

        digits = load_digits()
        data = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)
        targets = torch.from_numpy(digits.target)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        train, test = order[:1200], order[1200:]
        return ImageSet(TensorImages(data[train], targets[train]), TensorImages(data[test], targets[test]), DIGITS)


@dataclass(kw_only=True, eq=False)
class TorchvisionData(ActiveDataModule):
    """A data set of torchvision.

    Args: root: the folder that holds its files, in torchvision's layout; downloaded into it when absent.
    """

    root: str = field(default="data", metadata=NEUTRAL)

    def parts(self, dataset: Callable[..., Any], **split: Any) -> list[Any]:
        """The torchvision data sets to train and to test on."""
        return [self.fetch(dataset, **split, train=train) for train in (True, False)]

    def fetch(self, dataset: Callable[..., Any], **split: Any) -> Any:
        """The torchvision data set of one split, from `root`, or downloaded into it.

        Raises FileNotFoundError, naming `data.root`, where its files are neither there nor to be had.
        """
        name = type(self).__name__
        try:
            return dataset(str(Path(self.root).expanduser()), download=False, **split)
        except (RuntimeError, OSError):
            pass  # not there, or not whole: download it
        try:
            return dataset(str(Path(self.root).expanduser()), download=True, **split)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"{name} is not in data.root='{self.root}' (empty or missing), and downloading it failed "
                f"({' '.join(str(error).split())}). "
                f"Give the folder that holds it with --data.root, or connect to a network."
            ) from error


@dataclass(kw_only=True, eq=False)
class MNIST(TorchvisionData):
    """60,000 handwritten digits, 28 x 28 gray, and 10,000 to test (LeCun et al., 1998)."""

    def load(self) -> ImageSet:
        return _gray(self.parts(torchvision.datasets.MNIST), DIGITS)


@dataclass(kw_only=True, eq=False)
class FashionMNIST(TorchvisionData):
    """60,000 pictures of clothes, 28 x 28 gray, and 10,000 to test (Xiao et al., 2017)."""

    def load(self) -> ImageSet:
        return _gray(self.parts(torchvision.datasets.FashionMNIST))


@dataclass(kw_only=True, eq=False)
class KMNIST(TorchvisionData):
    """60,000 cursive Japanese characters, 28 x 28 gray, and 10,000 to test (Clanuwat et al., 2018)."""

    def load(self) -> ImageSet:
        return _gray(self.parts(torchvision.datasets.KMNIST))


@dataclass(kw_only=True, eq=False)
class EMNIST(TorchvisionData):
    """Handwritten letters and digits, 28 x 28 gray (Cohen et al., 2017).

    Args: split: "balanced" (47 classes), "byclass", "bymerge", "letters", "digits" or "mnist".
    """

    split: str = "balanced"

    def load(self) -> ImageSet:
        dataset = torchvision.datasets.EMNIST
        if self.split not in dataset.splits:
            raise ValueError(f"EMNIST has no split '{self.split}'; it has {', '.join(dataset.splits)}.")
        parts = self.parts(dataset, split=self.split)
        names = [str(name) for name in parts[0].classes]
        if names[0] != "N/A":
            return _gray(parts, names)
        for part in parts:  # the letters are numbered from 1, after a class that is not there
            part.targets = part.targets - 1
        return _gray(parts, names[1:])


@dataclass(kw_only=True, eq=False)
class CIFAR10(TorchvisionData):
    """50,000 photographs of 10 classes, 32 x 32 color, and 10,000 to test (Krizhevsky, 2009)."""

    def load(self) -> ImageSet:
        return _color(self.parts(torchvision.datasets.CIFAR10))


@dataclass(kw_only=True, eq=False)
class CIFAR100(TorchvisionData):
    """50,000 photographs of 100 classes, 32 x 32 color, and 10,000 to test (Krizhevsky, 2009)."""

    def load(self) -> ImageSet:
        return _color(self.parts(torchvision.datasets.CIFAR100))


@dataclass(kw_only=True, eq=False)
class SVHN(TorchvisionData):
    """73,257 house numbers, 32 x 32 color, and 26,032 to test (Netzer et al., 2011)."""

    def load(self) -> ImageSet:
        parts = [self.fetch(torchvision.datasets.SVHN, split=split) for split in ("train", "test")]
        train, test = (TensorImages(torch.from_numpy(part.data), part.labels) for part in parts)
        return ImageSet(train, test, DIGITS)


@dataclass(kw_only=True, eq=False)
class FromDatasets(ActiveDataModule):
    """Any two `torch.utils.data.Dataset` of (image, class number), from Python. A run knows them again by their images, not
    by how they were made: give runs on different data sets a `name` each.

    Args:
        train: images to label and train on. An image is a PIL image, an array or a tensor, all of one shape.
        test: images to test on.
        classes: the name of each class number.
    """

    train: Dataset = field(metadata=NEUTRAL)
    test: Dataset = field(metadata=NEUTRAL)
    classes: Sequence[str]  # type: ignore[assignment]

    def load(self) -> ImageSet:
        for name, dataset in (("train", self.train), ("test", self.test)):
            if not len(dataset):  # type: ignore[arg-type]
                raise FileNotFoundError(f"FromDatasets({name}=...) holds no images; give a data set that is not empty.")
        return ImageSet(DatasetImages(self.train), DatasetImages(self.test), tuple(self.classes))


def _gray(parts: Sequence[Any], classes: Sequence[str] = ()) -> ImageSet:
    """Data sets that hold (N, height, width) bytes; the names of their classes where torchvision's are not plain."""
    train, test = (TensorImages(part.data.unsqueeze(1), part.targets) for part in parts)
    return ImageSet(train, test, tuple(classes or map(str, parts[0].classes)))


def _color(parts: Sequence[Any]) -> ImageSet:
    """Data sets that hold (N, height, width, 3) bytes."""
    train, test = (TensorImages(_channels_first(part.data), part.targets) for part in parts)
    return ImageSet(train, test, tuple(parts[0].classes))


def _channels_first(data: np.ndarray) -> Tensor:
    return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
