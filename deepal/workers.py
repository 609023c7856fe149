"""Workers: processes that do the runs of a study, on one machine or on many that share its folder."""

import logging
import multiprocessing
import os
import pickle
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import torch

from deepal import folder as folders
from deepal import leases, records
from deepal.learner import Learner
from deepal.leases import Leases

log = logging.getLogger(__name__)
FAILURE = "failure.{}.txt"
"""In the folder of a run: why it failed, in this session."""
LOOKS = 2.0  # seconds between two looks at who is at work elsewhere
_DEATHS = 2  # of workers over one run, until it is left alone


class StudyError(RuntimeError):
    """Some runs of a study could not be carried out."""


class Work(Protocol):
    """What is asked of a study."""

    @property
    def runs(self) -> Mapping[Path, Learner]: ...

    @property
    def folder(self) -> Path: ...

    def left(self, session: str) -> list[Path]: ...

    def is_left(self, folder: Path, session: str) -> bool: ...


def carry_out(study: Work, session: str, ends_with: int | None = None) -> None:
    """Do the runs of a study that nobody else is doing, one after another, until there are none.

    Args: session: a run that has failed in this session is not tried again in it; ends_with: as for `Leases`.
    """
    own, wait_for_more = Leases(ends_with=ends_with), True
    while wait_for_more:
        wait_for_more = False
        for folder in study.left(session):
            with own.held(folder) as mine:
                if mine and study.is_left(folder, session):  # somebody may have been faster
                    _try(study.runs[folder], folder, session)
                    wait_for_more = True
        if not wait_for_more and any(own.is_undecided(each) for each in study.left(session)):
            time.sleep(LOOKS)  # until it beats, or has run out
            wait_for_more = True


def _try(learner: Learner, folder: Path, session: str) -> None:
    """Do a run."""
    with failure_kept(folder, session):
        learner.run()
        end(learner, folder)


@contextmanager
def failure_kept(folder: Path, session: str) -> Iterator[None]:
    """What goes wrong is written down beside a run, and stops no other."""
    try:
        yield
    except (Exception, SystemExit) as error:
        log.warning("%s has failed: %s", folder.name, error)
        _write_failure(folder, session, traceback.format_exc())


def end(learner: Learner, folder: Path) -> None:
    """See that a run is at its end, and forget how it failed before. Raises StudyError where it waits."""
    if records.finished(folder, learner.budget) is None:
        raise StudyError(f"the run in {folder} waits for its oracle, and a study does not.")
    for failure in folder.glob(FAILURE.format("*")):
        failure.unlink(missing_ok=True)


def _write_failure(folder: Path, session: str, why: str) -> None:
    file = folder / FAILURE.format(session)
    folders.write_atomically(file, lambda partial: partial.write_text(why, encoding="utf-8"))


def new_session() -> str:
    """What commands share that are to try a failing run once in all: the tasks of a SLURM array, until it is requeued."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{job}-{os.environ.get('SLURM_RESTART_COUNT', 0)}" if job else uuid4().hex[:12]


# Several workers on one machine


def supervise(study: Work, session: str, workers: int) -> None:
    """Let processes do the runs. One that is killed is replaced; a run that kills its workers is left alone."""
    running: dict[int, BaseProcess] = {}
    deaths: Counter[Path] = Counter()
    own = Leases()
    try:
        while True:
            for number in [number for number, each in running.items() if each.exitcode is not None]:
                _bury(study, running.pop(number), deaths, session)
            pids = {each.pid for each in running.values()}
            left = study.left(session)
            at_work = sum(leases.last_holder(each).get("pid") in pids for each in left)
            free = sum(not own.is_held(each) for each in left) - (len(running) - at_work)
            for number in [each for each in range(workers) if each not in running][: max(free, 0)]:
                running[number] = _started(study, session, number)
            if not running:
                if not any(own.is_undecided(each) for each in left):
                    return
                time.sleep(LOOKS)
                continue
            wait([each.sentinel for each in running.values()], timeout=5)
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _started(study: Work, session: str, number: int) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")  # which imports torch once for all workers, and starts no threads
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_work, args=(study, session, _gpu(number)), daemon=True)
    for pause in (0.1, 1.0, 5.0, None):
        try:
            process.start()
            break
        except (EOFError, ConnectionError):  # the fork server was killed; once its end is known, a start makes another
            if pause is None:
                raise
            time.sleep(pause)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"workers: the study has to be sent to other processes, and a part of it cannot be ({error}); take a "
                f"class, or functools.partial, in place of a lambda, or workers=1."
            ) from error
    return process


def _work(study: Work, session: str, gpu: str | None) -> None:
    """What a worker process does. It ends with the process that started it."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    logging.getLogger("deepal").setLevel(logging.ERROR)  # what goes wrong is said by the one who supervises
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        carry_out(study, session, parent.pid)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _gpu(number: int) -> str | None:
    """The GPU of a worker, one of those that this process sees; None where there are not several."""
    count = torch.cuda.device_count()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return seen[number % count] if count > 1 else None


def _bury(study: Work, process: BaseProcess, deaths: Counter[Path], session: str) -> None:
    """See what a worker that has ended was doing. Raises StudyError where workers end before they do anything."""
    if not process.exitcode:
        return
    held = (each for each in study.left(session) if leases.last_holder(each).get("pid") == process.pid)
    folder = next(held, study.folder)
    deaths[folder] += 1
    if folder == study.folder and deaths[folder] > 2 * _DEATHS:
        raise StudyError(
            f"workers end with exit code {process.exitcode} before they take a run up; in a script of your own call run() "
            f'below `if __name__ == "__main__":`, and see what one worker says: workers=1.'
        )
    if folder != study.folder and deaths[folder] >= _DEATHS:
        why = f"{_DEATHS} workers were killed over this run, the last with exit code {process.exitcode}: out of memory?"
        _write_failure(folder, session, why)
