"""Images in files: decoded when they are asked for, each by itself, whatever its mode and size."""

from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from deepal.data.images import UNLABELED, Images, UnreadableError
from deepal.data.table import Table, hashes


class RowsChangedError(ValueError):
    """Rows that a run was begun with are gone, or are others."""


class FileImages(Images):
    """The images of a table of files, in the order in which a run has come to know them.

    What cannot be decoded is told with its reason; so is a file whose content is not what was read at first: `seen` holds
    a hash of the content of each file that was read, in memory that workers share.

    Args:
        table: the files.
        classes: class names, whose numbers `targets` are.
        size: height and width that each image is brought to: the shorter side resized, the middle kept.
        channels: 1 for gray, 3 for color.
        known: keys of the images that a run knows already, in its order, all of them in the table; the new ones come
            after them.
        cut_off: leave the last row out where it is new.
    Raises RowsChangedError, naming them, where known images have other rows.
    """

    def __init__(
        self,
        table: Table,
        classes: tuple[str, ...],
        size: int,
        channels: int,
        known: np.ndarray | None = None,
        cut_off: bool = False,
    ) -> None:
        self.table, self.size, self.channels = table, size, channels
        self._order = np.arange(len(table)) if known is None else _order(table, known, cut_off)
        number = {name: i for i, name in enumerate(classes)}
        self._classes = torch.from_numpy(
            table.labels.each([number.get(label, UNLABELED) for label in table.labels.distinct], np.int32)
        )
        self.seen = torch.zeros(len(self._order), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._order)

    def images(self, positions: object) -> Tensor:
        return self._each(self._read, positions)

    def _each(self, read: Callable[[int], Tensor], positions: object) -> Tensor:
        decoded, reasons = [], {}
        for position in map(int, positions):  # type: ignore[call-overload]
            try:
                decoded.append(read(position))
            except FileNotFoundError:
                reasons[position] = "deleted: there is no such file"
            except UnidentifiedImageError:
                reasons[position] = "no image: no decoder knows it"
            except MemoryError:
                raise
            except Exception as error:  # decoders raise whatever they like at what is broken
                reasons[position] = str(error) or type(error).__name__
        if reasons:
            raise UnreadableError(reasons)
        shape = (0, self.channels, self.size, self.size)
        return torch.stack(decoded) if decoded else torch.empty(shape, dtype=torch.uint8)

    def pictures(self, positions: object) -> Tensor:
        """In color, and large enough to look at, whatever the model reads."""
        return self._each(lambda position: decode(self.path(position).read_bytes(), max(self.size, 128), 3), positions)

    def targets(self, positions: object) -> Tensor:
        rows = self._order[torch.as_tensor(positions, dtype=torch.long).numpy()]
        return self._classes[rows].long()

    def name(self, position: int) -> str:
        return self.table.names[self._order[position]]

    def path(self, position: int) -> Path:
        return self.table.root / self.table.paths[self._order[position]]

    def position(self, name: str) -> int | None:
        (key,) = hashes([name])
        place = int(np.searchsorted(self.table.keys[:, 0], key, sorter=self._by_name))
        row = self._by_name[min(place, len(self.table) - 1)]
        return self._positions.get(int(row)) if self.table.names[row] == name else None

    @cached_property
    def _by_name(self) -> np.ndarray:
        return np.argsort(self.table.keys[:, 0], kind="stable")

    @cached_property
    def _positions(self) -> dict[int, int]:
        """Positions by row of the table."""
        return {row: position for position, row in enumerate(self._order.tolist())}

    def groups(self, positions: object) -> Tensor | None:
        if self.table.groups is None:
            return None
        return torch.from_numpy(self.table.groups[self._order[torch.as_tensor(positions, dtype=torch.long).numpy()]])

    def keys(self) -> np.ndarray:
        return self.table.keys[self._order]

    def stamps(self, positions: object) -> Tensor:
        """By the name, the size and the time of each file, which is read for neither."""
        return torch.tensor([self._stamp(int(position)) for position in positions], dtype=torch.int64)  # type: ignore[attr-defined]

    def _stamp(self, position: int) -> int:
        try:
            found = self.path(position).stat()
            said = f"{self.name(position)} {found.st_size} {found.st_mtime_ns}"
        except OSError:
            said = f"{self.name(position)} is gone"
        return int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), "big", signed=True) or 1

    def splits(self) -> np.ndarray:
        """What each image is for, (N,), numbers of `table.SPLITS`."""
        return self.table.splits[self._order]

    def annotator(self, position: int) -> str:
        """Who labeled an image, as far as the table says."""
        return self.table.annotators[self._order[position]]

    def _read(self, position: int) -> Tensor:
        content = self.path(position).read_bytes()
        digest = int.from_bytes(blake2b(content, digest_size=8).digest(), "big", signed=True)
        before = int(self.seen[position])
        if before and digest != before:
            raise ValueError("replaced: the file has another content than when this run first read it")
        image = decode(content, self.size, self.channels)
        self.seen[position] = digest
        return image


def decode(content: bytes, size: int, channels: int) -> Tensor:
    """An image file as (channels, size, size), uint8: turned upright, the shorter side resized, the middle kept.

    Sixteen-bit gray is brought to eight bits, transparency is dropped, and of several frames the first is taken.

    Raises ValueError for a picture of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` and for floating-point pixels, and
    whatever PIL raises for what is no whole image.
    """
    with Image.open(BytesIO(content)) as opened:
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and opened.width * opened.height > most:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than {most}: a decompression bomb, maybe")
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range nobody knows; save it with integers")
    if image.mode.startswith("I"):  # 16 bits, which a conversion would cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).reshape(size, size, channels).permute(2, 0, 1).contiguous()


def _order(table: Table, known: np.ndarray, cut_off: bool) -> np.ndarray:
    """Rows of the table by position: the known ones in their order, then the new ones as the table has them."""
    keys = table.keys
    by_name = np.argsort(keys[:, 0], kind="stable")
    rows = by_name[np.searchsorted(keys[:, 0], known[:, 0], sorter=by_name)]
    changed = rows[keys[rows, 1] != known[:, 1]]
    if len(changed):
        names = ", ".join(repr(table.names[row]) for row in changed[:5])
        raise RowsChangedError(
            f"{len(changed)} images have other rows than when the run was begun ({names}): a path, label, split or group "
            f"has changed; undo that. Rows may be added, and labels are given as answers."
        )
    new = np.ones(len(table), bool)
    new[rows] = False
    new[-1] &= not cut_off
    return np.concatenate([rows, np.flatnonzero(new)])
