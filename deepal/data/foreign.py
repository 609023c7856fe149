"""The data sets of somebody else's LightningDataModule, with labels from an oracle."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from deepal import seeds
from deepal.data import loading
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import Images, ImageSet, Part, read_each
from deepal.data.loading import Damaged
from deepal.fingerprint import NEUTRAL


class ForeignItems(Images):
    """Items of any kind, collated as their owner does.

    Args:
        items: to train on; read: the same items to read them, without augmentation.
        collate: makes a batch of a list of items.
        target: where the label is in an item: an index, or a key.
    """

    def __init__(self, items: Any, read: Any, collate: Callable[[list], Any], target: int | str) -> None:
        self.items, self.read, self.collate, self.target = items, read, collate, target

    def __len__(self) -> int:
        return len(self.items)

    def images(self, positions: Any) -> Any:
        """A whole batch as its owner makes it, every label in it zero."""
        items = read_each(lambda position: self.read[position], positions)
        return self.collate([_with(item, self.target, _blank(item[self.target])) for item in items])

    def targets(self, positions: Any) -> Tensor:
        return torch.as_tensor(np.array([plain(self.items[int(position)][self.target]) for position in positions]))

    def batch(self, positions: Tensor, targets: Tensor | None) -> Any:
        if targets is None:
            return self.images(positions)
        items = read_each(lambda position: self.items[position], positions)
        answered = [_as(item[self.target], target) for item, target in zip(items, targets, strict=True)]
        return self.collate([_with(item, self.target, each) for item, each in zip(items, answered, strict=True)])

    def true_batch(self, positions: Tensor) -> Any:
        return self.collate(read_each(lambda position: self.items[position], positions))


@dataclass(kw_only=True, eq=False)
class OverDataModule(ActiveDataModule):
    """`ActiveDataModule.over`: see there. Theirs is validated and tested on, as they say."""

    datamodule: LightningDataModule = field(metadata=NEUTRAL)
    scan_dataset: Dataset | None = field(default=None, metadata=NEUTRAL)
    target_in_item: int | str = 1
    class_names: Sequence[str] | None = None
    validation: float = 0

    @property
    def title(self) -> str:
        return type(self.datamodule).__name__

    def load(self) -> ImageSet:
        theirs = self.datamodule
        theirs.prepare_data()
        self._set_up("fit")
        train = _map_style(theirs, "train_dataloader")
        if train is None:
            raise ValueError(f"{self.title}.train_dataloader gives no loader, and there must be something to label.")
        read = train.dataset if self.scan_dataset is None else self.scan_dataset
        if len(read) != len(train.dataset):  # type: ignore[arg-type]
            raise ValueError(
                f"scan_dataset has {len(read)} items and the training data of {self.title} "  # type: ignore[arg-type]
                f"{len(train.dataset)}; they must be the same items in the same order."  # type: ignore[arg-type]
            )
        self._batch_size, self.num_workers = train.batch_size or 1, train.num_workers
        _refuse_target(train.dataset, self.target_in_item, self.title)
        items = ForeignItems(train.dataset, read, train.collate_fn, self.target_in_item)
        self._val_items = self._others("val_dataloader")
        self._set_up("test")
        nothing = ForeignItems([], [], train.collate_fn, self.target_in_item)
        return ImageSet(items, self._others("test_dataloader") or nothing, tuple(self.class_names or ()))

    def _set_up(self, stage: str) -> None:
        """With the same coins each time: splits that are drawn there are the same then."""
        with isolate_rng():
            seeds.set_global(0)
            self.datamodule.setup(stage)

    def fingerprint(self) -> str:
        """A hash of 64 items spread evenly, read with the same coins each time."""
        items = self._set.train
        told = f"{len(items)} {len(self._set.test)} items, {self._batch_size} a batch"
        digest = blake2b(told.encode(), digest_size=16)
        with isolate_rng():
            seeds.set_global(0)
            some = items.images(torch.linspace(0, len(items) - 1, min(64, len(items))).long().unique())
        for leaf in tree_leaves(some):
            digest.update(np.asarray(leaf).tobytes() if hasattr(leaf, "__array__") else repr(leaf).encode())
        return digest.hexdigest()

    def _measured_task(self) -> None:
        """Nothing is told: the module knows its own data."""

    @property
    def is_read_once(self) -> bool:
        """No: what an item holds, and what is made of it on its way, is their own."""
        return False

    @property
    def validation_positions(self) -> list[int]:
        every = range(len(self._val_items)) if self._val_items else ()
        return [position for position in every if position not in self._unreadable["val"]]

    def holdout(self) -> tuple[list[int], Tensor]:
        """None: the validation images are a data set of their own, which the scan does not read."""
        return [], torch.empty(0, dtype=torch.long)

    def needed(self) -> dict[Part, list[int]]:
        return {"train": self.pool.labeled, "val": self.validation_positions, "test": self.test_positions}

    def val_dataloader(self) -> DataLoader | list:
        positions = self.validation_positions
        return self._eval_loader(self._images("val"), positions, "val") if positions else []

    def label(self, given: Any) -> str:
        """The name of a class where there are names; any number or nested list of numbers otherwise, as JSON."""
        if self.classes:
            return super().label(given)
        if isinstance(given, str):
            with suppress(json.JSONDecodeError):
                given = json.loads(given)
        if np.asarray(plain(given)).dtype.kind not in "biuf":
            raise ValueError(f"{given!r} is no label of {self.title}; a label is a number or a list of numbers, as JSON.")
        return json.dumps(plain(given))

    def target(self, label: str) -> Any:
        return super().target(label) if self.classes else json.loads(label)

    def true_label(self, position: int) -> str:
        return self.label(plain(self._set.train.items[position][self.target_in_item]))  # type: ignore[attr-defined]

    def accuracy(self, positions: Sequence[int], classes: Sequence[int]) -> None:
        """Not known: to look a label up is to read the item that it is in."""

    # Their own hooks, around every batch

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if isinstance(batch, Damaged) else self._theirs.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, Damaged):
            return batch
        return self._theirs.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, Damaged):
            return super().on_after_batch_transfer(batch, dataloader_idx)
        return self._theirs.on_after_batch_transfer(batch, dataloader_idx)

    def scanned(self, batch: Any, device: torch.device) -> Any:
        images = loading.whole(batch)["input"]
        theirs = self.transfer_batch_to_device(self.on_before_batch_transfer(images, 0), device, 0)
        return {**batch, "input": self.on_after_batch_transfer(theirs, 0)}

    @property
    def _theirs(self) -> LightningDataModule:
        self.datamodule.trainer = self.trainer
        return self.datamodule

    def _images(self, part: Part) -> Images:
        return self._val_items if part == "val" and self._val_items else super()._images(part)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self._batch_size, self._batch_size

    def _others(self, name: str) -> ForeignItems | None:
        """The items of their validation or test loader, where they have one."""
        if getattr(type(self.datamodule), name) is getattr(LightningDataModule, name):
            return None
        loader = _map_style(self.datamodule, name)
        if loader is None:
            return None
        return ForeignItems(loader.dataset, loader.dataset, loader.collate_fn, self.target_in_item)


def plain(value: Any) -> Any:
    """A label as numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _refuse_target(items: Any, target: int | str, title: str) -> None:
    """Raises ValueError where an item has nothing at this place."""
    item = items[0]
    try:
        item[target]
    except (TypeError, KeyError, IndexError) as error:
        there = f"the keys {', '.join(map(repr, item))}" if isinstance(item, dict) else f"the type {type(item).__name__}"
        raise ValueError(
            f"target={target!r} is no place in an item of {title}, which has {there}; say where its label is."
        ) from error


