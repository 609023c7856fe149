"""Two processes (gloo) do what one does: real launches, on digits, with batch norm."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepal import Learner, preflight, seeds
from deepal.data import Digits
from deepal.data.loading import Evenly, InOrder, Share, Shuffled
from deepal.ledger import Ledger
from deepal.modules import VAAL, Classifier
from deepal.scan import Scan
from deepal.signals import Signals
from deepal.strategies import Margin
from deepal.strategies.base import View, choose
from tests import own, two_ranks
from tests.runs import Outcome


def launch(root, *killed):
    """Run to the end, or until a process is killed: the other one has to end by itself."""
    command = [sys.executable, "-m", "tests.two_ranks", str(root), *map(str, killed)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    done = launch(root)
    assert done.returncode == 0, done.stderr
    return root


def read(root):
    return [torch.load(root / f"rank{rank}.pt") for rank in (0, 1)]


def test_features_are_read_once_by_both_and_stand_for_images_in_both(tmp_path):
    done = launch(tmp_path / "two", "features")
    assert done.returncode == 0, done.stderr
    first, second = (ranks["passes"] for ranks in read(tmp_path / "two"))
    images = [len(ours) + len(theirs) for (_, ours), (_, theirs) in zip(first[-len(second) :], second, strict=True)]
    assert images[:2] == [1200, 597]  # of the module's network, all that there is
    assert images[2] == 1200 - 16  # of the other one, but for those of the rehearsal
    one = two_ranks.of_features(tmp_path / "one", processes=1)
    one.run()
    stores = [
        {file.name: np.load(file) for file in (tmp_path / each / ".features").glob("*/*.npy")} for each in ("one", "two")
    ]
    assert set(stores[0]) == set(stores[1])
    asked = [Ledger(tmp_path / each / "run" / "ledger.sqlite").asked(0) for each in ("one", "two")]
    assert asked[0] == asked[1]


def test_recorders_of_two_processes_record_what_one_does(tmp_path):
    done = launch(tmp_path / "two", "recorders")
    assert done.returncode == 0, done.stderr
    one = two_ranks.of_recorders(tmp_path / "one", processes=1)
    one.run()
    ledgers = [Ledger(tmp_path / each / "run" / "ledger.sqlite") for each in ("one", "two")]
    ours, theirs = (load_file(tmp_path / each / "run/cycles/001/recorded.safetensors") for each in ("one", "two"))
    assert {name for name in ours if torch.equal(ours[name], theirs[name])} == set(ours)
    assert ledgers[0].asked(0) == ledgers[1].asked(0)
    assert ledgers[0].forgetting(1) == ledgers[1].forgetting(1)
    assert sum(row["events"] for row in ledgers[0].forgetting(1) if row["learned"]) > 0
    assert (ours["history"] >= 0).any()
    assert len(ours["history"][ours["history"][:, 0] >= 0].unique(dim=1).T) > 1


@pytest.mark.parametrize("kind", [pytest.param("vaal", marks=pytest.mark.slow), "unlabeled"])
def test_what_reads_unlabeled_images_trains_in_two_processes_and_repeats_itself(tmp_path, kind):
    for turn in ("one", "again"):
        done = launch(tmp_path / turn, kind)
        assert done.returncode == 0, done.stderr
    first, again = (Outcome.of(two_ranks.MADE[kind](tmp_path / turn)) for turn in ("one", "again"))
    assert first == again


def test_plain_ddp_is_refused_where_one_network_is_trained_at_a_time():
    module = VAAL()
    module._trainer = SimpleNamespace(strategy=SimpleNamespace(_ddp_kwargs={}))
    with pytest.raises(ValueError, match="VAAL trains one of its networks at a time"):
        module.on_fit_start()


def test_every_rank_makes_the_same_picks(whole):
    first, second = (ranks["chosen"] for ranks in read(whole))
    assert len(first) == len(second) == 2
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    book = Ledger(whole / "run" / "ledger.sqlite")
    assert [ours["positions"][ours["rows"]].tolist() for ours in first] == [book.asked(0), book.asked(1)]


def test_every_position_is_scanned_exactly_once(whole):
    first, second = (ranks["passes"] for ranks in read(whole))
    # rank 0 has rehearsed alone, before the other was there
    for (positions, ours), (same, theirs) in zip(first[-len(second) :], second, strict=True):
        assert torch.equal(positions, same)
        assert torch.cat([ours, theirs]).sort().values.tolist() == positions.sort().values.tolist()
    assert max(len(theirs) for _, theirs in second) > 400


def alone(root, weights):
    """One process with these weights, on the same data."""
    learner = two_ranks.made(root, processes=1)
    learner.data.begin(seeds.derive(0, "data"), Ledger(root / "run" / "ledger.sqlite").manifest()["validation"])
    learner.module.configure_network(learner.data.task)
    learner.module.load_state_dict(weights)
    return learner


def test_scan_and_selection_equal_one_process_with_the_same_weights(whole):
    for recorded in read(whole)[0]["chosen"]:
        weights = {name.removeprefix("weights "): each for name, each in recorded.items() if name.startswith("weights ")}
        learner = alone(whole, weights)
        seed = seeds.derive(0, "scan", int(recorded["cycle"]))
        pool = Signals(recorded["positions"], Scan(learner.module, learner.data, torch.device("cpu"), seed=seed))
        assert all(torch.equal(pool[name], recorded[name]) for name in ("probs", "embedding", "mc_probs"))
        generator = torch.Generator()
        generator.set_state(recorded["coins"])
        choice = choose(two_ranks.STRATEGY, View(pool, pool.take(torch.tensor([0]))), 10, generator)
        assert torch.equal(choice.rows, recorded["rows"])


def test_test_metrics_count_every_image_once(whole):
    learner = alone(whole, load_file(whole / "run" / "model.safetensors"))
    hits = 0
    for batch in learner.data.test_dataloader():
        with torch.inference_mode():
            probs = learner.module.eval().predictor()(learner.data.on_after_batch_transfer(batch, 0)["input"])
        hits += int((probs.argmax(1) == batch["target"]).sum())
    last = Ledger(whole / "run" / "ledger.sqlite").results()[-1]
    assert last.metrics["test/accuracy"] == pytest.approx(hits / 597, abs=1e-7)


KILLS = [(1, "fit", 45), (0, "scan", 3), (1, "test", 1)]


@pytest.mark.parametrize("kills", [KILLS[:2], pytest.param(KILLS, marks=pytest.mark.slow)], ids=len)
def test_a_killed_rank_ends_the_other_and_the_run_goes_on_bit_for_bit(whole, tmp_path, kills):
    for killed in kills:
        done = launch(tmp_path, *killed)
        assert done.returncode != 0
        assert not (tmp_path / "run" / "model.safetensors").exists()
    done = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = two_ranks.made(tmp_path), two_ranks.made(whole)
    assert Outcome.of(ours) == Outcome.of(theirs)
    fits = [Ledger(root / "run" / "ledger.sqlite").fits() for root in (tmp_path, whole)]
    assert fits[1] == [(0, 0), (1, 0), (2, 0)]
    assert {cycle for cycle, _ in fits[0]} == {0, 1, 2}
    assert (1, 1) in fits[0]  # the second cycle went on from its second epoch


def test_processes_that_measured_their_share_alone_are_refused():
    preflight.refuse_unsynced([{"test/accuracy": 0.5}, {"test/accuracy": 0.5}])
    with pytest.raises(ValueError, match=r"test/accuracy is 0.6, 0.5 in 2 processes.*sync_dist=True"):
        preflight.refuse_unsynced([{"test/accuracy": 0.6}, {"test/accuracy": 0.5}])


def test_a_process_ends_soon_after_the_one_that_launched_it():
    launch = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())])"
    orphan = "import sys; from deepal.ranks import _end_with; print('here', flush=True); _end_with(int(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", launch, orphan], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "here"  # its output is closed: it has ended


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "fsdp", "deepspeed"])
def test_strategies_that_cannot_be_resumed_are_refused(tmp_path, strategy):
    with pytest.raises(ValueError, match=f"trainer.strategy={strategy}.*ddp"):
        Learner(
            strategy=Margin(),
            module=Classifier(),
            data=Digits(),
            trainer={"devices": 2, "strategy": strategy},
            root=tmp_path,
        )


@pytest.mark.parametrize(("size", "batch", "processes"), itertools.product([1, 5, 12, 597], [1, 4, 100], [1, 2, 3]))
def test_shares_are_a_whole(size, batch, processes):
    for sampler in (InOrder, Evenly):
        parts = [list(sampler(size, batch, Share(rank, processes))) for rank in range(processes)]
        rows = torch.cat([rows for part in parts for rows in part])
        assert rows.sort().values.tolist() == list(range(size))
        assert all(len(rows) <= batch + 1 for part in parts for rows in part)
        assert all(len(rows) for part in parts for rows in part) or size < processes
        lengths = [len(sampler(size, batch, Share(rank, processes))) for rank in range(processes)]
        assert lengths == [len(part) for part in parts]
        if sampler is Evenly:
            assert len(set(lengths)) == 1
        else:
            whole = list(InOrder(size, batch))
            assert all(
                torch.equal(ours, whole[rank::processes][i])
                for rank, part in enumerate(parts)
                for i, ours in enumerate(part)
            )
    shuffled = [list(Shuffled(size, batch, 0, share=Share(rank, processes))) for rank in range(processes)]
    assert len({tuple(map(len, part)) for part in shuffled}) == 1  # as many steps of as many rows
    assert set(torch.cat([rows for part in shuffled for rows in part]).tolist()) == set(range(size))


def test_the_command_line_launches_both_and_one_speaks(tmp_path):
    """With an odd number of validation images, which both measure a part of."""
    several = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    command = [
        sys.executable,
        "-m",
        "deepal",
        "run",
        "--budget",
        "40",
        "--data.validation",
        "7",
        "--trainer.max_steps",
        "20",
    ]
    done = subprocess.run([*command, *several, "--root", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    assert "40" in done.stdout


PROJECT = """
import sys
from pathlib import Path
from deepal import Learner
from deepal.data import AtRandom, ImageFolder
from deepal.modules import Classifier
from deepal.oracles import DatasetOracle, FileOracle
from deepal.strategies import Margin

