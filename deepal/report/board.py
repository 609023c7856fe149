"""A study as people watch it: how far each strategy is, what it reaches so far, and the time left."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from deepal import fingerprint, tables
from deepal.leases import Leases
from deepal.records import Record
from deepal.study import Study

_LOOKS = 2.0  # seconds between two looks at the folders


class Board:
    """Shows a study for as long as it is entered, from what its runs have written: whoever does them, here or elsewhere.

    Args: study; metric: shown for finished runs; console: where, the standard output by default.
    """

    def __init__(self, study: Study, metric: str = "test/accuracy", console: Console | None = None) -> None:
        self.study, self.metric, self.console = study, metric, console or Console()
        self._records: dict[Path, Record] = {}
        self._at_work: dict[Path, float] = {}  # the share that is done of each run somebody is doing
        self._leases = Leases()
        self._over = threading.Event()
        self._said = -1

    def __enter__(self) -> "Board":
        self.console.print(f"study: {self.study.folder}", soft_wrap=True, highlight=False, markup=False)
        self._look()
        self._before, self._started = len(self._records), time.monotonic()
        self._live = Live(self._table(), console=self.console, auto_refresh=False, transient=True)
        if self.console.is_terminal:
            self._live.start()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.join()
        self._live.stop()
        self._look()
        if not self.console.is_terminal:
            self._say()

    def _watch(self) -> None:
        while not self._over.wait(_LOOKS):
            with suppress(OSError, ValueError):  # a file that is not what it was: the next look may be luckier
                self._look()
                self._show()

    def _show(self) -> None:
        if self.console.is_terminal:
            self._live.update(self._table(), refresh=True)
        else:
            self._say()

    def _look(self) -> None:
        """See what has been written since."""
        self._records |= self.study.finished(besides=self._records)
        left = [folder for folder in self.study.runs if folder not in self._records]
        self._at_work = {folder: self._share_done(folder) for folder in left if self._leases.is_held(folder)}

    def _share_done(self, folder: Path) -> float:
        """How far a run is, by the labels of its last cycle."""
        results = folder / "results.csv"
        if not results.exists():
            return 0.0
        *_, last = (0, *(int(row["labels"]) for _, row in tables.read(results)))
        return min(last / self.study.budget, 1.0)

    def _table(self) -> Table:
        table = Table(
            "strategy", "runs", "", self.metric, caption=self._summary(), caption_justify="left", box=None, padding=(0, 1)
        )
        for name, folders in self._by_strategy():
            done = [self._records[each] for each in folders if each in self._records]
            share = len(done) + sum(self._at_work.get(each, 0.0) for each in folders)
            values = [run.cycles[-1]["metrics"][self.metric] for run in done if self.metric in run.cycles[-1]["metrics"]]
            table.add_row(
                escape(name),
                f"{len(done)} of {len(folders)}",
                ProgressBar(total=len(folders), completed=share, width=24),
                f"{fmean(values):.4f}" if values else "",
            )
        return table

    def _by_strategy(self) -> Iterator[tuple[str, list[Path]]]:
        groups: dict[str, list[Path]] = {}
        for folder, learner in self.study.runs.items():
            strategy = fingerprint.title(fingerprint.describe(learner.strategy))
            name = strategy if learner.initial.heeds_budget else "(the whole training set)"
            groups.setdefault(name, []).append(folder)
        yield from groups.items()

    def _say(self) -> None:
        """A line where nothing can move, whenever a run is done."""
        if len(self._records) != self._said:
            self._said = len(self._records)
            self.console.print(self._summary(), highlight=False)

    def _summary(self) -> str:
        left = self._seconds_left()
        soon = "" if left is None else f", about {_spoken(left)} left"
        return (
            f"{len(self._records)} of {len(self.study.runs)} runs done, {len(self._at_work)} at work, "
            f"{_spoken(time.monotonic() - self._started)} so far{soon}"
        )

    def _seconds_left(self) -> float | None:
        """By the pace since this process began to watch; None before it has seen a run end."""
        missing = len(self.study.runs) - len(self._records)
        done = len(self._records) - self._before + sum(self._at_work.values())
        if not missing or len(self._records) == self._before:
            return None
        return (missing - sum(self._at_work.values())) * (time.monotonic() - self._started) / done


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
