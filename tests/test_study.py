"""Studies: paired by construction, done once, by any number of workers, whatever happens to them."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from deepal import leases, records, workers
from deepal.comparison import Comparison
from deepal.data import AtRandom, Digits, Everything
from deepal.entries import INITIAL
from deepal.ledger import Ledger
from deepal.modules import Classifier
from deepal.nn import MLP
from deepal.oracles import DatasetOracle, FileOracle
from deepal.report import comparing
from deepal.strategies import BADGE, CoreSet, Margin, QueryStrategy, Random
from deepal.study import Study, StudyError
from tests import test_leases
from tests.runs import in_process


def made(root, **changes):
    """Six runs of three cycles, and two ceilings: a second each."""
    settings = {
        "strategies": [Random(), Margin(), BADGE()], "modules": [Classifier], "seeds": 2, "ceiling": True,
        "data": [Digits(epoch_steps=10, validation=0)], "trainer": {"max_steps": 30}, "budget": 40, "root": root,
    }  # fmt: skip
    return Study(**{**settings, **changes})


def run(root, workers):
    made(root).run(workers)


def without_times(folder):
    """The bytes of study.json, but for the times in it."""
    comparing.write(Comparison(records.read(folder)), folder)
    lines = (folder / "study.json").read_text().splitlines()
    return [{**json.loads(line.removesuffix(",")), "times": None} for line in lines[1:-1]]


def fits(folder):
    """How often each cycle of each run was fitted."""
    ledgers = {each.parent.name: Ledger(each) for each in folder.glob("*/ledger.sqlite")}
    return {name: ledger.fits() for name, ledger in ledgers.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the study comes to in this process."""
    whole = made(tmp_path_factory.mktemp("undisturbed"))
    found = whole.run()
    assert [each.finished for each in found] == [True] * 8
    return whole, without_times(whole.folder)


def test_runs_are_paired(undisturbed):
    """For one seed the same first labels, and the same first measurement: it is of the same weights."""
    whole, _ = undisturbed
    found = [each for each in whole.records() if each.title["strategy"] in ("Random", "Margin", "BADGE")]
    strategies = [each for each in found if "Everything" not in each.config["initial"]["class"]]
    for seed in (0, 1):
        paired = [each for each in strategies if each.seed == seed]
        assert len(paired) == 3
        assert len({tuple(each.first) for each in paired}) == 1
        assert len({json.dumps(each.cycles[0]["metrics"]) for each in paired}) == 1
    assert len({tuple(each.first) for each in strategies}) == 2


def test_a_ceiling_is_trained_on_everything(undisturbed):
    whole, _ = undisturbed
    ceilings = [each for each in whole.records() if "Everything" in each.config["initial"]["class"]]
    assert [len(each.cycles) for each in ceilings] == [1, 1]
    assert {each.cycles[0]["labels"] for each in ceilings} == {1200}


def test_two_workers_are_one(undisturbed, tmp_path):
    made(tmp_path).run(workers=2)
    assert without_times(tmp_path / "study") == undisturbed[1]


def test_what_is_done_is_never_done_again(undisturbed):
    whole, _ = undisturbed
    before = fits(whole.folder)
    made(whole.root).run()
    assert fits(whole.folder) == before


def test_only_what_is_new_runs(tmp_path):
    first = made(tmp_path, strategies=[Random()], seeds=1, ceiling=False)
    first.run()
    before = fits(first.folder)
    more = made(tmp_path, strategies=[Random(), CoreSet()], seeds=[0, 3], ceiling=False)
    assert len(more.run()) == 4
    after = fits(more.folder)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before


def test_a_larger_budget_goes_on(tmp_path):
    small = made(tmp_path, strategies=[Random()], seeds=1, ceiling=False, budget=30)
    small.run()
    larger = made(tmp_path, strategies=[Random()], seeds=1, ceiling=False, budget=40)
    (record,) = larger.run()
    assert [each["labels"] for each in record.cycles] == [20, 30, 40]
    (folder,) = larger.runs
    assert [cycle for cycle, _ in Ledger(folder / "ledger.sqlite").fits()] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_workers_killed_at_random_instants(undisturbed, tmp_path, seed):
    """Workers are killed, and then the process that supervises them; the same command brings the same study."""
    coin = random.Random(seed)
    supervising = in_process(run, tmp_path, 2)
    deadline = time.monotonic() + 120
    killed = 0
    while killed < 3 and supervising.is_alive() and time.monotonic() < deadline:
        time.sleep(coin.uniform(0, 1.5))
        at_work = [
            holder["pid"]
            for each in (tmp_path / "study").glob("digits*")
            if not (each / records.FILE).exists() and "pid" in (holder := leases.last_holder(each))
        ]
        if at_work:
            killed += _kill(coin.choice(at_work))
    supervising.kill()
    supervising.join()
    made(tmp_path).run(workers=2)
    assert killed
    assert without_times(tmp_path / "study") == undisturbed[1]


