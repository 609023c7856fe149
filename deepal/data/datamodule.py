"""`ActiveDataModule`: the labeled and unlabeled sides of one data set, and a loader for each use of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader, move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepal import seeds
from deepal.augmentation import Augmentation, augmented
from deepal.data import loading
from deepal.data.images import UNLABELED, Images, ImageSet, Part, Rows
from deepal.data.layout import Draw
from deepal.data.loading import ALONE, Block, Damaged, Share
from deepal.data.measuring import measured_task
from deepal.data.pool import Pool
from deepal.fingerprint import NEUTRAL
from deepal.task import Task


@dataclass(frozen=True)
class Remembered:
    """What a run remembers of its images when it is taken up again.

    Args:
        begun_with: how many there were.
        validation: how many were drawn for validation.
        keys: of all that it has come to know since (`Images.keys`); None where they cannot grow.
        task: what the networks were told of them; None where they are told nothing.
        contents: hashes of the content of those that were read, by position.
        unreadable: (part, position) of those that cannot be.
        names: of all; none where nobody asks for them.
    """

    begun_with: int
    validation: int
    keys: np.ndarray | None
    task: Task | None
    contents: Mapping[int, int]
    unreadable: Sequence[tuple[Part, int]]
    names: Callable[[], Sequence[str]] = list


@dataclass(kw_only=True, eq=False)
class ActiveDataModule(LightningDataModule, ABC):
    """Splits a data set into a validation set, a labeled set and a pool, and serves each of them.

    Training batches carry the labels that were answered, never the data set's own; scan batches carry none. Pixels are
    normalised on the device by the mean and deviation of the training images (of 1,000 where they are not in memory; floats
    are taken as they are), and augmented there while training only.

    Args:
        batch_size: images a training step, of each process.
        eval_batch_size: images a step of validation, test and scan. On a CPU a large network reads several times faster
            in batches of 32, whose layers stay in cache. Rows of frozen features come 2,048 at a time, if this is less.
        epoch_steps: training steps an epoch, over as many passes of the labeled set as that takes. None: one pass.
            An epoch is what a killed fit loses at most, and what logging costs once.
        full_batches: every step sees `batch_size` images, some more than once where there are few (so train Kirsch et al.,
            2019); it needs `epoch_steps`. Else the last batch of each pass over the labeled set is what is left.
        validation: images set apart for validation, labeled and reported on top of the budget: below 1 a share of the
            budget, else a number of images; 0 for none. They are drawn among images whose class is known, unless the data
            has a validation split of its own.
        pool_size: a random part of the training images, all that the run knows of. None: all of them.
        imbalance: the largest class is this many times the smallest, the others between on a geometric line (it reads
            the true classes: for simulations). None: as the data set is.
        augmentation: applied in this order, each image for itself.
        num_workers: processes that decode images; for data sets in memory 0 is fastest, for files about as many as cores.
        max_bad_fraction: images that cannot be read are set aside, and more than this fraction of all stops the run.
    """

    batch_size: int = 64
    eval_batch_size: int = 512
    epoch_steps: int | None = None
    full_batches: bool = False
    validation: float = 0.1
    pool_size: int | None = None
    imbalance: float | None = None
    augmentation: list[Augmentation] = field(default_factory=list)
    num_workers: int = field(default=0, metadata=NEUTRAL)
    max_bad_fraction: float = field(default=0.05, metadata=NEUTRAL)

    def __post_init__(self) -> None:
        super().__init__()
        for name, least in (("batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least {least}.")
        if self.epoch_steps is not None and self.epoch_steps < 1:
            raise ValueError(f"data.epoch_steps={self.epoch_steps} must be at least 1, or none for one pass.")
        if self.full_batches and self.epoch_steps is None:
            raise ValueError("data.full_batches=True needs data.epoch_steps: how many of these batches are an epoch.")
        if self.validation < 0 or (self.validation >= 1 and self.validation != int(self.validation)):
            raise ValueError(
                f"data.validation={self.validation} must be a share of the budget below 1, or a number of images."
            )
        if self.imbalance is not None and self.imbalance < 1:
            raise ValueError(f"data.imbalance={self.imbalance} must be at least 1: the largest class over the smallest.")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction={self.max_bad_fraction} must be within 0 and 1.")
        self.share = ALONE
        self.block: int | None = None  # training batches that are served at a time; None: one, as everybody expects

    @staticmethod
    def over(
        datamodule: LightningDataModule,
        *,
        scan_dataset: Dataset | None = None,
        target: int | str = 1,
        classes: Sequence[str] | None = None,
        epoch_steps: int | None = None,
    ) -> "ActiveDataModule":
        """Your LightningDataModule, its data sets, collate function, batch size and workers, with labels from the oracle.

        Args:
            datamodule: yours; its training data is what can be labeled.
            scan_dataset: the same items in the same order without augmentation, to read the pool. None: the training data.
            target: where the label is in an item: an index, or a key.
            classes: names for labels that are class numbers. None: labels are answered as they are, numbers or lists.
            epoch_steps: as above.
        Raises ValueError, naming it, for iterable data, a sampler of your own, and a scan_dataset of another length.
        """
        from deepal.data.foreign import OverDataModule  # it is one of these itself

        if not isinstance(datamodule, LightningDataModule):
            raise ValueError(f"over({datamodule!r}) takes an instance of a LightningDataModule, which this is not.")

        return OverDataModule(
            datamodule=datamodule,
            scan_dataset=scan_dataset,
            target_in_item=target,
            class_names=classes,
            epoch_steps=epoch_steps,
        )

    @abstractmethod
    def load(self) -> ImageSet:
        """The images. Raises FileNotFoundError, naming the option to change, where there are none."""

    def arranged(self, loaded: ImageSet, remembered: Remembered | None) -> ImageSet:
        """The images in the order in which a run knows them, for sets that grow."""
        return loaded

    def has_grown(self) -> bool:
        """Whether there is more to load than there was."""
        return False

    @property
    def title(self) -> str:
        """What people call this data set."""
        return type(self).__name__

    # The layout of a run

    def begin(self, seed: int, validation_size: int, remembered: Remembered | None = None) -> None:
        """Load the images once, and lay out a run: which images are validation, which are candidates.

        Args:
            seed: of the run.
            validation_size: images to set apart, where the data has no validation split of its own; of a run that has
                begun, what it remembers counts.
            remembered: what the run knows of them already. What has been added since is in the pool.
        Raises ValueError where there are not enough images for that.
        """
        if not hasattr(self, "_loaded") or self.has_grown():
            self._loaded = self.load()
        self._set = self.arranged(self._loaded, remembered)
        self.classes = remembered.task.classes if remembered and remembered.task else self._set.classes
        self.begun_with = remembered.begun_with if remembered else len(self._set.train)
        draw = Draw(seed, remembered.validation if remembered else validation_size, self.pool_size, self.imbalance)
        self._layout = draw.laid_out(self._set, self.begun_with)
        self._features: dict[Part, Images] = {}
        self.set_aside([])
        if remembered:
            self.recall(remembered.contents)
            self.set_aside(remembered.unreadable)
        self.task = remembered.task if remembered else self._measured_task()
        self.pool = Pool(self.candidates)
        self.cycle_seed, self.share = seed, ALONE

    def set_aside(self, unreadable: Iterable[tuple[Part, int]]) -> None:
        """Never serve these images again: they cannot be read."""
        self._unreadable: dict[Part, set[int]] = {"train": set(), "val": set(), "test": set()}
        for part, position in unreadable:
            self._unreadable[part].add(position)

    @property
    def in_memory(self) -> bool:
        """Whether training images are in memory, so that reading them takes nobody else."""
        return self._images("train").in_memory and not self._workers

    @property
    def is_read_once(self) -> bool:
        """Whether an image is the same whenever it is read, so that features that do not change may stand for it."""
        return not self.augmentation

    @property
    def serves_features(self) -> bool:
        """Whether it serves rows of features."""
        return bool(self._features)

    def serve(self, features: Mapping[Part, Tensor]) -> None:
        """Serve these rows in place of images until the next layout. Args: features: (N, F) by position, of each part."""
        self._features = {part: Rows(rows, self._images(part)) for part, rows in features.items()}

    @contextmanager
    def serving_images(self) -> Iterator[None]:
        """Meanwhile images are served, whatever stands for them."""
        features, self._features = self._features, {}
        try:
            yield
        finally:
            self._features = features

    def sizes(self) -> dict[Part, int]:
        """How many images there are of each part, those included that the run does not use."""
        return {"train": len(self._set.train), "test": len(self._set.test)}

    @property
    def candidates(self) -> list[int]:
        """Positions that are labeled or may be."""
        return [position for position in self._layout.candidates if position not in self._unreadable["train"]]

    @property
    def validation_positions(self) -> list[int]:
        """Positions of the validation images, among the training images."""
        return [position for position in self._layout.validation if position not in self._unreadable["train"]]

    @property
    def test_positions(self) -> list[int]:
        """Positions of the test images, among the test images."""
        return [position for position in self._layout.tested if position not in self._unreadable["test"]]

    @property
    def begun_positions(self) -> list[int]:
        """Positions of the images that the run has begun with, validation among them, and those that cannot be read."""
        every = (*self._layout.candidates, *self._layout.validation)
        return sorted(position for position in every if position < self.begun_with)

    def needed(self) -> dict[Part, list[int]]:
        """What is trained and measured on, of each part of the data: validation images are some of the training images.
        Pseudo-labeled images are not among them: a scan has just read them."""
        return {"train": [*self.pool.labeled, *self.validation_positions], "test": self.test_positions}

    def __len__(self) -> int:
        """How many images the run uses, those included that cannot be read."""
        return len(self._layout.candidates) + len(self._layout.validation) + len(self._layout.tested)

    def batches_an_epoch(self, labels: int) -> int:
        """How many training batches an epoch is, of one process, with so many labels."""
        return self.epoch_steps or -(-labels // self._sizes[0])

    def begin_cycle(self, seed: int) -> None:
        """Give the training order of the coming fit its seed."""
        self.cycle_seed = seed

    # What is said of the images

    def fingerprint(self) -> str:
        """A hash of the images to train and to test on, by which a run knows its data set again; of those that can grow
        the keys say it."""
        if self._set.train.keys() is not None:
            return "by keys"
        return self._set.train.fingerprint() + self._set.test.fingerprint()

    def identity(self) -> str:
        """What tells these images from others where features of them are kept; of files their stamps do, one by one."""
        return self.fingerprint() if self.keys() is None else "files"

    def stamps(self, part: Part, positions: Sequence[int]) -> Tensor:
        """`Images.stamps` of images of this part."""
        return (self._set.test if part == "test" else self._set.train).stamps(positions)

    def keys(self) -> np.ndarray | None:
        """`Images.keys` of the training images."""
        return self._set.train.keys()

    def newly_read(self) -> dict[int, int]:
        """A hash of the content of each file that was read for the first time since this was asked, by position."""
        return {}

    def recall(self, contents: Mapping[int, int]) -> None:
        """Take over such hashes: a file of another content was replaced, and cannot be read."""

    def label(self, given: Any) -> str:
        """A label as it is written down: the name of a class, from its name or its number.

        Raises ValueError for what is no class.
        """
        if isinstance(given, str) and given in self.classes:
            return given
        if not isinstance(given, str | bool) and hasattr(given, "__index__") and 0 <= index(given) < len(self.classes):
            return self.classes[index(given)]
        raise ValueError(f"{given!r} is no class of {self.title}; its classes are {', '.join(self.classes)}.")

    def target(self, label: str) -> Any:
        """What a module trains on where this label was answered: the number of the class."""
        return self.classes.index(label)

    def true_label(self, position: int) -> str:
        """The true class of a training image, for oracles that simulate people. Raises ValueError where it is not known."""
        number = int(self._set.train.targets([position])[0])
        if number == UNLABELED:
            raise ValueError(f"the class of {self.name(position)} is not in the data; let people answer.")
        if not 0 <= number < len(self.classes):
            raise ValueError(
                f"the image at position {position} is of class number {number}, and there are names for "
                f"{len(self.classes)}: {', '.join(self.classes)}; give data.classes a name for each number."
            )
        return self.classes[number]

    def accuracy(self, positions: Sequence[int], classes: Sequence[int]) -> float | None:
        """The share of training images whose class is this, of those whose class is known; None where that is none."""
        targets = self._set.train.targets(torch.tensor(positions, dtype=torch.long))
        known = targets != UNLABELED
        return float((targets == torch.tensor(classes))[known].double().mean()) if known.any() else None

    def existing(self) -> list[int]:
        """Candidates whose class is known before anybody is asked, ascending; none where all are: then it is the truth that
        a simulation hides."""
        if self._set.labeled is None:
            return []
        candidates = torch.tensor(self.candidates)
        return candidates[torch.isin(candidates, self._set.labeled)].sort().values.tolist()

    def has_unlabeled(self) -> bool:
        """Whether the class of some images is not known."""
        return self._set.labeled is not None

    def annotator(self, position: int) -> str:
        """Who said the class of an image that came with one."""
        return self.title

    def name(self, position: int) -> str:  # type: ignore[override]
        """What people call a training image."""
        return self._set.train.name(position)

    def name_in(self, part: Part, position: int) -> str:
        """What people call an image of this part of the data."""
        return self._images(part).name(position)

    def path(self, position: int) -> Path | None:
        """The file of a training image, where it has one."""
        return self._set.train.path(position)

    def position(self, name: str) -> int | None:
        """The training image that people call so; None where there is none."""
        return self._set.train.position(name)

    @property
    def has_groups(self) -> bool:
        """Whether images belong together by groups."""
        return self._set.train.groups([]) is not None

    def groups(self, positions: Tensor) -> Tensor | None:
        """The group of each of these training images, (n,); None where there are no groups."""
        return self._set.train.groups(positions)

    def holdout(self) -> tuple[list[int], Tensor]:
        """Positions of the validation images that a strategy may read, among the training images, and their classes."""
        positions = self.validation_positions
        return positions, self._set.train.targets(torch.tensor(positions, dtype=torch.long))

    def pictures(self, positions: Sequence[int]) -> Tensor | None:
        """These training images, (n, channels, height, width), to look at; None where they are no such tensors."""
        return self._set.train.pictures(positions)

    # Loaders

    def train_dataloader(self) -> DataLoader | CombinedLoader:
        """Labeled images with their answered labels; for a module with `reads_unlabeled = True`, a dictionary of that and
        of as many batches from the unlabeled pool: `{"labeled": batch, "unlabeled": batch}`. A module with `orders` is
        served so many batches as one, each from an order of its own; one with `unlabeled_ratio`, so many times as many
        unlabeled images; one with `views`, so many augmentations of each of these, (views, B, channels, height, width)."""
        orders, ratio = self._asked("orders"), self._asked("unlabeled_ratio")
        positions, targets = self.pool.trained
        labeled = self._train_loader(positions, torch.tensor(targets), self.epoch_steps, "labeled", orders)
        if not self._asked("reads_unlabeled", False):
            return labeled
        free = self.pool.index or self.pool.labeled
        free = free if len(free) > 1 else free * 2  # batch norm cannot train on one image
        unlabeled = self._train_loader(free, None, len(labeled), "unlabeled", orders, ratio)
        return CombinedLoader({"labeled": labeled, "unlabeled": unlabeled}, mode="min_size")

    def pretext_dataloader(self, batch_size: int, epoch_steps: int, seed: int) -> DataLoader:
        """All images that the run has begun with, as they are and without labels, those that can be read: batches
        `{"input", "position"}`, of which each process is served its share."""
        positions = torch.tensor([each for each in self.begun_positions if each not in self._unreadable["train"]])
        sampler = loading.Shuffled(len(positions), batch_size, seed, epoch_steps, self.share)
        return loading.loader(loading.Readable(self._set.train, positions, None), sampler, self.num_workers)

    def raw(self, count: int) -> Tensor:
        """So many training images as they are before anything is done to them, (n, channels, height, width), or less where
        there are not as many that can be read."""
        batches = self.scan_dataloader(torch.tensor(self.candidates[:count]))
        return torch.cat([loading.whole(batch)["input"] for batch in batches])

    def val_dataloader(self) -> DataLoader | list:
        """The validation images with their classes; an empty list where there are none."""
        positions = self.validation_positions
        return self._eval_loader(self._images("train"), positions, "train") if positions else []

    def test_dataloader(self) -> DataLoader | list:
        """Every test image once, with its class; an empty list where there are none."""
        positions = self.test_positions
        return self._eval_loader(self._images("test"), positions, "test") if positions else []

    def scan_dataloader(self, positions: Tensor, share: Share = ALONE, part: Part = "train") -> DataLoader:
        """These images of a part, under the test transform, without classes; of several processes each is served its share
        of the batches. A batch is `{"input", "position"}`, or `Damaged`."""
        sampler = loading.InOrder(len(positions), self._read_size, share)
        return loading.loader(loading.Scanned(self._images(part), positions, part), sampler, self._workers)

    def unreadable(self, positions: Sequence[int], part: Part = "train") -> dict[int, str]:
        """Read these images, and say which cannot be, and why. Several processes read a share each."""
        images = self._images(part)
        if images.in_memory:
            return {}
        sampler = loading.InOrder(len(positions), self._sizes[1], self.share)
        batches = loading.Scanned(images, torch.tensor(positions, dtype=torch.long), part)
        reasons: dict[int, str] = {}
        for batch in loading.loader(batches, sampler, self._workers):
            if isinstance(batch, Damaged):
                reasons |= batch.reasons
        return reasons

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """On the device: augmentation while training, then normalisation. Raises UnreadableError for a damaged batch of
        labeled images; of unlabeled ones those are left out that cannot be read, which the scan will find."""
        if isinstance(loading.whole(batch), Block):
            return batch  # its batches come by here one by one
        if "input" not in batch:  # labeled and unlabeled side by side
            if isinstance(batch["unlabeled"], Damaged):  # what is left of it has not been transferred
                left = loading.readable(batch["unlabeled"])
                batch = {**batch, "unlabeled": move_data_to_device(left, self._device)}
            of_views, views = batch["unlabeled"], self._asked("views")
            prepared = {name: self.on_after_batch_transfer(part, dataloader_idx) for name, part in batch.items()}
            if views > 1:
                again = (self.on_after_batch_transfer(of_views, dataloader_idx) for _ in range(views - 1))
                inputs = [each["input"] for each in (prepared["unlabeled"], *again)]
                prepared["unlabeled"] = {**prepared["unlabeled"], "input": torch.stack(inputs)}
            return prepared
        images = batch["input"]
        if self.trainer is not None and self.trainer.training:
            images = augmented(images, self.augmentation)
        return self._normalized(batch, images)

    def _normalized(self, batch: dict[str, Any], images: Tensor) -> dict[str, Any]:
        assert self.task  # of a foreign data set, whose batches come by another way, it may be None
        return {**batch, "input": self.task.normalize(images)}

    def _asked(self, name: str, otherwise: int = 1) -> int:
        """What the module that is trained asks of its batches by this name."""
        return getattr(self.trainer.lightning_module if self.trainer else None, name, otherwise)

    def batches_of(self, block: Block) -> Iterator[Any]:
        """The batches of a block, on the device, as they would have come by themselves."""
        return block.prepared(self._transferred, tosses_coins=bool(self.augmentation))

    def _transferred(self, batch: dict[str, Tensor]) -> Any:
        device = self._device
        return self.on_after_batch_transfer({name: each.to(device) for name, each in batch.items()}, 0)

    @property
    def _device(self) -> torch.device:
        """Where batches are read."""
        assert self.trainer
        return self.trainer.strategy.root_device

    def scanned(self, batch: Any, device: torch.device) -> Any:
        """A batch of `scan_dataloader` as a module reads it, on the device. Raises UnreadableError for a damaged batch."""
        batch = move_data_to_device(loading.whole(batch), device)
        return self._normalized(batch, batch["input"])

    def _images(self, part: Part) -> Images:
        if part in self._features:
            return self._features[part]
        return self._set.test if part == "test" else self._set.train

    @property
    def _workers(self) -> int:
        """Processes that decode images; rows of features take none."""
        return 0 if self.serves_features else self.num_workers

    @property
    def _sizes(self) -> tuple[int, int]:
        """Images a batch to train on, and to read."""
        return self.batch_size, self.eval_batch_size

    @property
    def _read_size(self) -> int:
        """Images a batch to read; of rows of features more, which take less memory than an image on its way through a
        network, and so little time that to fetch a batch is most of it."""
        return max(self._sizes[1], _ROWS) if self.serves_features else self._sizes[1]

    def _train_loader(
        self,
        positions: Sequence[int],
        targets: Tensor | None,
        steps: int | None,
        stream: str,
        orders: int = 1,
        ratio: int = 1,
    ) -> DataLoader:
        seed, size = seeds.derive(self.cycle_seed, stream), ratio * self._sizes[0]
        sampler = loading.Shuffled(len(positions), size, seed, steps, self.share, orders, self.full_batches)
        batches = loading.Batches(self._images("train"), torch.tensor(positions), targets)
        if self.block:
            assert self.trainer
            cut = max(self.trainer.max_steps, 0) % len(sampler)
            return loading.loader(loading.Blocks(batches), loading.InBlocks(sampler, self.block, cut), 0)
        return loading.loader(batches, sampler, self._workers)

    def _eval_loader(self, images: Images, positions: Sequence[int], part: Part) -> DataLoader:
        sampler = loading.Evenly(len(positions), self._read_size, self.share)
        batches = loading.Batches(images, torch.tensor(positions), "true", part)
        return loading.loader(batches, sampler, self._workers)

    def _measured_task(self) -> Task | None:
        """What the networks are told."""
        return measured_task(self._set.train, self.begun_positions, self.classes)


_ROWS = 2048  # of features, in a batch
