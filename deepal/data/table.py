"""A table of image files: names, paths, labels, groups. Read block by block and kept compact: a million rows are some tens
of megabytes, which workers share, where lists of a million objects would be copied into each of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

SPLITS: dict[str, int] = {"": 0, "train": 1, "val": 2, "test": 3}
"""What the rows of a table are for: the pool, or by a draw the test; the pool alone; validation; test."""

COLUMNS = ("id", "path", "label", "split", "group", "annotator")


class Texts(Sequence[str]):
    """Strings that differ, in one block of bytes."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._lengths = bytearray(), [np.zeros(1, np.int32)]
        self.extend(list(texts))

    def extend(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._bytes += b"".join(encoded)
        self._lengths.append(np.fromiter(map(len, encoded), np.int32, len(encoded)))
        self._ends = None

    def __len__(self) -> int:
        return sum(map(len, self._lengths)) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices of a column are taken
        if self._ends is None:
            self._lengths = [np.concatenate(self._lengths)]
            self._ends = np.cumsum(self._lengths[0], dtype=np.int64)
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode()

    _ends: np.ndarray | None


class Words(Sequence[str]):
    """Strings that repeat: each distinct one once, and its number for each row."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        self._blocks: list[np.ndarray] = [np.zeros(0, np.int32)]
        self.extend(list(words))

    def extend(self, words: Sequence[str]) -> None:
        for word in dict.fromkeys(words):
            self._numbers.setdefault(word, len(self._numbers))
        self._blocks.append(np.fromiter(map(self._numbers.__getitem__, words), np.int32, len(words)))

    @property
    def distinct(self) -> list[str]:
        return list(self._numbers)

    @property
    def numbers(self) -> np.ndarray:
        """(N,), indices into `distinct`."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0]

    def each(self, values: Sequence[int] | np.ndarray, dtype: type) -> np.ndarray:
        """(N,), for each row the value of its word. Args: values: of `distinct`."""
        return np.array(values, dtype)[self.numbers] if len(self) else np.zeros(0, dtype)

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices of a column are taken
        return self.distinct[self.numbers[index]]


@dataclass(frozen=True)
class Table:
    """Rows of images in files.

    Args:
        root: the folder that paths are relative to.
        names: what people call each image; no two are equal.
        paths: where each image is.
        labels: what each is labeled, "" where it is not.
        splits: numbers of `SPLITS`.
        groups: what belongs together has equal numbers; None where there are no groups.
        annotators: who labeled each; "" where nobody is named.
        keys: (N, 2), hashes of the name and of the row.
    """

    root: Path
    names: Texts
    paths: Texts
    labels: Words
    splits: np.ndarray
    groups: np.ndarray | None
    annotators: Words
    keys: np.ndarray

    @classmethod
    def of(cls, root: Path, blocks: Iterable[Mapping[str, Sequence[str]]]) -> "Table":
        """A table of some rows after others. Args: blocks: columns by name, of `COLUMNS`, the same in each; `path` or `id`
        is there, and one of them alone is both.

        Raises ValueError, naming them, where two rows have one name, or a split is not one that there is.
        """
        names, paths, labels, splits, groups, annotators = Texts(), Texts(), Words(), Words(), Words(), Words()
        name_keys, path_keys = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for block in blocks:
            named = block.get("id") or block["path"]
            names.extend(named)
            name_keys.append(hashes(named))
            if "id" in block and "path" in block:
                paths.extend(block["path"])
                path_keys.append(hashes(block["path"]))
            nothing = [""] * len(named)
            for column, words in (("label", labels), ("split", splits), ("group", groups), ("annotator", annotators)):
                words.extend(block.get(column) or nothing)
        for unknown in set(splits.distinct) - set(SPLITS):
            raise ValueError(f"the split '{unknown}' is none of train, val, test, or empty for what may be drawn for any.")
        keys = np.concatenate(name_keys)
        _refuse_repeated(names, keys)
        mixed = _mixed(keys, np.concatenate(path_keys)) if len(paths) else keys
        for words in (labels, splits, groups):
            mixed = _mixed(mixed, words.each(hashes(words.distinct), np.uint64))
        grouped = any(groups.distinct)
        return cls(
            root=root,
            names=names,
            paths=paths if len(paths) else names,
            labels=labels,
            splits=splits.each([SPLITS[each] for each in splits.distinct], np.int8),
            groups=_group_numbers(groups, keys) if grouped else None,
            annotators=annotators,
            keys=np.stack([keys, mixed], 1),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def lacks(self, keys: np.ndarray) -> np.ndarray:
        """Which of these keys (n, 2) are of names that no row has, (n,) bool."""
        return ~np.isin(keys[:, 0], self.keys[:, 0])

    def with_rows(self, more: Mapping[str, Sequence[str]], keys: np.ndarray) -> "Table":
        """This table and more rows behind it. Args: more: path, label and split of each; keys: as they were."""
        texts, size = Texts([*self.paths, *more["path"]]), len(keys)
        return replace(
            self,
            names=texts,
            paths=texts,
            labels=Words([*self.labels, *more["label"]]),
            splits=np.concatenate([self.splits, np.array([SPLITS[each] for each in more["split"]], np.int8)]),
            groups=None if self.groups is None else np.concatenate([self.groups, keys[:, 0].view(np.int64)]),
            annotators=Words([*self.annotators, *[""] * size]),
            keys=np.concatenate([self.keys, keys]),
        )


def hashes(texts: Sequence[str]) -> np.ndarray:
    """(N,) uint64, a hash of each string."""
    return np.frombuffer(b"".join([blake2b(text.encode(), digest_size=8).digest() for text in texts]), np.uint64)


def _mixed(keys: np.ndarray, more: np.ndarray) -> np.ndarray:
    """A hash of both."""
    return keys * np.uint64(0x9E3779B97F4A7C15) + more


def _group_numbers(groups: Words, keys: np.ndarray) -> np.ndarray:
    """The same number for the same group, also when the table has grown; a row without a group is a group of its own."""
    alone = groups.each([not word for word in groups.distinct], bool)
    return np.where(alone, keys, groups.each(hashes(groups.distinct), np.uint64)).view(np.int64)


def _refuse_repeated(names: Texts, keys: np.ndarray) -> None:
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        repeated = [names[row] for row in first[counts > 1][:5]]
        raise ValueError(f"each image is listed once, and {', '.join(map(repr, repeated))} are listed more than once.")
