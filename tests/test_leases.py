"""Leases: one worker at a time, and another one when that is gone."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from deepal import leases
from deepal.leases import Leases

processes = multiprocessing.get_context("forkserver")


def hold(folder, ready):
    with Leases(beat=0.05).held(folder) as mine:
        ready.put(mine)
        time.sleep(60)


def hold_as_long_as(pid, folder, ready, seconds=60):
    with Leases(beat=0.05, ends_with=pid).held(folder) as mine:
        ready.put(mine)
        time.sleep(seconds)


def gone():
    """The number of a process that there was."""
    process = processes.Process(target=int)
    process.start()
    process.join()
    return process.pid


def try_once(folder, start, won):
    start.wait()
    with Leases().held(folder) as mine:
        if mine:
            won.put(os.getpid())
            time.sleep(0.5)  # while the others try


def race(folder, workers=6):
    start, won = processes.Event(), processes.Queue()
    racing = [processes.Process(target=try_once, args=(folder, start, won)) for _ in range(workers)]
    for each in racing:
        each.start()
    time.sleep(0.3)
    start.set()
    for each in racing:
        each.join()
    winners = []
    while not won.empty():
        winners.append(won.get())
    return winners


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds; the process."""
    ready = processes.Queue()
    process = processes.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.get(timeout=60)
    yield tmp_path, process
    process.kill()
    process.join()


def test_one_of_many_wins(tmp_path):
    assert len(race(tmp_path)) == 1


def test_one_of_many_wins_what_a_dead_one_has_left(held):
    folder, process = held
    process.kill()
    process.join()
    assert len(race(folder)) == 1
    assert sorted(each.name for each in folder.glob("lease.*")) == ["lease.0", "lease.1"]


def test_a_living_worker_keeps_its_folder(held):
    folder, process = held
    with Leases().held(folder) as mine:
        assert not mine
    assert Leases().is_held(folder)
    assert leases.last_holder(folder)["pid"] == process.pid


def test_a_worker_that_was_killed_loses_it_at_once(held):
    folder, process = held
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not Leases().is_held(folder)
    with Leases().held(folder) as mine:
        assert mine


def test_a_worker_that_stands_still_on_this_machine_keeps_it(held):
    folder, process = held
    os.kill(process.pid, signal.SIGSTOP)
    looking = Leases(runs_out=0.1)
    assert looking.is_held(folder)
    time.sleep(0.3)
    assert looking.is_held(folder)  # it lives: its number is not another's
    os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("is_gone", [False, True])
def test_who_ends_with_a_process_that_is_gone_is_waited_for(tmp_path, is_gone):
    """It holds its folder until it has ended, which may take a moment, and nobody else will do its work."""
    ready = processes.Queue()
    process = processes.Process(target=hold_as_long_as, args=(gone() if is_gone else os.getpid(), tmp_path, ready))
    process.start()
    assert ready.get(timeout=60)
    for _ in range(2):
        assert Leases().is_held(tmp_path)
        assert Leases().is_undecided(tmp_path) == is_gone
        time.sleep(0.2)  # and a few heartbeats
    process.kill()
    process.join()
    assert not Leases().is_held(tmp_path)
    assert not Leases().is_undecided(tmp_path)


def test_what_is_over_is_free_and_can_be_held_again(tmp_path):
    for _ in range(3):
        with Leases().held(tmp_path) as mine:
            assert mine
            assert Leases().is_held(tmp_path)
        assert not Leases().is_held(tmp_path)
        assert leases.last_holder(tmp_path) == {}


def elsewhere(folder, beats):
    """The lease of a worker on another machine."""
    holder = {"host": "other", "pid": 1, "place": "other", "started": "1", "beats": beats}
    (folder / "lease.0").write_text(json.dumps(holder))


def test_a_lease_of_another_machine_runs_out_without_a_heartbeat(tmp_path):
    looking = Leases(runs_out=0.3)
    elsewhere(tmp_path, 0)
    assert looking.is_held(tmp_path)
    for beats in range(1, 5):
        time.sleep(0.15)
        elsewhere(tmp_path, beats)
        assert looking.is_held(tmp_path)
        assert not looking.is_undecided(tmp_path)  # it beats
    time.sleep(0.4)
    assert not looking.is_held(tmp_path)
    assert Leases(runs_out=0.3).is_held(tmp_path)  # somebody who looks for the first time waits as long


def test_a_lease_that_was_cut_off_while_it_was_made_runs_out(tmp_path):
    (tmp_path / "lease.0").write_bytes(b"")
    looking = Leases(runs_out=0.1)
    assert looking.is_undecided(tmp_path)
    assert looking.is_held(tmp_path)
    time.sleep(0.2)
    assert not looking.is_held(tmp_path)


def test_a_number_that_another_process_has_by_now_is_not_taken_for_the_holder(tmp_path):
    holder = {"host": "here", "pid": os.getpid(), "place": leases.place(), "started": "1", "beats": 0}
    (tmp_path / "lease.0").write_text(json.dumps(holder))
    assert not Leases().is_held(tmp_path)


def test_the_heart_beats_and_a_lease_is_whole_at_any_moment(held):
    folder, _ = held
    seen = set()
    deadline = time.monotonic() + 20
    while len(seen) < 3:
        assert time.monotonic() < deadline
        seen.add(json.loads((folder / "lease.0").read_bytes())["beats"])
    assert [each.name for each in folder.glob("lease.*")] == ["lease.0"]


def test_without_links_a_lease_is_made_exclusively(tmp_path, monkeypatch):
    def none(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", none)
    with Leases().held(tmp_path) as mine:
        assert mine
        assert not leases._make(tmp_path / "lease.0", b"{}")
    assert [each.name for each in tmp_path.iterdir()] == ["lease.0"]
