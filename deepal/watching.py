"""Who watches a run: displays, trackers, pictures. A run tells them what happens, and none of them can stop it."""

import logging
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepal.entries import Result
from deepal.oracles import Question
from deepal.task import Catalog

log = logging.getLogger(__name__)


class Watcher:
    """Is told what a run does, as it does it. Every method may be left as it is."""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        """A run begins or goes on, with these results of earlier cycles."""

    def phase(self, cycle: int, name: str, total: int | None) -> None:
        """A cycle enters the phase fit, test or scan, of so many steps or images where that is known."""

    def advance(self, done: int) -> None:
        """So many steps or images of the phase are done."""

    def measured(self, result: Result, results: Sequence[Result]) -> None:
        """A cycle is written down; the results of all so far."""

    def noted(self, cycle: int, notes: Mapping[str, float]) -> None:
        """What the strategy had to say of what a cycle asks, by name."""

    def forgot(self, cycle: int, forgetting: Sequence[Mapping[str, Any]], data: Catalog) -> None:
        """How each labeled image fared in the training of a cycle, the most forgotten first (`Ledger.forgetting`), and the
        data to look at."""

    def uncertain(self, cycle: int, uncertainty: Any, chosen: Any) -> None:
        """The aleatoric and epistemic uncertainty of what a cycle has read (`scan.Uncertainty`), and the positions that it
        chose from that."""

    def reconstructed(self, cycle: int, positions: Sequence[int], again: Any, data: Catalog) -> None:
        """What the module of a cycle makes of some images of the pool, (n, channels, height, width), and the data."""

    def answered(self, cycle: int, questions: Sequence[Question], data: Catalog) -> None:
        """Some of what a cycle has asked is answered; all that it asked, and the data to look at."""

    def stops(self, reason: str) -> None:
        """The run ends before its budget: a rule for stopping says why."""

    def waits(self, sentence: str) -> None:
        """The run stops until somebody has done what the sentence says."""

    def end(self, folder: Path, results: Sequence[Result]) -> None:
        """The run has ended, or has been stopped by an error."""


class Watchers:
    """Several watchers. One that raises is reported once and dropped: a dashboard that is down stops no run."""

    def __init__(self, watchers: Sequence[Watcher] = ()) -> None:
        self._watchers = list(watchers)

    def tell(self, what: str, *arguments: Any) -> None:
        for watcher in tuple(self._watchers):
            try:
                getattr(watcher, what)(*arguments)
            except Exception as error:
                self._watchers.remove(watcher)
                log.warning("%s failed (%s) and is left out; the run goes on.", type(watcher).__name__, error)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl+C out of a fit as KeyboardInterrupt: a Trainer makes an exit of it, and leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from stop
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without what a Trainer says at each fit: here a run has many."""
    with warnings.catch_warnings(), quiet(logging.WARNING, "lightning.pytorch", "lightning.fabric", "lightning"):
        warnings.filterwarnings("ignore", module="lightning")
        yield


@contextmanager
def quiet(level: int, *names: str) -> Iterator[None]:
    """Without what these loggers say below a level."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(level)
    try:
        yield
    finally:
        for each, before in zip(loggers, levels, strict=True):
            each.setLevel(before)
