"""`ActiveDataModule`: the labeled and unlabeled sides of one data set, and a loader for each use of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from deepal import seeds
from deepal.data import loading
from deepal.data.augmentation import Augmentation
from deepal.data.images import Images, ImageSet, TensorImages, fingerprint
from deepal.data.pool import Pool
from deepal.fingerprint import NEUTRAL
from deepal.task import Task


@dataclass(kw_only=True, eq=False)
class ActiveDataModule(LightningDataModule, ABC):
    """Splits a data set into a validation set, a labeled set and a pool, and serves each of them.

    Training batches carry the labels that were answered, never the data set's own; scan batches carry none. Pixels are
    normalised on the device by the mean and deviation of the training images (of 1,000 where they are not in memory; floats
    are taken as they are), and augmented there while training only.

    Args:
        batch_size: images a training step.
        eval_batch_size: images a step of validation, test and scan.
        epoch_steps: training steps an epoch, over as many passes of the labeled set as that takes. None: one pass.
            An epoch is what a killed fit loses at most, and what logging costs once.
        validation: images set apart for validation, labeled and reported on top of the budget: below 1 a share of the
            budget, else a number of images; 0 for none.
        pool_size: a random part of the training images, all that the run knows of. None: all of them.
        imbalance: the largest class is this many times the smallest, the others between on a geometric line (it reads
            the true classes: for simulations). None: as the data set is.
        augmentation: applied in this order, each image for itself.
        num_workers: processes that decode images; for data sets in memory 0 is fastest.
    """

    batch_size: int = 64
    eval_batch_size: int = 512
    epoch_steps: int | None = None
    validation: float = 0.1
    pool_size: int | None = None
    imbalance: float | None = None
    augmentation: list[Augmentation] = field(default_factory=list)
    num_workers: int = field(default=0, metadata=NEUTRAL)

    def __post_init__(self) -> None:
        super().__init__()
        for name, least in (("batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least {least}.")
        if self.epoch_steps is not None and self.epoch_steps < 1:
            raise ValueError(f"data.epoch_steps={self.epoch_steps} must be at least 1, or none for one pass.")
        if self.validation < 0 or (self.validation >= 1 and self.validation != int(self.validation)):
            raise ValueError(
                f"data.validation={self.validation} must be a share of the budget below 1, or a number of images."
            )
        if self.imbalance is not None and self.imbalance < 1:
            raise ValueError(f"data.imbalance={self.imbalance} must be at least 1: the largest class over the smallest.")

    @abstractmethod
    def load(self) -> ImageSet:
        """The images. Raises FileNotFoundError, naming the option to change, where there are none."""

    def begin(self, seed: int, validation_size: int) -> None:
        """Load the images once, and lay out a run: which images are validation, which are candidates.

        Args: seed: of the run; validation_size: images to set apart.
        Raises ValueError where there are not that many.
        """
        if not hasattr(self, "_set"):
            self._set = self.load()
            self.task = _task(self._set)
        self.classes = self._set.classes
        order = torch.randperm(len(self._set.train), generator=_generator(seed, "split")).tolist()
        if self.imbalance is not None:
            order = self._imbalanced(order)
        size = len(order) if self.pool_size is None else self.pool_size + validation_size
        if not validation_size < size <= len(order):
            raise ValueError(
                f"data.pool_size={self.pool_size} and {validation_size} validation images do not fit the "
                f"{len(order)} training images of {type(self).__name__}."
            )
        self.validation_positions = order[:validation_size]
        self.pool = Pool(order[validation_size:size])
        self.cycle_seed = seed

    def begin_cycle(self, seed: int) -> None:
        """Give the training order of the coming fit its seed."""
        self.cycle_seed = seed

    def fingerprint(self) -> str:
        """A hash of the images to train and to test on, by which a run knows its data set again."""
        return fingerprint(self._set.train) + fingerprint(self._set.test)

    def true_label(self, position: int) -> str:
        """The true class of a training image, for oracles that simulate people."""
        number = int(self._set.train.targets([position])[0])
        if not 0 <= number < len(self.classes):
            raise ValueError(
                f"the image at position {position} is of class number {number}, and there are names for "
                f"{len(self.classes)}: {', '.join(self.classes)}; give data.classes a name for each number."
            )
        return self.classes[number]

    def train_dataloader(self) -> DataLoader | CombinedLoader:
        """Labeled images with their answered labels; for a module with `reads_unlabeled = True`, a dictionary of that and
        of as many batches from the unlabeled pool: `{"labeled": batch, "unlabeled": batch}`."""
        labeled = self._train_loader(self.pool.labeled, torch.tensor(self.pool.labels), self.epoch_steps, "labeled")
        module = self.trainer.lightning_module if self.trainer else None
        if not getattr(module, "reads_unlabeled", False):
            return labeled
        unlabeled = self._train_loader(self.pool.index or self.pool.labeled, None, len(labeled), "unlabeled")
        return CombinedLoader({"labeled": labeled, "unlabeled": unlabeled}, mode="min_size")

    def val_dataloader(self) -> DataLoader | list:
        """The validation images with their classes; an empty list where there are none."""
        if not self.validation_positions:
            return []
        return self._eval_loader(self._set.train, torch.tensor(self.validation_positions), self._set.train)

    def test_dataloader(self) -> DataLoader:
        """Every test image once, with its class."""
        return self._eval_loader(self._set.test, torch.arange(len(self._set.test)), self._set.test)

    def scan_dataloader(self, positions: Tensor) -> DataLoader:
        """These training images in this order, under the test transform, without classes."""
        return self._eval_loader(self._set.train, positions, None)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """On the device: augmentation while training, then normalisation."""
        if "input" not in batch:  # labeled and unlabeled side by side
            return {name: self.on_after_batch_transfer(part, dataloader_idx) for name, part in batch.items()}
        images = batch["input"]
        if self.trainer is not None and self.trainer.training:
            for augmentation in self.augmentation:
                images = augmentation(images)
        return {**batch, "input": self.task.normalize(images)}

    def _train_loader(self, positions: Sequence[int], targets: Tensor | None, steps: int | None, stream: str) -> DataLoader:
        sampler = loading.Shuffled(len(positions), self.batch_size, seeds.derive(self.cycle_seed, stream), steps)
        return loading.loader(loading.Batches(self._set.train, torch.tensor(positions), targets), sampler, self.num_workers)

    def _eval_loader(self, images: Images, positions: Tensor, targets: Images | None) -> DataLoader:
        sampler = loading.InOrder(len(positions), self.eval_batch_size)
        return loading.loader(loading.Batches(images, positions, targets), sampler, self.num_workers)

    def _imbalanced(self, order: list[int]) -> list[int]:
        """`order` thinned so that class c of C keeps max * imbalance^(-c / (C - 1)) images."""
        targets = self._set.train.targets(order).tolist()
        sizes = torch.bincount(torch.tensor(targets), minlength=len(self.classes))
        assert self.imbalance is not None
        steps = torch.linspace(0, 1, len(self.classes), dtype=torch.float64)
        keep = (int(sizes.max()) * self.imbalance**-steps).round().clamp_min(1).long().minimum(sizes).tolist()
        kept = []
        for position, target in zip(order, targets, strict=True):
            if keep[target]:
                keep[target] -= 1
                kept.append(position)
        return kept


def _task(images: ImageSet) -> Task:
    """What the networks need to know."""
    some = _some(images.train)
    channels, height, width = some.shape[1:]
    mean, std = _mean_and_std(some) if some.dtype == torch.uint8 else ((0.0,) * channels, (1.0,) * channels)
    return Task((channels, height, width), images.classes, mean, std)


def _some(images: Images) -> Tensor:
    """All images where they are in memory, else 1,000 spread evenly."""
    if isinstance(images, TensorImages):
        return images.data
    return images.images(torch.linspace(0, len(images) - 1, min(1000, len(images))).long().unique())


def _mean_and_std(data: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 images, on the scale of 0 to 1, from exact counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in data.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).clamp_min(0).sqrt().clamp_min(1e-6)
    return tuple(mean.tolist()), tuple(std.tolist())


def _generator(seed: int, phase: str) -> torch.Generator:
    return torch.Generator().manual_seed(seeds.derive(seed, phase))
