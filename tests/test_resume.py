"""Kill -9 at any instant, the same command again: the run that nobody interrupted."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from deepal.ledger import Ledger
from tests import runs
from tests.runs import LoggingOracle, Outcome, digits, in_process

LONG = 120  # seconds that no run here takes


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the run comes to when nobody disturbs it, and how long that takes."""
    root = tmp_path_factory.mktemp("uninterrupted")
    _finish(root)
    started = time.monotonic()
    _finish(root / "again")
    seconds = time.monotonic() - started
    assert Outcome.of(digits(root)) == Outcome.of(digits(root / "again"))  # it repeats itself in the first place
    return Outcome.of(digits(root)), seconds


@pytest.mark.parametrize("seed", range(20))
def test_killed_at_random_instants_twice_running(uninterrupted, tmp_path, seed):
    expected, seconds = uninterrupted
    coin = random.Random(seed)
    for _ in range(2):
        before = _finished_fits(tmp_path)
        process = in_process(runs.run, tmp_path)
        time.sleep(coin.uniform(0, seconds))
        _kill(process)
        _no_finished_cycle_was_fitted_again(tmp_path, before)
    before = _finished_fits(tmp_path)
    _finish(tmp_path)
    _no_finished_cycle_was_fitted_again(tmp_path, before)
    assert Outcome.of(digits(tmp_path)) == expected


@pytest.mark.parametrize(
    ("where", "turns"),
    [
        ("before the intent", (1, 3)),
        ("mid-declaration", (1, 1)),
        ("after the intent", (2, 1)),
        ("between answer and next fit", (1, 2)),
        ("mid-fit", (35, 71)),
        ("mid-checkpoint", (3, 5)),
        ("after a checkpoint", (3, 9)),
        ("mid-scan", (1, 4)),
        ("between fit and its weights", (1, 2)),
        ("between weights and test", (1, 1)),
        ("between test and scan", (1, 2)),
    ],
)
def test_killed_at_each_boundary_twice_running(uninterrupted, tmp_path, where, turns):
    expected, _ = uninterrupted
    log = str(tmp_path / "asked")
    changes = {"oracle": LoggingOracle(log)}
    for turn in turns:
        before = _finished_fits(tmp_path)
        process = in_process(runs.run_and_die, tmp_path, where, turn, changes)
        process.join(LONG)
        assert process.exitcode == -signal.SIGKILL, "it died where it should"
        _no_finished_cycle_was_fitted_again(tmp_path, before)
    _finish(tmp_path, changes)
    assert Outcome.of(digits(tmp_path, **changes)) == expected
    asked = Counter(Path(log).read_text().split())
    assert set(asked.values()) == {1}, "the oracle is asked once for each position"


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_fit_killed_in_an_epoch_goes_on_from_that_epoch_or_the_one_before(uninterrupted, tmp_path, epoch):
    expected, _ = uninterrupted
    process = in_process(runs.run_and_die, tmp_path, "mid-fit", epoch * 10 + 5)
    process.join(LONG)
    _finish(tmp_path)
    (_, first), (_, again), *_ = _fits(tmp_path)
    assert first == 0
    assert epoch - 1 <= again <= epoch
    assert Outcome.of(digits(tmp_path)) == expected


def test_a_folder_on_another_file_system_than_temporary_files(uninterrupted, tmp_path, monkeypatch):
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system only")
    expected, _ = uninterrupted
    root = shared_memory / f"deepal-test-{os.getpid()}"
    try:
        for where, turn in (("mid-checkpoint", 3), ("mid-fit", 45), ("mid-scan", 2)):
            process = in_process(runs.run_and_die, root, where, turn)
            process.join(LONG)
            assert process.exitcode == -signal.SIGKILL
        _finish(root)
        assert Outcome.of(digits(root)) == expected
    finally:
        for path in sorted(root.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        root.rmdir()


def test_a_finished_run_is_left_alone_and_a_larger_budget_continues_it(tmp_path):
    short = digits(tmp_path, budget=30, data=_data(validation=5))
    short.run()
    before = Outcome.of(short)
    fits = _fits(tmp_path)
    assert len(digits(tmp_path, budget=30, data=_data(validation=5)).run()) == 2
    assert _fits(tmp_path) == fits
    assert Outcome.of(short) == before
    grown = digits(tmp_path, budget=50, data=_data(validation=5))
    grown.run()
    whole = digits(tmp_path / "whole", budget=50, data=_data(validation=5))
    whole.run()
    assert Outcome.of(grown) == Outcome.of(whole)
    assert Counter(cycle for cycle, _ in _fits(tmp_path)) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_validation_share_stays_as_it_was_when_the_budget_grows(tmp_path):
    first = digits(tmp_path, budget=30)
    assert first.run()[-1].validation == 3
    assert digits(tmp_path, budget=40).run()[-1].validation == 3


def _data(**options):
    from deepal.data import Digits

    return Digits(epoch_steps=10, **options)


def _finish(root, changes=None):
    process = in_process(runs.run, root, changes)
    process.join(LONG)
    assert process.exitcode == 0


def _kill(process):
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(LONG)


def _book(root):
    found = list(Path(root).glob("*/ledger.sqlite"))
    return Ledger(found[0]) if found else None


def _fits(root):
    book = _book(root)
    return book.fits() if book else []


def _finished_fits(root):
    """How many fits were started, and which cycles are finished."""
    book = _book(root)
    return (len(book.fits()), {each.cycle for each in book.results()}) if book else (0, set())


def _no_finished_cycle_was_fitted_again(root, before):
    count, finished = before
    assert not finished & {cycle for cycle, _ in _fits(root)[count:]}


def test_ctrl_c_says_how_to_go_on_and_the_next_run_does(uninterrupted, tmp_path):
    expected, _ = uninterrupted
    words = "--data.epoch_steps 10 --trainer.max_steps 60 --query_size 10 --budget 50 --root"
    command = [sys.executable, "-m", "deepal", "run", *words.split(), str(tmp_path)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background work is deaf to Ctrl+C
    )
    while not _finished_fits(tmp_path)[0]:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LONG)
    assert process.returncode == 1
    assert said.strip() == "deepal: stopped; the same command goes on from here."
    _finish(tmp_path)
    assert Outcome.of(digits(tmp_path)) == expected