root, oracle = Path(sys.argv[1]), {"people": FileOracle(), "data": DatasetOracle()}[sys.argv[2]]
data = ImageFolder(
    root=str(root / sys.argv[2]), test_share=0.2 if sys.argv[2] == "data" else 0, class_names=list("0123456789"),
    image_size=28, channels=1, validation=0, epoch_steps=10, eval_batch_size=16, max_bad_fraction=0.5,
)
several = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_steps": 20}
Learner(
    strategy=Margin(), module=Classifier(), data=data, oracle=oracle, initial=AtRandom(10), query_size=5, budget=20,
    trainer=several, root=root, name="run " + sys.argv[2],
).run()
"""


@pytest.mark.slow
def test_people_and_broken_files_in_two_processes(tmp_path):
    images, labels = own.scans(100)
    truth = {path[2:]: path[0] for path in own.png_folder(tmp_path / "people", images, labels)}
    for path in list((tmp_path / "people").rglob("*.png")):
        path.rename(tmp_path / "people" / path.name)
    broken = own.png_folder(tmp_path / "data", images, labels)[::5]
    for path in broken:
        own.truncate(tmp_path / "data" / path)
    (tmp_path / "project.py").write_text(PROJECT)

    def run(kind):
        command = [sys.executable, str(tmp_path / "project.py"), str(tmp_path), kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return Ledger(tmp_path / f"run {kind}" / "ledger.sqlite")

    assert [each.labels for each in run("data").results()] == [10, 15, 20]
    assert {row["id"] for row in run("data").quarantine()} == set(broken)
    for labels in (0, 10, 15, 20):
        book, folder = run("people"), tmp_path / "run people"
        assert (book.results()[-1].labels if labels else 0) == labels
        asked = (folder / "query.csv").read_text().splitlines()[1:] if labels < 20 else []
        with (folder / "answers.csv").open("a") as file:
            file.write("" if labels else "id,label\n")
            file.writelines(f"{row.split(',')[0]},{truth[row.split(',')[0]]}\n" for row in asked)
