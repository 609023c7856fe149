"""Your own images: a folder with a folder a class, or a manifest, which is a table of files."""

import logging
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from deepal import tables
from deepal.data.datamodule import ActiveDataModule, Remembered
from deepal.data.files import FileImages, RowsChangedError
from deepal.data.images import UNLABELED, ImageSet
from deepal.data.table import COLUMNS, SPLITS, Table
from deepal.fingerprint import NEUTRAL

log = logging.getLogger(__name__)

Columns = Mapping[str, Sequence[str]]
_ROWS_AT_ONCE = 500  # few enough objects at a time that Python's garbage collector does not go looking for them


@dataclass(kw_only=True, eq=False)
class FileSet(ActiveDataModule):
    """Images in files, some of them labeled.

    A run knows an image by its name, and by what is said of it, so images may be added while it goes on, in any order: they
    join the pool. An image that is gone or has another row is refused, one that cannot be read is set aside.

    Args:
        class_names: all classes there may be, in the order of their numbers. None: those that occur, sorted.
        image_size: height and width that images are brought to: the shorter side resized, the middle kept.
        channels: 3 for color, 1 for gray.
        test_share: of the images whose class is known, to test on, where no image is marked for that: drawn by their names
            (by groups, where there are any), so that growth moves none. 0: nothing is tested.
    """

    class_names: Sequence[str] | None = None
    image_size: int = 224
    channels: Literal[1, 3] = 3
    test_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 1:
            raise ValueError(f"data.image_size={self.image_size} must be at least 1.")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"data.test_share={self.test_share} must be at least 0 and below 1.")
        if self.class_names is not None and len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"data.class_names={list(self.class_names)} holds a name twice.")

    @abstractmethod
    def read_table(self) -> Table:
        """The files. Raises FileNotFoundError and ValueError, with the cure."""

    @abstractmethod
    def rows_of_lost(self, names: Sequence[str]) -> Columns:
        """The rows of images that a run has known, and that are no longer in the table. Raises RowsChangedError, naming
        them, where a table may not lose rows."""

    def load(self) -> ImageSet:
        table = self.read_table()
        if not len(table):
            raise FileNotFoundError(f"{self.title} holds no images.")
        classes = tuple(self.class_names or sorted(set(table.labels.distinct) - {""}))
        if len(classes) < 2:
            raise ValueError(
                f"{self.title} has {len(classes)} classes ({', '.join(classes) or 'no image is labeled'}), and needs two; "
                f"name them all: data.class_names='[cat,dog]'."
            )
        _refuse_unknown(table, classes)
        if any(table.labels.distinct) and (absent := [name for name in classes if name not in table.labels.distinct]):
            log.warning("%s: no image is labeled %s.", self.title, ", ".join(absent))
        images = FileImages(table, classes, self.image_size, self.channels)
        return ImageSet(images, images, classes)

    def arranged(self, loaded: ImageSet, remembered: Remembered | None) -> ImageSet:
        table, begun_with = loaded.train.table, None  # type: ignore[attr-defined]
        if remembered and remembered.keys is not None:
            begun_with, gone = remembered.begun_with, table.lacks(remembered.keys)
            if gone.any():
                names = remembered.names()
                lost = [names[at] if names else "" for at in np.flatnonzero(gone).tolist()]
                table = table.with_rows(self.rows_of_lost(lost), remembered.keys[gone])
        classes = remembered.task.classes if remembered and remembered.task else loaded.classes
        _refuse_unknown(table, classes)
        known = remembered.keys if remembered else None
        images = FileImages(table, classes, self.image_size, self.channels, known, self.is_cut_off() and known is not None)
        self._recorded = torch.zeros_like(images.seen)
        splits, labeled = images.splits(), images.targets(np.arange(len(images))).numpy() != UNLABELED
        begun = np.arange(len(images)) < (len(images) if begun_with is None else begun_with)
        sides = {name: begun & (splits == SPLITS[name]) for name in ("test", "val")}
        for name, side in sides.items():
            if (side & ~labeled).any():
                nameless = images.name(int(np.flatnonzero(side & ~labeled)[0]))
                raise ValueError(f"{nameless} is in the split {name} and has no label; what is measured needs one.")
        tested, validation = sides["test"], sides["val"]
        if not tested.any():
            tested = begun & labeled & (splits == SPLITS[""]) & self._drawn_by_name(images)
        apart = tested | validation
        if (groups := images.groups(np.arange(len(images)))) is not None:
            apart |= np.isin(groups.numpy(), groups.numpy()[apart])  # with each image its group, labeled or not
        late = ~begun & (splits >= SPLITS["val"])
        if late.any():
            log.warning(
                "%d images of the splits val and test came later: a run keeps those it began with.", int(late.sum())
            )
            apart |= late
        return ImageSet(
            images, images, classes,
            candidates=torch.from_numpy(np.flatnonzero(~apart)),
            labeled=torch.from_numpy(np.flatnonzero(labeled)),
            validation=torch.from_numpy(np.flatnonzero(validation)) if validation.any() else None,
            tested=torch.from_numpy(np.flatnonzero(tested)),
        )  # fmt: skip

    def is_cut_off(self) -> bool:
        """Whether the last row may be half of one, because somebody is still writing it."""
        return False

    def annotator(self, position: int) -> str:
        return self._set.train.annotator(position) or self.title  # type: ignore[attr-defined]

    def newly_read(self) -> dict[int, int]:
        images = self._set.train
        assert isinstance(images, FileImages)
        new = (images.seen != self._recorded).nonzero().squeeze(1)
        self._recorded[new] = images.seen[new]
        return dict(zip(new.tolist(), images.seen[new].tolist(), strict=True))

    def recall(self, contents: Mapping[int, int]) -> None:
        if contents:
            positions = torch.tensor(list(contents))
            for known in (self._set.train.seen, self._recorded):  # type: ignore[attr-defined]
                known[positions] = torch.tensor(list(contents.values()))

    def _drawn_by_name(self, images: FileImages) -> np.ndarray:
        """A share of the images, (N,) bool, that depends on the name of each alone, or on its group's."""
        groups = images.groups(np.arange(len(images)))
        coins = images.keys()[:, 0] if groups is None else groups.numpy().view(np.uint64)
        return (coins * np.uint64(0xD6E8FEB86659FD93) >> np.uint64(40)).astype(np.float64) / 2**24 < self.test_share


