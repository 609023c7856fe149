"""Arrays in files, memory-mapped: `.npy` and safetensors, one file or many shards of one array, here or at any address that
fsspec knows."""

import glob
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepal import folder

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "deepal"
"""Where copies of files from elsewhere are kept, and shards in one piece."""

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Numbers that can be computed with."""

_BLOCK = 2**26  # bytes at a time


def read(address: str, cache: Path = CACHE) -> Tensor:
    """The array at an address, (N, ...), mapped from its file and not read.

    Shards are joined once, in the order of the numbers in their names, in a file of the cache that is named by the hash of
    what they hold; files of other machines are copied to the cache, and again when they have changed there.

    Args:
        address: a file, or a pattern of several (`shards/*.npy`); of a safetensors file that holds several tensors with the
            name of one behind a colon (`features.safetensors:embedding`); anywhere (`s3://bucket/shard-*.npy`).
        cache: a folder.
    Raises FileNotFoundError where there is no such file, and ValueError, naming it, for a file that is damaged or of
    another kind, and for shards whose rows differ.
    """
    shards = _shards(address, cache)
    return shards[0] if len(shards) == 1 else _joined(shards, cache)


def rows(address: str, cache: Path = CACHE) -> int:
    """How many rows the array at an address has. Args, and what is raised: as of `read`."""
    return sum(map(len, _shards(address, cache)))


def digest(array: Tensor) -> str:
    """A hash of an array's rows, its shape and its kind."""
    return _digest([array])


class _File(NamedTuple):
    """Args: here: where it can be mapped; called: what people call it."""

    here: Path
    called: str


def _shards(address: str, cache: Path) -> list[Tensor]:
    """Arrays of the same rows, mapped."""
    pattern, _, name = address.partition(".safetensors:")
    shards = [_mapped(file, name) for file in _files(pattern + ".safetensors" if name else address, cache)]
    kinds = {(tuple(each.shape[1:]), each.dtype) for each in shards}
    if len(kinds) > 1:
        said = ", ".join(f"{list(shape)} of {dtype}" for shape, dtype in sorted(kinds, key=str))
        raise ValueError(f"{address}: rows of these {len(shards)} files differ, {said}; give shards of one array.")
    return shards


def _files(address: str, cache: Path) -> list[_File]:
    """The files that an address stands for, here, by the numbers in their names."""
    if "://" in address:
        return _copied(address, cache)
    if Path(address).expanduser().is_file():  # whatever a pattern would make of its name
        return [_File(Path(address).expanduser(), address)]
    found = sorted(glob.glob(str(Path(address).expanduser()), recursive=True), key=_by_number)  # noqa: PTH207  # absolute too
    if not found:
        raise FileNotFoundError(f"{address}: there is no such file.")
    return [_File(Path(each), each) for each in found]


def _copied(address: str, cache: Path) -> list[_File]:
    """Copies in the cache of files elsewhere."""
    try:
        system, path = url_to_fs(address)
        found = sorted(system.glob(path) if re.search(r"[*\[]", path) else [path], key=_by_number)  # ? is of a URL too
        copies = [_copy(system, each, cache) for each in found]
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address} is an address that fsspec cannot read ({error}).") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{address}: there is no such file ({error.__cause__ or error}).") from error
    except Exception as error:  # each file system has its own
        raise OSError(f"{address} cannot be read ({type(error).__name__}: {error}); try again, or copy it here.") from error
    if not copies:
        raise FileNotFoundError(f"{address}: there is no such file.")
    return copies


def _copy(system: AbstractFileSystem, there: str, cache: Path) -> _File:
    """A copy in the cache of a file elsewhere, of what it is now."""
    info, called = system.info(there), system.unstrip_protocol(there)
    size, version = info.get("size"), {key: value for key, value in info.items() if _CHANGES.search(key)}
    said = json.dumps([called, size, version], sort_keys=True, default=str)
    here = cache / f"{_hash(said.encode())}{Path(there.partition('?')[0]).suffix}"

    def fetch(unfinished: Path) -> None:
        system.get_file(there, str(unfinished))
        if size is not None and unfinished.stat().st_size != size:
            raise OSError(f"{unfinished.stat().st_size} of {size} bytes came")

    is_whole = here.exists() and size in (None, here.stat().st_size)
    if not (is_whole and version):  # a file that does not say how old it is may be another by now
        _keep(here, fetch)
    return _File(here, called)


_CHANGES = re.compile("etag|md5|sha|digest|crc|hash|checksum|version|modified|mtime|created|updated", re.IGNORECASE)
"""What file systems call that by which a file can be told from what it was."""


def _keep(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file of the cache. What a process that was killed has left there goes after a day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink()
    folder.write_atomically(path, write)


_DAY = 24 * 60 * 60  # seconds


def _by_number(path: str) -> list[tuple[bool, int, str]]:
    """A key that puts shard-10 behind shard-9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path)]


def _mapped(file: _File, name: str) -> Tensor:
    """An array that is read when it is used. Args: name: of the tensor, where there are several."""
    try:
        if file.here.suffix == ".npy":
            array = torch.from_numpy(np.load(file.here, mmap_mode="c", allow_pickle=False))
        elif file.here.suffix == ".safetensors":
            array = _tensor(file, name)
        else:
            raise ValueError("it is of another kind than .npy and .safetensors, which can be mapped")
    except (ValueError, EOFError, TypeError, SafetensorError) as error:
        said = "it is no array of numbers" if "allow_pickle" in str(error) else str(error).rstrip(".")
        raise ValueError(f"{file.called} is not a file of numbers that can be read: {said}.") from error
    if not array.ndim:
        raise ValueError(f"{file.called} holds a single number; one row a sample is needed.")
    return array


def _tensor(file: _File, name: str) -> Tensor:
    with safe_open(file.here, framework="pt") as tensors:
        names = list(tensors.keys())
        if not name and len(names) != 1:
            raise ValueError(
                f"it holds {', '.join(names)}; write {file.called}:{names[0] if names else 'NAME'} for one of them"
            )
        if name and name not in names:
            raise ValueError(f"it holds {', '.join(names)}, and no {name}")
        return tensors.get_tensor(name or names[0])


def _joined(shards: Sequence[Tensor], cache: Path) -> Tensor:
    """Shards as one array, in a file of the cache named by the hash of their content."""
    shape, dtype = (sum(map(len, shards)), *shards[0].shape[1:]), shards[0].dtype
    path = cache / f"{_digest(shards)}.joined"
    numbers = prod(shape)
    if not path.exists() or path.stat().st_size != numbers * dtype.itemsize:

        def join(unfinished: Path) -> None:
            with unfinished.open("wb") as file:
                for shard in shards:
                    for some in _blocks(shard):
                        file.write(some.numpy().data)

        _keep(path, join)
    return torch.from_file(str(path), shared=False, size=numbers, dtype=dtype).view(shape)


def _digest(shards: Sequence[Tensor]) -> str:
    shape = (sum(map(len, shards)), *shards[0].shape[1:])
    found = blake2b(json.dumps([shape, str(shards[0].dtype)]).encode(), digest_size=16)
    for shard in shards:
        for some in _blocks(shard):
            found.update(some.numpy().data)
    return found.hexdigest()


def _blocks(array: Tensor) -> Iterator[Tensor]:
    """Its bytes, some rows at a time."""
    row = max(1, array[:1].numel() * array.itemsize)
    return (some.contiguous().view(-1).view(torch.uint8) for some in array.split(max(1, _BLOCK // row)) if some.numel())


def _hash(of: bytes) -> str:
    return blake2b(of, digest_size=16).hexdigest()
