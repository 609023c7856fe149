"""Who is working on which folder, where several workers share a file system: leases, which run out when a worker is gone.

A lease is a file that only one worker can make, whole (a link, or `O_EXCL`: network file systems keep both, where locks of
SQLite fail). It says who holds it, and its heartbeat changes while the holder lives. When one has run out it stays where it
is, and a new one with the next number is made, which again only one worker can: two that find the same dead lease cannot
both win.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

BEAT = 5.0
"""Seconds between two heartbeats."""
RUNS_OUT = 90.0
"""Seconds without a heartbeat, by the watch of who looks, until a lease of another machine has run out. Clocks of machines
are not compared, and file systems may show a change half a minute late."""
_OVER = b"over"
_UNLIKE_ANY = uuid4().hex  # of this process alone


class Leases:
    """The leases as one worker sees and takes them.

    Args:
        beat, runs_out: in seconds, as above.
        ends_with: the number of a process with which this one ends.
    """

    def __init__(self, beat: float = BEAT, runs_out: float = RUNS_OUT, ends_with: int | None = None) -> None:
        self.beat, self.runs_out, self.ends_with = beat, runs_out, ends_with
        self._seen: dict[Path, _Seen] = {}

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
            _replace(lease, _OVER)

    def is_held(self, folder: Path) -> bool:
        """Whether somebody holds a folder, so far as one can see."""
        lease = _last(folder)
        return lease is not None and not self._has_run_out(lease)

    def is_undecided(self, folder: Path) -> bool:
        """Whether only time will tell if a folder is held: its lease is from elsewhere, and has not been seen to beat; or
        who holds it is about to end, because the process that it ends with is gone."""
        lease = _last(folder)
        if lease is None or self._has_run_out(lease):
            return False
        holder = _holder(_read(lease))
        if holder.get("place") == place():
            return "ends_with" in holder and not _lives(holder["ends_with"])
        return not self._seen[lease].beats

    def _made(self, folder: Path) -> Path | None:
        """A lease of ours; None where somebody else holds the folder, or was faster."""
        last = _last(folder)
        if last is not None and not self._has_run_out(last):
            return None
        lease = folder / f"lease.{_number(last) + 1 if last else 0}"
        return lease if _make(lease, self._content(0)) else None

    def _has_run_out(self, lease: Path) -> bool:
        content, now = _read(lease), time.monotonic()
        seen = self._seen.setdefault(lease, _Seen(content, now))
        if seen.content != content:
            self._seen[lease] = seen = _Seen(content, now, beats=True)
        holder = _holder(content)
        if content == _OVER or (holder.get("place") == place() and not _lives(holder)):
            return True
        return holder.get("place") != place() and now - seen.since > self.runs_out

    def _beat(self, lease: Path, stop: threading.Event) -> None:
        beats = 0
        while not stop.wait(self.beat):
            beats += 1
            with suppress(OSError):  # a full disk, say: the next may come through
                _replace(lease, self._content(beats))

    def _content(self, beats: int) -> bytes:
        own = {"host": socket.gethostname(), "place": place(), **_process(os.getpid()), "beats": beats}
        return json.dumps(own if self.ends_with is None else {**own, "ends_with": _process(self.ends_with)}).encode()


@dataclass(frozen=True)
class _Seen:
    """What was seen of a lease. Args: content; since: when it was first so; beats: whether it was ever seen to change."""

    content: bytes
    since: float
    beats: bool = False


def last_holder(folder: Path) -> dict[str, Any]:
    """Who holds the lease of this folder, or was killed with it: `host`, `pid`; empty where nobody does."""
    lease = _last(folder)
    return _holder(_read(lease)) if lease else {}


def place() -> str:
    """The machine, its start and its numbering of processes: where this is the same, a process number says who lives."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{socket.gethostname()} {boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: heartbeats alone can say
        return f"{socket.gethostname()} {_UNLIKE_ANY}"


def _process(pid: int) -> dict[str, Any]:
    """By which a process is known again."""
    return {"pid": pid, "started": _started(pid)}


def _make(lease: Path, content: bytes) -> bool:
    """Make a lease, whole, where nobody else has made it. Returns whether that was so."""
    partial = _partial(lease)
    partial.write_bytes(content)
    try:
        os.link(partial, lease)
    except FileExistsError:
        return False
    except OSError:  # no links on this file system
        try:
            with lease.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _replace(lease: Path, content: bytes) -> None:
    partial = _partial(lease)
    partial.write_bytes(content)
    partial.replace(lease)


def _partial(lease: Path) -> Path:
    return lease.with_name(f".{lease.name}.{socket.gethostname()}.{os.getpid()}")


def _read(lease: Path) -> bytes:
    try:
        return lease.read_bytes()
    except FileNotFoundError:  # on a network file system, while it is replaced
        return b""


def _holder(content: bytes) -> dict[str, Any]:
    """What a lease says; nothing where it is over, cut off, or none of ours."""
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and {"host", "pid", "place", "started"} <= set(holder) else {}


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
    leases = [each for each in folder.glob("lease.*") if each.suffix[1:].isdecimal()]
    return max(leases, key=_number, default=None)


def _number(lease: Path) -> int:
    return int(lease.suffix[1:])
