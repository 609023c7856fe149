"""A run's folder: one process at a time holds it, and a file in it is whole or not there."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

_held: set[Path] = set()  # by this process: a record lock does not keep a process from itself
_WAIT = 0.2  # seconds between two tries


class FolderHeldError(RuntimeError):
    """Another process, or another learner of this one, is working in the folder."""


@contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[Path]:
    """Hold the run folder, made where it is missing. Raises FolderHeldError, naming who holds it, after so many seconds.

    The lock belongs to the process and dies with it, however it dies: nothing has to be cleaned up by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder, deadline = folder.resolve(), time.monotonic() + patience
    while folder in _held:
        if time.monotonic() >= deadline:
            raise FolderHeldError(
                f"the run folder {folder} is in use by another learner of this process; end that one first."
            )
        time.sleep(_WAIT)
    with (folder / "lock").open("a+") as file:
        _lock(file, folder, deadline)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        _held.add(folder)
        try:
            yield folder
        finally:
            _held.discard(folder)


def is_taken(by: ExitStack, folder: Path, patience: float) -> bool:
    """Hold a folder for as long as `by` lasts; False where another one has held it for so many seconds."""
    try:
        by.enter_context(held(folder, patience))
        return True
    except FolderHeldError:
        return False


def _lock(file: TextIO, folder: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(_WAIT)
                continue
            file.seek(0)
            raise FolderHeldError(
                f"the run folder {folder} is held by {file.read() or 'another process'}, which is alive; wait for it to "
                f"end, or give this run another name."
            ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and move it there once it is on the disk: a process killed in between
    leaves the old file, or none. Within one folder, so also where temporary files live on another file system. Of several
    processes that write the same the last one wins."""
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        write(partial)
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
