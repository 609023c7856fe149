"""Runs of a study side by side, cycle by cycle, so that their fits are one stack (`deepal.stacked`)."""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path

from deepal import stacked
from deepal.bookkeeping import Books, Turn
from deepal.cycle import Begun, Cycle
from deepal.data.images import UnreadableError
from deepal.learner import Learner
from deepal.leases import Leases
from deepal.workers import LOOKS, Work, end, failure_kept


def carry_out_together(study: Work, session: str) -> None:
    """Do the runs of a study that nobody else is doing, side by side. Args: as for `workers.carry_out`."""
    _allow_open_files()
    own = Leases()
    while True:
        with ExitStack() as held:
            mine = [folder for folder in study.left(session) if held.enter_context(own.held(folder))]
            runs = [RunBeside(study.runs[folder], folder, session) for folder in mine if study.is_left(folder, session)]
            _carry_out(runs)
        if not runs:
            if not any(own.is_undecided(each) for each in study.left(session)):
                return
            time.sleep(LOOKS)  # until it beats, or has run out


def _carry_out(runs: Sequence["RunBeside"]) -> None:
    copied = set[int]()
    with ExitStack() as open_runs:  # to its end: each puts back what it found when it was taken up
        for run in runs:
            run.take_up(open_runs, copied)
        while at_work := [run for run in runs if run.begin()]:
            _fit([run for run in at_work if run.begun.waits_for_fit])
            for run in at_work:
                run.finish()
    for run in runs:
        run.end()


def _fit(runs: Sequence["RunBeside"]) -> None:
    """Train the modules of these runs."""
    wall, cpu = time.perf_counter(), time.process_time()
    labeled = [run for run in runs if run.turn.pool.labeled]
    failed = stacked.fit_together([run.cycle.in_stack(run.turn, run.begun) for run in labeled])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for run in runs:
        run.keep(wall / len(runs), cpu / len(runs), failed.get(labeled.index(run)) if run in labeled else None)


def _allow_open_files() -> None:
    """As many as the system lets this process have: a run holds four."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class RunBeside:
    """A run beside others. One that fails stands aside, and its failure is kept.

    Args: learner, folder, session: as for `workers.carry_out`.
    """

    def __init__(self, learner: Learner, folder: Path, session: str) -> None:
        self.learner, self.folder, self.session = learner, folder, session
        self.goes_on = self.has_failed = False
        self.cycle: Cycle
        self.books: Books
        self.turn: Turn
        self.begun: Begun

    def take_up(self, open_runs: ExitStack, copied: set[int]) -> None:
        """Begin the run or go on with it. Args: copied: the data sets, by identity, that other runs have taken: each has a
        layout of its own over the same images."""
        with self._kept():
            data = self.learner.data
            if id(data) in copied:
                self.learner = replace(self.learner, data=copy(data))
            copied.add(id(data))
            self.cycle, books, _ = open_runs.enter_context(self.learner.taken_up())
            assert books
            self.books, self.goes_on = books, True

    def begin(self) -> bool:
        """Begin the next cycle. Returns whether there is one."""
        with self._kept():
            while self.goes_on:
                turn = self.books.turn()
                if turn is None:
                    self.goes_on = False
                    break
                self.turn = turn
                try:
                    self.begun = self.cycle.begin(turn)
                    return True
                except UnreadableError as error:
                    self.books.set_aside(error)  # and the same cycle again, without them
        return False

    def keep(self, seconds: float, cpu: float, error: Exception | None) -> None:
        """Keep what was trained. Args: seconds, cpu: this run's part of what that took; error: what has gone wrong."""
        with self._kept():
            if error:
                raise error
            self.begun.meter.seconds["fit"] = seconds
            self.begun.meter.seconds["cpu"] += cpu
            self.cycle.keep(self.turn, self.begun)

    def finish(self) -> None:
        """Test, choose, and write down."""
        with self._kept():
            try:
                if self.goes_on:
                    self.cycle.finish(self.turn, self.begun)
            except UnreadableError as error:
                self.books.set_aside(error)  # and the same cycle again, without them

    def end(self) -> None:
        """See that the run has come to its end."""
        if not self.has_failed:
            with self._kept():
                end(self.learner, self.folder)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        with failure_kept(self.folder, self.session):
            try:
                yield
            except BaseException:
                self.goes_on, self.has_failed = False, True
                raise