@dataclass(kw_only=True, eq=False)
class ImageFolder(FileSet):
    """A folder with a folder a class, whose names are the labels. Images that lie in no folder, or in a folder that
    `class_names` does not name, have no label: a folder of nothing but images is all pool.

    Args:
        root: the folder.
        test_root: another like it, of images to test on. None: `test_share` says.
    """

    root: str = field(metadata=NEUTRAL)
    test_root: str | None = field(default=None, metadata=NEUTRAL)

    @property
    def title(self) -> str:
        return Path(self.root).expanduser().resolve().name

    def read_table(self) -> Table:
        root = Path(self.root).expanduser()
        self._folders: dict[str, int] = {}
        paths = self._paths("root", self.root)
        if self.test_root is not None:
            paths += [self._from_test_root(path) for path in self._paths("test_root", self.test_root)]
        return Table.of(root, [self._rows(paths)])

    def _paths(self, name: str, folder: str) -> list[str]:
        top = Path(folder).expanduser()
        if not top.is_dir():
            raise FileNotFoundError(f"data.{name}='{folder}' is no folder; give the one that holds the images.")
        return sorted(self._found(top))

    def _from_test_root(self, path: str) -> str:
        return os.path.relpath(Path(str(self.test_root)).expanduser(), Path(self.root).expanduser()) + f"/{path}"

    def _rows(self, paths: Sequence[str]) -> Columns:
        """What the paths say: the label, and whether an image is there to test on."""
        prefix = self._from_test_root("") if self.test_root is not None else None
        tested = [prefix is not None and path.startswith(prefix) for path in paths]
        own = [path[len(prefix or "") :] if test else path for path, test in zip(paths, tested, strict=True)]
        labels = list(map(self._label, own))
        nameless = Counter(
            path.partition("/")[0] for path, label in zip(own, labels, strict=True) if "/" in path and not label
        )
        if nameless:
            listed = ", ".join(f"{folder} ({count})" for folder, count in nameless.most_common(5))
            log.warning("%s: images in folders that are no class have no label: %s.", self.title, listed)
        return {"path": paths, "label": labels, "split": ["test" if test else "" for test in tested]}

    def has_grown(self) -> bool:
        return any(_modified(folder) != before for folder, before in self._folders.items())

    def rows_of_lost(self, names: Sequence[str]) -> Columns:
        log.warning("%s: %d images are gone (%s).", self.title, len(names), ", ".join(names[:5]))
        return self._rows(names)  # deleted files, which nobody can read

    def _found(self, top: Path) -> Iterator[str]:
        """Paths of image files below `top`, relative to it. What other files there are is said once."""
        known, others, seen = set(Image.registered_extensions()), Counter[str](), set[str]()
        for folder, folders, files in os.walk(top, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or "ledger.sqlite" in files:  # a link to where it lies; a run, which has pictures of its own
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not name.startswith(".")]
            self._folders[folder] = _modified(folder)
            relative = Path(folder).relative_to(top).as_posix()
            for file in files:
                extension = os.path.splitext(file)[1].lower()  # noqa: PTH122  (a million times)
                if extension in known and _is_text(file):
                    yield file if relative == "." else f"{relative}/{file}"
                elif not file.startswith("."):
                    others[extension if _is_text(file) else "names that are no text"] += 1
        if others:
            listed = ", ".join(f"{count} {name or 'without one'}" for name, count in others.most_common(5))
            log.warning("%s: files that are no images by their extensions are left out: %s.", top, listed)

    def _label(self, path: str) -> str:
        folder = path.partition("/")[0] if "/" in path else ""
        return folder if self.class_names is None or folder in self.class_names else ""


