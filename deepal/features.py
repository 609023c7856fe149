"""Features of images under a network that is not trained, read once and kept for all cycles and all runs of a folder: to be
trained on in place of images, and to be chosen by."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from deepal import fingerprint, folder
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import Part, UnreadableError
from deepal.meter import Meter
from deepal.nn import Frozen, Network, Trunk
from deepal.ranks import Ranks
from deepal.representation import Backbone, FeatureFile, Representation
from deepal.run import Files
from deepal.scan import Scan
from deepal.task import Task
from deepal.watching import Watchers

Read = Callable[[Tensor], Tensor]
"""Features (n, F) of these positions (n,), by all processes together."""

MakeScan = Callable[[Trainer, nn.Module, Part], Scan]

_BLOCK = 8192  # images that a process that is killed has read in vain, at most
_PATIENCE = 20.0  # seconds, after which those who wait with it hear that it still does


class Settings(Protocol):
    """What is read of a learner."""

    data: ActiveDataModule
    embedding_from: Representation | None


class Features:
    """What all cycles of a run read alike.

    Args:
        settings: of the learner.
        files: of the run.
        ranks: the processes that work together.
        watchers: are told how it goes.
        scan: makes a scan of a network over a part of the data.
    """

    def __init__(
        self,
        settings: Settings,
        files: Files,
        ranks: Ranks,
        watchers: Watchers,
        scan: MakeScan,
    ) -> None:
        self.settings, self.data, self.files, self.ranks = settings, settings.data, files, ranks
        self.watchers, self._scan = watchers, scan
        self._are_trained = False  # as far as anybody knows
        self._trunk = Trunk()
        self._rows: Tensor | None = None  # of a file of features

    def serve(self, trainer: Trainer, module: Callable[[], LightningModule], meter: Meter) -> None:
        """Let the data serve features that the module does not train in place of images, where it has such.

        Raises UnreadableError, when all others were read, where images cannot be.
        """
        if self.data.serves_features or not self.data.is_read_once or self._are_trained:
            return
        frozen = getattr(module(), "frozen_network", None)
        self._are_trained = frozen is None
        if frozen is not None:
            train = [*self.data.candidates, *self.data.validation_positions]
            parts: dict[Part, Sequence[int]] = {"train": train, "test": self.data.test_positions}
            store = self._store(frozen)
            order = self.ranks.decided(lambda: sorted(parts, key=store.is_being_read))  # they may share the work
            with meter.phase("read"):
                rows = {part: self._read(trainer, frozen, store, part, parts[part]) for part in order if parts[part]}
                self.data.serve(rows)

    def embeddings(self, trainer: Trainer, positions: Sequence[int]) -> dict[str, Tensor]:
        """Embeddings (N, D) by position that are not the module's, for these training images at least; none where they are
        the module's. Raises ValueError for a file that has not a row for each training image."""
        source = self.settings.embedding_from
        if source is None:
            return {}
        if isinstance(source, FeatureFile):
            images = self.data.sizes()["train"]
            if self._rows is None or len(self._rows) != images:  # shards are hashed when they are joined: not in each cycle
                self._rows = self.ranks.in_turn(lambda: source.rows(images))
            return {"embedding": self._rows}
        assert isinstance(source, Backbone)
        if self.data.task is None:
            raise ValueError(
                f"embedding_from={source!r} has to be told the shape of an image, which {self.data.title} does not say; "
                f"give FeatureFile(path)."
            )
        frozen = Frozen(self._drawn(source, self.data.task))
        return {"embedding": self._read(trainer, frozen, self._store(frozen), "train", positions)}

    def refuse_broken(self) -> None:
        """Raises ValueError where embeddings are to come from a network that cannot be made, or reads no such images."""
        source, task = self.settings.embedding_from, self.data.task
        if not isinstance(source, Backbone) or task is None:
            return
        try:
            with torch.no_grad():
                self._drawn(source, task).trunk_features(torch.zeros(2, *task.input_shape))
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"embedding_from: the network cannot be made for images of shape {list(task.input_shape)} with these "
                f"options, or is none of deepal.nn: {error}"
            ) from error

    def _drawn(self, source: Backbone, task: Task) -> Network:
        return self._trunk.drawn(source.network, task.input_shape, len(task.classes))

    def _store(self, frozen: Frozen) -> "FeatureStore":
        """Where features of these images under this network are kept."""
        assert self.data.task
        task = self.data.task
        of = (frozen.digest(), self.data.identity(), task.input_shape, task.mean, task.std)
        return FeatureStore(self.files.features / fingerprint.digest(of), self.ranks)

    def _read(
        self, trainer: Trainer, frozen: Frozen, store: "FeatureStore", part: Part, positions: Sequence[int]
    ) -> Tensor:
        """Rows of features of a part, (N, F), mapped, these positions filled in."""
        scan = replace(self._scan(trainer, Reader(frozen), part), precision=nullcontext)  # whatever the fit is in

        def read(some: Tensor) -> Tensor:
            return scan.read(some, ("features",))["features"]

        self.watchers.tell("phase", 0, "read", len(positions))
        with self.data.serving_images():
            return store.rows(part, self.data.sizes()[part], positions, self.data.stamps(part, positions), read)


