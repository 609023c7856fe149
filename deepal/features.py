"""Features of images under a network that is not trained, read once and kept for all cycles and all runs of a folder: to be
trained on in place of images, and to be chosen by."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from deepal import fingerprint, folder
from deepal.data import arrays
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import Part, UnreadableError
from deepal.meter import Meter
from deepal.nn import Frozen, Trunk
from deepal.ranks import Ranks
from deepal.representation import Backbone, FeatureFile, Representation
from deepal.run import Files
from deepal.scan import Scan
from deepal.watching import Watchers

Read = Callable[[Tensor], Tensor]
"""Features (n, F) of these positions (n,), by all processes together."""

MakeScan = Callable[[Trainer, nn.Module, Part], Scan]

_BLOCK = 8192  # images that a process that is killed has read in vain, at most
_PATIENCE = 24 * 3600.0  # seconds to wait for another run that reads the same


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
        scan: Callable[[Trainer, nn.Module, Part], Scan],
    ) -> None:
        self.settings, self.data, self.files, self.ranks = settings, settings.data, files, ranks
        self.watchers, self._scan = watchers, scan
        self._are_trained = False  # as far as anybody knows
        self._trunk = Trunk()

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
            with meter.phase("read"):
                self.data.serve({part: self._read(trainer, frozen, part, some) for part, some in parts.items() if some})

    def embeddings(self, trainer: Trainer, positions: Sequence[int]) -> dict[str, Tensor]:
        """Embeddings (N, D) by position that are not the module's, for these training images at least; none where they are
        the module's. Raises ValueError for a file that has not a row for each training image."""
        source = self.settings.embedding_from
        if source is None:
            return {}
        if isinstance(source, FeatureFile):
            rows = self.ranks.in_turn(lambda: arrays.read(source.path))
            self._refuse_other_rows(source, rows)
            return {"embedding": rows}
        assert isinstance(source, Backbone)
        if self.data.task is None:
            raise ValueError(
                f"embedding_from={source!r} has to be told the shape of an image, which {self.data.title} does not say; "
                f"give FeatureFile(path)."
            )
        network = self._trunk.drawn(source.network, self.data.task.input_shape, len(self.data.task.classes))
        return {"embedding": self._read(trainer, Frozen(network), "train", positions)}

    def _refuse_other_rows(self, source: FeatureFile, rows: Tensor) -> None:
        images = self.data.sizes()["train"]
        if len(rows) != images or rows.ndim != 2 or not rows.is_floating_point():
            raise ValueError(
                f"embedding_from={source!r} holds {list(rows.shape)} numbers of {rows.dtype}, and there are {images} "
                f"training images; it must hold floats, a row for each in their order."
            )

    def _read(self, trainer: Trainer, frozen: Frozen, part: Part, positions: Sequence[int]) -> Tensor:
        """Rows of features of a part, (N, F), mapped, these positions filled in."""
        assert self.data.task
        of = (frozen.digest(), self.data.identity(), self.data.task.mean, self.data.task.std)
        store = FeatureStore(self.files.features / fingerprint.digest(of), self.ranks)
        scan = self._scan(trainer, Reader(frozen), part)

        def read(some: Tensor) -> Tensor:
            return scan.read(some, ("features",))["features"]

        self.watchers.tell("phase", 0, "read", len(positions))
        with self.data.serving_images():
            return store.rows(part, self.data.sizes()[part], positions, read)


class Reader(nn.Module):
    """Says `features` of images. Args: frozen: by its network."""

    def __init__(self, frozen: Frozen) -> None:
        super().__init__()
        self._frozen = (frozen,)  # not ours to train or to move

    def features(self, images: Tensor) -> Tensor:
        """(B, F)."""
        return self._frozen[0].trunk_features(images)


class FeatureStore:
    """Rows of features by position in files `PART.npy` of a folder, and which of them were read. What is read is there for
    whoever comes next; a process that is killed loses a block.

    Args: path: the folder, of one network and one set of images; ranks: the processes that read together.
    """

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self.path, self.ranks = path, ranks

    def rows(self, part: Part, size: int, positions: Sequence[int], read: Read) -> Tensor:
        """All rows (N, F), mapped, those of `positions` filled in.

        Args:
            part: of the images; size: N, how many there are of it.
            positions: that are wanted.
            read: reads some that are not there yet.
        Raises UnreadableError, when all others were read, where images cannot be.
        """
        wanted = torch.tensor(sorted(positions), dtype=torch.long)
        if self._missing(part, size, wanted).numel():
            with folder.held(self.path, _PATIENCE) if self.ranks.first else nullcontext():
                self._fill(part, size, self._missing(part, size, wanted), read)
            self.ranks.decided(lambda: None)  # nobody opens a file that is being written
        return torch.from_numpy(np.load(self._file(part), mmap_mode="c"))

    def _missing(self, part: Part, size: int, wanted: Tensor) -> Tensor:
        """Those of these positions that were not read yet."""
        return self.ranks.decided(lambda: wanted[~self._there(part, size)[wanted]])

    def _fill(self, part: Part, size: int, missing: Tensor, read: Read) -> None:
        reasons: dict[int, str] = {}
        for block in missing.split(_BLOCK) if len(missing) else ():
            try:
                self._keep(part, size, block, read(block))
            except UnreadableError as error:
                reasons |= error.reasons
                others = block[~torch.isin(block, torch.tensor(list(error.reasons)))]
                if len(others):
                    self._keep(part, size, others, read(others))
        if reasons:
            raise UnreadableError(reasons, part)

    def _keep(self, part: Part, size: int, positions: Tensor, features: Tensor) -> None:
        """Write rows, and then that they are there."""
        if not self.ranks.first:
            return
        if not self._marks(part).exists():
            folder.write_atomically(self._file(part), lambda new: _make(new, (size, features.shape[1]), np.float32))
            folder.write_atomically(self._marks(part), lambda new: _make(new, (size,), np.bool_))
        rows, marks = (np.lib.format.open_memmap(each, "r+") for each in (self._file(part), self._marks(part)))
        rows[positions.numpy()] = features.float().cpu().numpy()
        rows.flush()
        marks[positions.numpy()] = True
        marks.flush()

    def _there(self, part: Part, size: int) -> Tensor:
        """(N,), which rows were read."""
        if not self._marks(part).exists():
            return torch.zeros(size, dtype=torch.bool)
        return torch.from_numpy(np.load(self._marks(part)))

    def _file(self, part: Part) -> Path:
        return self.path / f"{part}.npy"

    def _marks(self, part: Part) -> Path:
        return self.path / f"{part}-there.npy"


def _make(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """A file of zeros, with the room for it: a full disk says so now, and not by a signal in the midst of writing."""
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