@dataclass(kw_only=True, eq=False)
class Manifest(FileSet):
    """A table of image files, CSV or Parquet, with the columns `path` or `id` or both, `label`, and where they are wanted
    `split` (train, val, test, or empty), `group` (patient, video: kept on one side of a split) and `annotator`.

    A row without a label is pool. Rows may be added while a run goes on, in any order.

    Args:
        manifest: the file; `.parquet` needs the extra `parquet`.
        root: the folder that paths are relative to. None: the manifest's.
        columns: the file's own names for these columns, `{"label": "diagnosis"}`.
    """

    manifest: str = field(metadata=NEUTRAL)
    root: str | None = field(default=None, metadata=NEUTRAL)
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in set(self.columns) - set(COLUMNS):
            raise ValueError(
                f"data.columns names '{name}', which is no column of a manifest; those are {', '.join(COLUMNS)}."
            )

    @property
    def title(self) -> str:
        return Path(self.manifest).stem

    def read_table(self) -> Table:
        file = Path(self.manifest).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"data.manifest='{self.manifest}' is no file; give the table of images.")
        self._read_at, self._cut_off = _modified(file), file.suffix != ".parquet" and _has_no_end(file)
        read = _parquet_blocks if file.suffix == ".parquet" else _csv_blocks
        names = {column: self.columns.get(column, column) for column in COLUMNS}
        root = Path(self.root).expanduser() if self.root else file.parent
        return Table.of(root, self._checked(read(file, names), names))

    def _checked(self, blocks: Iterable[Columns], names: Mapping[str, str]) -> Iterator[Columns]:
        """Blocks of rows. Raises ValueError where a column is missing, or a row has no image."""
        file, rows = Path(self.manifest).name, 0
        for block in blocks:
            for missing in set(self.columns) - set(block):
                raise ValueError(f"{file} has no column '{names[missing]}', which data.columns names for {missing}.")
            if not {"id", "path"} & set(block):
                raise ValueError(f"{file} has neither a column path nor a column id; name it by data.columns.")
            for column in {"id", "path"} & set(block):
                if "" in block[column]:
                    row = rows + block[column].index("") + 1
                    raise ValueError(f"{file} has no {column} in row {row}; every row is an image.")
            rows += len(next(iter(block.values())))
            yield block

    def rows_of_lost(self, names: Sequence[str]) -> Columns:
        raise RowsChangedError(
            f"{len(names)} images that the run was begun with are gone from {self.title} ({', '.join(names[:5])}); put "
            f"their rows back. Rows may be added."
        )

    def is_cut_off(self) -> bool:
        """A row without an end is left out until it has one, where it is new to a run that has begun."""
        return self._cut_off

    def has_grown(self) -> bool:
        return _modified(Path(self.manifest).expanduser()) != self._read_at


def _csv_blocks(file: Path, names: Mapping[str, str]) -> Iterator[Columns]:
    """The columns that there are, by our names."""
    with tables.opened(file) as (found, rows):
        places = {column: found.index(name) for column, name in names.items() if name in found}
        yield {column: [] for column in places}
        done = 1
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            if not set(map(len, block)) <= {0, len(found)}:
                at, row = next((at, row) for at, row in enumerate(block) if len(row) not in (0, len(found)))
                raise ValueError(
                    f"{file.name}: line {done + at + 1} has {len(row)} fields, and the header has {len(found)}."
                )
            done += len(block)
            yield {column: [row[place].strip() for row in block if row] for column, place in places.items()}


def _parquet_blocks(file: Path, names: Mapping[str, str]) -> Iterator[Columns]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{file.name} needs pyarrow to be read: pip install 'deepal[parquet]'.") from error
    try:
        opened = parquet.ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's own are among them
        raise ValueError(f"{file.name} is no Parquet file ({error}).") from error
    with opened as table:
        there = {column: name for column, name in names.items() if name in table.schema_arrow.names}
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=list(there.values())):
            yield {column: [_text(value) for value in batch.column(name).to_pylist()] for column, name in there.items()}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _refuse_unknown(table: Table, classes: Sequence[str]) -> None:
    unknown = sorted(set(table.labels.distinct) - {"", *classes})
    if unknown:
        raise ValueError(
            f"{', '.join(map(repr, unknown[:5]))} label images and are no classes; these are {', '.join(classes)}. A run "
            f"keeps those that it was begun with: name all there may be with data.class_names."
        )


def _has_no_end(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END) if file.stat().st_size else None
        return content.read(1) not in (b"\n", b"\r")


def _modified(path: str | Path) -> int:
    """When a file or folder was changed last; -1 where it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        return -1