def _map_style(datamodule: LightningDataModule, name: str) -> DataLoader | None:
    """Their loader; None where there is none. Raises ValueError for what cannot be read by position."""
    loader, where = getattr(datamodule, name)(), f"{type(datamodule).__name__}.{name}"
    if isinstance(loader, list | tuple) and len(loader) < 2:
        loader = loader[0] if loader else None
    if loader is None:
        return None
    if not isinstance(loader, DataLoader):
        raise ValueError(f"{where} gives {type(loader).__name__}, and active learning needs one DataLoader there.")
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise ValueError(
            f"{where} reads {type(loader.dataset).__name__}, which is iterable: its items have no position to ask; give a "
            f"data set with __getitem__ and __len__."
        )
    for sampler, known in ((loader.sampler, (SequentialSampler, RandomSampler)), (loader.batch_sampler, (BatchSampler,))):
        if sampler is not None and type(sampler) not in known:
            raise ValueError(
                f"{where} has the sampler {type(sampler).__name__}, and what is trained on is for the labels to say; "
                f"leave the sampler out."
            )
    return loader


def _with(item: Any, key: int | str, value: Any) -> Any:
    """A copy of an item with another value at this place."""
    if isinstance(item, dict):
        return {**item, key: value}
    changed: Any = list(item)
    changed[key] = value
    return type(item)(*changed) if hasattr(item, "_fields") else type(item)(changed)


def _blank(label: Any) -> Any:
    """A zero of the same kind; nothing where there is no label."""
    if label is None:
        return None
    return [0] * len(label) if isinstance(label, list | tuple) else label * 0


def _as(own: Any, answered: Tensor) -> Any:
    """An answered label as the kind of thing that the item's own label is."""
    if isinstance(own, Tensor):
        return answered.to(own.dtype).reshape(own.shape)
    if isinstance(own, np.ndarray):
        return answered.numpy().astype(own.dtype)
    if own is None:
        return answered
    return answered.tolist() if isinstance(own, list | tuple) else type(own)(answered.item())