class Reader(nn.Module):
    """Says `features` of images. Args: frozen: by its network."""

    def __init__(self, frozen: Frozen) -> None:
        super().__init__()
        self._frozen = (frozen,)  # not ours to train or to move

    def features(self, images: Tensor) -> Tensor:
        """(B, F)."""
        return self._frozen[0].trunk_features(images)


class FeatureStore:
    """Rows of features by position in files `PART.npy` of a folder, and in `PART-stamps.npy` the stamp of the image that
    each was read of, 0 where none was. What is read is there for whoever comes next; a process that is killed loses a
    block.

    Args: path: the folder, of one network and one set of images; ranks: the processes that read together.
    """

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self.path, self.ranks = path, ranks

    def rows(self, part: Part, size: int, positions: Sequence[int], stamps: Tensor, read: Read) -> Tensor:
        """All rows (N, F), mapped, those of `positions` filled in.

        Args:
            part: of the images; size: how many there are of it, at most N.
            positions: n that are wanted.
            stamps: (n,) of these images as they are now (`Images.stamps`).
            read: reads some that are not there yet, or were others.
        Raises UnreadableError, when all others were read, where images cannot be.
        """
        wanted = torch.tensor(positions, dtype=torch.long)
        order = wanted.argsort()
        wanted, stamps = wanted[order], stamps[order]
        if self._missing(part, size, wanted, stamps).any():
            with ExitStack() as held:
                while not self.ranks.decided(lambda: folder.is_taken(held, self.path / part, _PATIENCE)):
                    pass  # all of them know that one waits
                missing = self._missing(part, size, wanted, stamps)
                self._fill(part, size, wanted[missing], stamps[missing], read)
            self.ranks.decided(lambda: None)  # nobody opens a file that is being written
        return torch.from_numpy(np.load(self._file(part), mmap_mode="c"))

    def is_being_read(self, part: Part) -> bool:
        """Whether another run reads this part just now."""
        try:
            with folder.held(self.path / part):
                return False
        except folder.FolderHeldError:
            return True
        except OSError:  # nobody may write here: then all is read
            return False

    def _missing(self, part: Part, size: int, wanted: Tensor, stamps: Tensor) -> Tensor:
        """(n,), which of these were not read as they are now."""
        return self.ranks.decided(lambda: self._stamps(part, size)[wanted] != stamps)

    def _fill(self, part: Part, size: int, missing: Tensor, stamps: Tensor, read: Read) -> None:
        reasons: dict[int, str] = {}
        for block, stamp in zip(missing.split(_BLOCK), stamps.split(_BLOCK), strict=True) if len(missing) else ():
            while len(block):
                try:
                    self._keep(part, size, block, stamp, read(block))
                    break
                except UnreadableError as error:
                    reasons |= error.reasons
                    others = ~torch.isin(block, torch.tensor(list(error.reasons)))
                    block, stamp = block[others], stamp[others]
        if reasons:
            raise UnreadableError(reasons, part)

    def _keep(self, part: Part, size: int, positions: Tensor, stamps: Tensor, features: Tensor) -> None:
        """Write rows, and then of which images they are."""
        if not self.ranks.first:
            return
        known = self._stamps(part, size)
        if not self._is_whole(part):
            folder.write_atomically(self._file(part), lambda new: _make(new, (size, features.shape[1]), np.float32))
            folder.write_atomically(self._marks(part), lambda new: _make(new, (size,), np.int64))
        elif len(np.load(self._marks(part), mmap_mode="r")) < size:  # there are more images than there were
            before = np.load(self._file(part), mmap_mode="r")
            folder.write_atomically(self._file(part), lambda new: _make(new, (size, before.shape[1]), np.float32, before))
            folder.write_atomically(self._marks(part), lambda new: _make(new, (size,), np.int64, known.numpy()))
        rows, marks = (np.lib.format.open_memmap(each, "r+") for each in (self._file(part), self._marks(part)))
        marks[positions.numpy()] = 0  # while they are neither what they were nor what they will be
        marks.flush()
        rows[positions.numpy()] = features.float().cpu().numpy()
        rows.flush()
        marks[positions.numpy()] = stamps.numpy()
        marks.flush()

    def _stamps(self, part: Part, size: int) -> Tensor:
        """(N,), of what was read."""
        found = torch.zeros(size, dtype=torch.int64)
        if self._is_whole(part):
            known = torch.from_numpy(np.load(self._marks(part)))
            found = torch.cat([known, found[len(known) :]])
        return found

    def _is_whole(self, part: Part) -> bool:
        """Whether something was read, and the files of it are not cut off: else all is read again."""
        try:
            rows, marks = (np.load(each, mmap_mode="r") for each in (self._file(part), self._marks(part)))
        except (OSError, ValueError, EOFError):
            return False
        return len(rows) >= len(marks)

    def _file(self, part: Part) -> Path:
        return self.path / f"{part}.npy"

    def _marks(self, part: Part) -> Path:
        return self.path / f"{part}-stamps.npy"


def _make(path: Path, shape: tuple[int, ...], dtype: type, begin: np.ndarray | None = None) -> None:
    """A file of zeros, or that begins with these rows, with the room for it: a full disk says so now, and not by a signal
    in the midst of writing."""
    made = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    if begin is not None:
        for first in range(0, len(begin), _BLOCK):
            block = begin[first : first + _BLOCK]
            made[first : first + len(block)] = block
    made.flush()