def test_a_worker_starts_though_the_process_that_starts_them_is_killed_meanwhile(tmp_path):
    """Its end is not known yet when it is asked for a worker, and it never answers."""
    study = made(tmp_path, strategies=[Random()], ceiling=False, seeds=1)
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (server, signal.SIGKILL)).start()
    worker = workers._started(study, "a session", 0)
    worker.join()
    assert worker.exitcode == 0
    assert [each.finished for each in study.records()] == [True]


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def test_workers_end_with_the_process_that_started_them(tmp_path):
    supervising = in_process(run, tmp_path, 2)
    folder, deadline = tmp_path / "study", time.monotonic() + 120
    while not (held := [each for each in folder.glob("digits*") if leases.last_holder(each)]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    supervising.kill()
    supervising.join()
    deadline = time.monotonic() + 30
    while any(leases.Leases().is_held(each) for each in held):
        assert time.monotonic() < deadline
        time.sleep(0.1)


SCRIPT = """
import sys
from dataclasses import dataclass

from deepal.data import Digits
from deepal.modules import Classifier
from deepal.strategies import Margin
from deepal.study import Study


@dataclass(frozen=True)
class Mine(Margin):
    pass


if __name__ == "__main__":
    data = Digits(epoch_steps=10, validation=0)
    settings = {"seeds": 2, "trainer": {"max_steps": 10}, "budget": 20, "root": sys.argv[1]}
    study = Study(strategies=[Mine()], modules=[Classifier], data=[data], **settings)
    print([record.finished for record in study.run(2)])
"""


def test_classes_of_a_script_are_the_same_to_its_workers(tmp_path):
    """Whose main module goes by another name."""
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == "[True, True]"
    assert len(list((tmp_path / "study").glob("digits*"))) == 2


@dataclass(frozen=True)
class Broken(QueryStrategy):
    """Fails in the first cycle, until a file says that it was mended."""

    mended: str
    dies: bool = False
    exits: bool = False

    def select(self, view, query_size, generator):
        if not Path(self.mended).exists():
            if self.exits:
                raise SystemExit(3)
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("one and one are three")
        return Random().select(view, query_size, generator)


def test_a_run_that_fails_stops_no_other_and_is_tried_again_by_the_next_command(tmp_path):
    broken = made(tmp_path, strategies=[Broken(str(tmp_path / "mended")), Random()], ceiling=False)
    with pytest.raises(StudyError, match=r"2 of 4 runs .* have failed:\n.*one and one are three"):
        broken.run()
    assert len(broken.records()) == 2
    failed = [file for each in broken.runs for file in each.glob("failure.*.txt")]
    assert ["Traceback" in each.read_text() for each in failed] == [True, True]
    (tmp_path / "mended").touch()
    assert len(made(tmp_path, strategies=[Broken(str(tmp_path / "mended")), Random()], ceiling=False).run()) == 4
    assert not any(each.exists() for each in failed)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_exits_stops_no_other(tmp_path, workers):
    leaving = made(tmp_path, strategies=[Broken(str(tmp_path / "no"), exits=True), Random()], ceiling=False, seeds=1)
    with pytest.raises(StudyError, match=r"1 of 2 runs .*\n.*SystemExit: 3"):
        leaving.run(workers)
    assert len(leaving.records()) == 1


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])  # workers wait as long as they do
def test_a_lease_from_elsewhere_is_waited_for_until_it_beats_or_has_run_out(tmp_path, monkeypatch, processes):
    """As after a restart of the machine: a worker was killed, and no number of a process says so any more."""
    monkeypatch.setattr(leases.Leases.__init__, "__defaults__", (0.05, 0.5, None))
    monkeypatch.setattr(workers, "LOOKS", 0.05)
    whole = made(tmp_path, strategies=[Random()], ceiling=False)
    dead, cut_off = whole.runs
    for folder, content in ((dead, elsewhere(0)), (cut_off, "")):
        folder.mkdir(parents=True)
        (folder / "lease.0").write_text(content)
    assert len(whole.run(processes)) == 2


def elsewhere(beats):
    return json.dumps({"host": "other", "pid": 1, "place": "other", "started": "1", "beats": beats})


@pytest.mark.parametrize("content", ["", "5", "{}", '{"place": 3}'])
def test_broken_files_in_the_folder_of_a_run_stop_nothing(tmp_path, content, monkeypatch):
    monkeypatch.setattr(leases.Leases.__init__, "__defaults__", (0.05, 0.2, None))
    whole = made(tmp_path, strategies=[Random()], ceiling=False)
    for folder in whole.runs:
        folder.mkdir(parents=True)
        (folder / records.FILE).write_text(content)
        (folder / "lease.0").write_text(content)
        (folder / "lease.0.bak").touch()
    assert len(whole.run()) == 2


def test_a_smaller_budget_is_the_beginning_of_a_larger_one(tmp_path):
    def of(budget, root):
        return made(root, strategies=[Margin()], ceiling=False, seeds=1, budget=budget).run()[0]

    of(40, tmp_path / "larger")
    cut, fresh = of(30, tmp_path / "larger"), of(30, tmp_path / "fresh")
    assert {**asdict(cut), "times": None} == {**asdict(fresh), "times": None}


