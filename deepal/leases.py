"""Who is working on which folder, where several workers share a file system: leases, which run out when a worker is gone.

A lease is a file that only one worker can make (`O_EXCL`, which network file systems keep where locks of SQLite fail). It
says who holds it, and its heartbeat changes while the holder lives. One that has run out is never taken away but followed
by the next number, which again only one worker can make: two that find the same dead lease cannot both win.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

BEAT = 5.0
"""Seconds between two heartbeats."""
RUNS_OUT = 90.0
"""Seconds without a heartbeat, by the watch of who looks, until a lease of another machine has run out. Clocks of machines
are not compared, and file systems may show a change half a minute late."""
_OVER = b"over"
_UNLIKE_ANY = uuid4().hex


class Leases:
    """The leases as one worker sees and takes them. Args: beat, runs_out: in seconds, as above."""

    def __init__(self, beat: float = BEAT, runs_out: float = RUNS_OUT) -> None:
        self.beat, self.runs_out = beat, runs_out
        self._seen: dict[Path, tuple[bytes, float]] = {}  # the last heartbeat, and when it was seen first

    @contextmanager
    def held(self, folder: Path) -> Iterator[bool]:
        """Try to hold a folder, made where it is missing. Yields whether this worker holds it, for as long as it does."""
        folder.mkdir(parents=True, exist_ok=True)
        lease = self._made(folder)
        if lease is None:
            yield False
            return
        stop = threading.Event()
        heart = threading.Thread(target=self._beat, args=(lease, stop), daemon=True)
        heart.start()
        try:
            yield True
        finally:
            stop.set()
            heart.join()
            lease.write_bytes(_OVER)

    def is_held(self, folder: Path) -> bool:
        """Whether somebody holds a folder, so far as one can see."""
        lease = _last(folder)
        return lease is not None and not self._has_run_out(lease)

    def _made(self, folder: Path) -> Path | None:
        """A lease of ours; None where somebody else holds the folder, or was faster."""
        last = _last(folder)
        if last is not None and not self._has_run_out(last):
            return None
        lease = folder / f"lease.{_number(last) + 1 if last else 0}"
        try:
            descriptor = os.open(lease, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "wb") as file:
            file.write(_content(0))
        return lease

    def _has_run_out(self, lease: Path) -> bool:
        content, now = lease.read_bytes(), time.monotonic()
        before, since = self._seen.get(lease, (None, now))
        self._seen[lease] = (content, since if content == before else now)
        holder = _holder(content)
        if content == _OVER or (holder.get("place") == place() and not _lives(holder)):
            return True
        return holder.get("place") != place() and now - self._seen[lease][1] > self.runs_out

    def _beat(self, lease: Path, stop: threading.Event) -> None:
        beats = 0
        while not stop.wait(self.beat):
            beats += 1
            lease.write_bytes(_content(beats))


def last_holder(folder: Path) -> dict[str, Any]:
    """Who holds the lease of this folder, or was killed with it: `host`, `pid`; empty where nobody does."""
    lease = _last(folder)
    return _holder(lease.read_bytes()) if lease else {}


def place() -> str:
    """The machine, its start and its numbering of processes: where this is the same, a process number says who lives."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{socket.gethostname()} {boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: heartbeats alone can say
        return f"{socket.gethostname()} {_UNLIKE_ANY}"


def _content(beats: int) -> bytes:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "place": place(), "started": _started(os.getpid())}
    return json.dumps({**holder, "beats": beats}).encode()


def _holder(content: bytes) -> dict[str, Any]:
    try:
        return json.loads(content)
    except ValueError:  # over, or being written
        return {}


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process of this place that made a lease is still there, and its number not another's by now."""
    return _started(holder["pid"]) == holder["started"] != ""


def _started(pid: int) -> str:
    """When a process was started, by the clock of the machine; nothing where there is none, or it is but a remnant."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _last(folder: Path) -> Path | None:
    return max(folder.glob("lease.*"), key=_number, default=None)


def _number(lease: Path) -> int:
    return int(lease.name.rpartition(".")[2])