def test_a_run_that_kills_its_workers_is_left_alone(tmp_path):
    deadly = made(tmp_path, strategies=[Broken(str(tmp_path / "mended"), dies=True), Random()], ceiling=False, seeds=1)
    with pytest.raises(StudyError, match="2 workers were killed over this run, the last with exit code -9"):
        deadly.run(workers=2)
    assert len(deadly.records()) == 1


def test_tasks_of_an_array_try_a_run_that_fails_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    broken = made(tmp_path, strategies=[Broken(str(tmp_path / "mended"))], ceiling=False, seeds=1)
    for _ in range(2):
        with pytest.raises(StudyError, match="have failed"):
            broken.run()
    assert caplog.text.count("has failed") == 1


def test_a_run_in_the_hands_of_another_is_left_to_it(tmp_path, caplog):
    whole = made(tmp_path, strategies=[Random()], ceiling=False)
    theirs, _ = whole.runs
    with leases.Leases().held(theirs):
        (record,) = whole.run()
    assert record.seed == 1
    assert "1 of 2 runs are being done by" in caplog.text


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_outlives_its_command_for_a_moment_is_waited_for(tmp_path, count):
    """Its process ends when a disk lets it, and a command that follows at once did not find its run, nor do it."""
    whole = made(tmp_path, strategies=[Random()], ceiling=False)
    held, _ = whole.runs
    ready = test_leases.processes.Queue()
    orphan = in_process(test_leases.hold_as_long_as, test_leases.gone(), held, ready, 6)
    assert ready.get(timeout=60)
    assert [each.finished for each in whole.run(count)] == [True, True]
    orphan.join()


def test_an_interrupt_goes_through_and_leaves_no_lease(tmp_path, monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    whole = made(tmp_path, strategies=[Random()], ceiling=False)
    monkeypatch.setattr("deepal.learner.Learner.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        whole.run()
    assert not any(leases.Leases().is_held(each) for each in whole.runs)


@dataclass(frozen=True)
class Undecided(DatasetOracle):
    def answer(self, questions, data, folder, seed):
        return []


def test_an_oracle_that_is_waited_for_is_a_failure(tmp_path):
    with pytest.raises(StudyError, match="waits for its oracle"):
        made(tmp_path, strategies=[Random()], ceiling=False, seeds=1, oracle=Undecided()).run()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategies": []}, r"strategies=\[\] must be a list of one at least"),
        ({"seeds": 0}, "seeds=0 must be one at least"),
        ({"strategies": [Random(), Random()]}, "listed twice; list it once, or Random\\(replica=1\\)"),
        ({"seeds": True}, "seeds=True must be a number of seeds"),
        ({"seeds": ["a"]}, "whole numbers"),
        ({"seeds": [1, 1]}, "seed 1 on Digits is listed twice"),
        ({"oracle": FileOracle()}, "asks people, and a study"),
        ({"trainer": {"devices": 2}}, "for one process each; take as many workers"),
        ({"name": "a/b"}, "name of one folder"),
        ({"query_size": 0}, "query_size=0"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_trains(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        made(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_no_workers_and_what_cannot_be_sent_to_them(tmp_path):
    with pytest.raises(ValueError, match="workers=0"):
        made(tmp_path).run(workers=0)
    with pytest.raises(ValueError, match="take a class, or functools"):
        made(tmp_path, modules=[lambda: Classifier()]).run(workers=2)


def test_modules_and_data_are_crossed(tmp_path):
    modules = [Classifier, partial(Classifier, backbone=partial(MLP, hidden=(32,)))]
    data = [Digits(validation=0), Digits(validation=0, imbalance=5)]
    assert len(made(tmp_path, modules=modules, data=data, initial=AtRandom(20)).runs) == 2 * 2 * 2 * 4


def test_a_replica_of_random_draws_something_else_from_the_same_start(tmp_path):
    whole = made(tmp_path, strategies=[Random(), Random(replica=1)], ceiling=False, seeds=1)
    first, second = whole.run()
    assert (first.first, first.cycles[0]["metrics"]) == (second.first, second.cycles[0]["metrics"])
    assert not set(first.cycles[0]["positions"]) & set(second.cycles[0]["positions"])
    with pytest.raises(ValueError, match="replica=-1"):
        Random(replica=-1)


def test_a_study_travels(tmp_path):
    assert list(pickle.loads(pickle.dumps(made(tmp_path))).runs) == list(made(tmp_path).runs)


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [workers._gpu(number) for number in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [workers._gpu(number) for number in range(3)] == ["5", "7", "5"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert workers._gpu(1) is None


def test_everything_is_every_candidate(tmp_path):
    whole = made(tmp_path, strategies=[Random()], seeds=1, initial=Everything(), ceiling=False)
    (record,) = whole.run()
    assert record.is_ceiling
    assert record.first == []  # nobody has to be told
    (folder,) = whole.runs
    assert len(Ledger(folder / "ledger.sqlite").asked(INITIAL)) == 1200
