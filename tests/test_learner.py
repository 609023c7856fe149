"""What the learner promises, on real digits."""

import csv
import logging
import math
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging

import deepal
from deepal import Learner, fresh, load_model, records, strategies
from deepal.cycle import Cycle
from deepal.data import AtRandom, Balanced, Digits, FromDatasets, Given, TensorImages
from deepal.entries import INITIAL
from deepal.ledger import Ledger, LedgerError
from deepal.modules import Classifier, SharedBackbone
from deepal.nn import MLP, BatchBALDCNN
from deepal.oracles import Answer, DatasetOracle, NoisyOracle, Oracle
from deepal.probes import MCDropout
from deepal.run import RunMismatchError
from deepal.signals import NonFiniteError
from deepal.strategies import BADGE, BALD, BatchBALD, CoreSet, Entropy, KMeans, LeastConfidence, Margin, Prefilter, Random
from deepal.strategies.base import Acquisition
from deepal.task import Task
from deepal.watching import Watcher
from tests.modules.pools import Pictures
from tests.runs import Outcome, digits

EVERY_STRATEGY = [
    Random(),
    LeastConfidence(),
    Margin(),
    Entropy(),
    CoreSet(),
    KMeans(),
    BADGE(),
    Prefilter(Margin(), CoreSet(), factor=5),
]
SHORT = {"trainer": {"max_steps": 20}, "budget": 30}


def book(learner):
    return Ledger(learner.folder / "ledger.sqlite")


def test_a_run_spends_its_budget_and_asks_nothing_twice(tmp_path):
    learner = digits(tmp_path, budget=45)
    results = learner.run()
    assert [each.labels for each in results] == [20, 30, 40, 45]
    asked = [position for cycle in range(INITIAL, 4) for position in book(learner).asked(cycle)]
    assert len(asked) == len(set(asked)) == 45
    assert not set(asked) & set(learner.data.validation_positions)
    assert all(each.metrics["test/accuracy"] > 0.5 for each in results)
    rows = list(csv.DictReader((learner.folder / "results.csv").open()))
    assert [int(row["labels"]) for row in rows] == [20, 30, 40, 45]
    assert {"validation", "test/accuracy", "test/macro_f1", "test/nll", "test/ece", "test/brier"} <= set(rows[0])
    labels = list(csv.DictReader((learner.folder / "labels.csv").open()))
    assert all(row["label"] == learner.data.true_label(int(row["position"])) for row in labels)


class Unread(TensorImages):
    """Images whose classes may be read where they were asked, and nowhere else."""

    allowed: set = set()

    def targets(self, positions):
        read = {int(position) for position in positions}
        assert read <= self.allowed, f"reads the classes of {sorted(read - self.allowed)[:5]}, which nobody asked"
        return super().targets(positions)


class AllowingOracle(DatasetOracle):
    def answer(self, questions, data, folder, seed):
        Unread.allowed |= {each.position for each in questions}
        return super().answer(questions, data, folder, seed)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=repr)
def test_the_classes_of_the_pool_are_never_read(tmp_path, strategy):
    class Hidden(Digits):
        def load(self):
            images = super().load()
            hidden = Unread(images.train.data, images.train.classes)
            return type(images)(hidden, images.test, images.classes)

    Unread.allowed = set()
    data = Hidden(epoch_steps=10, validation=0)
    learner = digits(tmp_path, strategy=strategy, data=data, oracle=AllowingOracle(), initial=AtRandom(20), **SHORT)
    assert len(learner.run()) == 2


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=repr)
def test_every_strategy_asks_images_of_the_pool(tmp_path, strategy):
    learner = digits(tmp_path, strategy=strategy, pool_subset=400, **SHORT)
    learner.run()
    positions = book(learner).asked(0)
    assert len(positions) == 10
    assert all(0 <= position < 1200 for position in positions)
    assert set(positions) <= set(learner.data.candidates)


def test_ranks_of_a_pool_subset_are_not_taken_for_positions(tmp_path):
    """A subset's rows 0 to 39 that were labeled as positions 0 to 39: seen in published code."""
    learner = digits(tmp_path, strategy=Margin(), pool_subset=40, budget=60, trainer={"max_steps": 20})
    learner.run()
    asked = [position for cycle in range(4) for position in book(learner).asked(cycle)]
    assert len(set(asked)) == 40
    assert max(asked) > 400
    scores = book(learner).scores(0)
    assert scores == sorted(scores, reverse=True)


def test_random_reads_what_it_asks_and_a_prefilter_scans_twice(tmp_path):
    class Scans(Watcher):
        def __init__(self):
            self.images = 0

        def phase(self, cycle, name, total):
            self.in_scan = name == "scan"

        def advance(self, done):
            self.images = max(self.images, done) if self.in_scan else self.images

    for strategy, images in ((Random(), 10), (Prefilter(Margin(), CoreSet(), keep=50), 1177)):
        watcher = Scans()
        digits(tmp_path, strategy=strategy, data=Digits(epoch_steps=10, validation=3), **SHORT).run([watcher])
        assert watcher.images == images


def test_the_same_seed_gives_the_same_first_labels_and_weights_to_every_strategy(tmp_path):
    runs = [digits(tmp_path, strategy=strategy, **SHORT) for strategy in (Random(), BADGE())]
    first = [learner.run()[0].metrics for learner in runs]
    assert first[0] == first[1]
    assert book(runs[0]).asked(INITIAL) == book(runs[1]).asked(INITIAL)
    other = digits(tmp_path, seed=1, **SHORT)
    other.run()
    assert book(other).asked(INITIAL) != book(runs[0]).asked(INITIAL)


def test_a_run_leaves_the_process_as_it_found_it(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    level = logging.getLogger("lightning.pytorch").level
    digits(tmp_path, threads=2, **SHORT).run()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("lightning.pytorch").level == level


def test_noise_is_recorded_and_trained_on(tmp_path):
    learner = digits(tmp_path, oracle=NoisyOracle(0.5), **SHORT)
    learner.run()
    answers = [answer for _, answer in book(learner).answers(before=99)]
    wrong = sum(answer.label != learner.data.true_label(answer.position) for answer in answers)
    assert 5 < wrong < 25
    assert learner.run()[-1].metrics["labels/wrong"] == wrong / 30 == sum(answer.wrong for answer in answers) / 30
    assert {answer.annotator for answer in answers} == {"noisy"}


class Hesitant(DatasetOracle):
    """Abstains from every third image."""

    def answer(self, questions, data, folder, seed):
        answers = super().answer(questions, data, folder, seed)
        return [Answer(each.position, None, "abstained") if each.position % 3 == 0 else each for each in answers]


def test_an_abstention_is_asked_once_and_costs_no_label(tmp_path):
    learner = digits(tmp_path, oracle=Hesitant(), budget=40, trainer={"max_steps": 20})
    last = learner.run()[-1]
    assert last.labels == 40
    assert last.asked > 45
    assert all(position % 3 for position in learner.data.pool.labeled)


def test_warm_start_goes_on_from_the_weights_before(tmp_path):
    still = {"trainer": {"max_steps": 1}, "module": _still, "budget": 30}
    cold, warm = digits(tmp_path, **still), digits(tmp_path, warm_start=True, **still)
    for learner in (cold, warm):
        learner.run()
    first, last = (result.metrics for result in warm.run())
    assert first == last
    first, last = (result.metrics for result in cold.run())
    assert first != last


def _still():
    return Classifier(optimizer=_no_learning)


def _no_learning(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def test_a_cold_start_asks_with_an_untrained_model(tmp_path):
    learner = digits(tmp_path, strategy=CoreSet(), initial=AtRandom(0), budget=20, trainer={"max_steps": 20})
    assert [each.labels for each in learner.run()] == [0, 10, 20]


def test_the_last_model_in_three_lines(tmp_path):
    learner = digits(tmp_path, **SHORT)
    results = learner.run()
    model = deepal.load_model(learner.folder)
    images, target = (getattr(learner.data._set.test, what)(range(597)) for what in ("images", "targets"))
    probs = model.probs(model.task.normalize(images))
    assert (probs.argmax(1) == target).float().mean().item() == pytest.approx(
        results[-1].metrics["test/accuracy"], abs=1e-6
    )
    assert model.task.classes == learner.data.classes


def test_a_model_that_is_not_there_yet(tmp_path):
    with pytest.raises(FileNotFoundError, match="run it to its budget"):
        deepal.load_model(tmp_path)


class Foreign(LightningModule):
    """A module of somebody else: no base class of ours, its own metric."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def probs(self, images):
        return torch.softmax(self.net(images), 1)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch["input"]), batch["target"])

    def test_step(self, batch, batch_idx):
        hits = self.probs(batch["input"]).argmax(1) == batch["target"]
        self.log("test/accuracy", hits.float().mean(), batch_size=len(hits))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def test_a_plain_lightning_module_runs_with_what_it_can_say(tmp_path):
    learner = digits(tmp_path, strategy=Margin(), module=Foreign, **SHORT)
    assert learner.run()[-1].metrics["test/accuracy"] > 0.5
    with pytest.raises(ValueError, match=r"not deepal's"):
        deepal.load_model(learner.folder)
    assert isinstance(deepal.load_model(learner.folder, Foreign()), Foreign)
    with pytest.raises(ValueError, match=r"BADGE.*needs logit_gradient, which Foreign cannot say; Classifier can"):
        digits(tmp_path, strategy=BADGE(), module=Foreign, **SHORT).run()


# An open door for people who own their loop


def test_ask_and_tell_are_the_run(tmp_path):
    whole = digits(tmp_path / "run")
    whole.run()
    by_hand = digits(tmp_path / "ask")
    while positions := by_hand.ask():
        assert by_hand.ask() == positions  # asked again, it says the same
        by_hand.tell(positions, [by_hand.data.true_label(position) for position in positions])
    by_hand.run()
    first, second = book(whole), book(by_hand)
    assert [first.asked(cycle) for cycle in range(-1, 4)] == [second.asked(cycle) for cycle in range(-1, 4)]
    assert Outcome.of(whole).weights == Outcome.of(by_hand).weights


def test_ask_with_a_module_that_they_trained(tmp_path):
    learner = digits(tmp_path, strategy=Margin(), initial=Given((4, 8, 15, 16, 23, 42)), data=Digits(validation=0))
    learner.tell(learner.ask(), [learner.data.true_label(position) for position in (4, 8, 15, 16, 23, 42)])
    module = Classifier()
    module.configure_network(learner.data.task)
    positions = learner.ask(module)
    assert len(positions) == 10
    module.eval()
    images = learner.data.task.normalize(learner.data._set.train.images(learner.data.pool.index))
    lead = module.probs(images).topk(2).values.diff(dim=1).abs().squeeze(1)
    smallest = {learner.data.pool.index[row] for row in lead.argsort()[:10].tolist()}
    assert set(positions) == smallest
    learner.tell(torch.tensor(positions), torch.full((10,), 3))
    assert learner.ask(module) != positions
    with pytest.raises(ValueError, match="True is no class"):
        learner.tell(learner.ask(module), [True] * 10)


@pytest.mark.parametrize(
    ("positions", "labels", "says"),
    [("asked", ["eleven"], "'eleven' is no class"), ([1199, 1198], [0, 0], "never asked"), ("asked", [1, 2], "one each")],
)
def test_wrong_answers_are_refused_and_nothing_is_lost(tmp_path, positions, labels, says):
    learner = digits(tmp_path, initial=Given((4,)), data=Digits(validation=0))
    asked = learner.ask()
    with pytest.raises((ValueError, LedgerError), match=says):
        learner.tell(asked if positions == "asked" else positions, labels)
    assert learner.ask() == asked
    assert book(learner).answers(before=99) == []


# Refused before the first epoch


class Logits(Classifier):
    """Forgets the softmax."""

    def say(self, images, names):
        return {name: self.logits(images) for name in names}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"query_size": 0}, "query_size=0 must be at least 1"),
        ({"query_size": -3}, "query_size=-3"),
        ({"query_size": 2000}, "query_size=2000 is larger than the pool"),
        ({"budget": 5}, "budget=5 is below the 20 initial labels"),
        ({"threads": 0}, "threads=0"),
        ({"pool_subset": 5}, "pool_subset=5"),
        ({"trainer": {"max_epoch": 3}}, r"trainer.max_epoch is no option .* did you mean trainer.max_epochs"),
        ({"trainer": {"logger": False}}, "trainer.logger is not for a run to choose"),
        ({"trainer": {"strategy": "ddp_spawn"}}, "ddp_spawn"),
        ({"trainer": {"precision": "bf16-true"}}, "bf16-mixed"),
        ({"trainer": {"precision": 64}}, "bf16-mixed"),
        ({"trainer": {"max_steps": 0}}, "trainer.max_steps=0"),
        ({"trainer": 3}, "trainer=3"),
        ({"trainer": {"accelerator": "abacus"}}, "lightning.Trainer refuses"),
        ({"trainer": {"max_steps": 20, "callbacks": [StochasticWeightAveraging(0.1)]}}, "StochasticWeightAveraging"),
        ({"trainer": {"max_steps": 5, "callbacks": [EarlyStopping("val/accuracy")]}}, "lower data.epoch_steps"),
        ({"module": partial(Classifier, partial(MLP, hidden=(-3,)))}, "module: it cannot be made"),
        ({"module": partial(Classifier, BatchBALDCNN)}, "module: it cannot be made for these images"),
        ({"module": partial(Classifier, optimizer=partial(torch.optim.SGD, lr=-1.0))}, "Invalid learning rate"),
        ({"name": "../elsewhere"}, "name='../elsewhere'"),
        ({"name": "."}, "one folder"),
        ({"threads": 99999}, "threads=99999"),
        ({"initial": Balanced(500)}, "finds only these"),
        ({"initial": Given((5, 5))}, "more than once"),
        ({"initial": Given((5, 99999))}, "not in the pool"),
        ({"data": Digits(validation=5000)}, "validation"),
        ({"strategy": BALD}, r"strategy=BALD is a class; give what it makes: BALD\(\)"),
        ({"strategy": "BALD"}, "strategy='BALD' must be of the kind QueryStrategy"),
        ({"initial": Balanced}, r"initial=Balanced is a class"),
        ({"probes": MCDropout(20)}, r"probes=MCDropout\(.*\) must be a list"),
        ({"probes": [MCDropout]}, r"probes=MCDropout is a class"),
        ({"probes": [3]}, "probes=3 must be of the kind Probe"),
        ({"module": Logits, "strategy": Margin()}, r"probs holds no probabilities in \d+ of 16 rows.*softmax"),
    ],
)
def test_bad_input_is_refused_in_a_sentence_before_anything_trains(tmp_path, changes, says, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *_, **__: pytest.fail("something trained"))
    with pytest.raises(ValueError, match=says):
        digits(tmp_path, **changes).run()


def test_validation_metrics_without_validation_are_refused_before_anything_trains(tmp_path):
    from deepal.callbacks import BestWeights

    with pytest.raises(ValueError, match=r"val/accuracy.*data.validation"):
        digits(tmp_path, data=Digits(validation=0), trainer={"max_epochs": 2, "callbacks": [BestWeights()]}).run()


def test_another_configuration_is_refused_with_a_readable_difference(tmp_path):
    digits(tmp_path, name="mine", **SHORT).run()
    with pytest.raises(RunMismatchError, match=r"strategy.class: was '.*BADGE', is '.*Margin'") as error:
        digits(tmp_path, name="mine", strategy=Margin(), seed=4, **SHORT).run()
    assert "seed: was 0, is 4" in str(error.value)
    assert "query_size" not in str(error.value)
    digits(tmp_path, name="mine", **SHORT).run()


@pytest.mark.parametrize("side", ["train", "test"])
def test_another_data_set_is_refused(tmp_path, side):
    class Other(Digits):
        """The same configuration over other images."""

        def load(self):
            images = super().load()
            part = getattr(images, side)
            return replace(images, **{side: TensorImages(255 - part.data, part.classes)})

    Other.__qualname__, Other.__module__ = Digits.__qualname__, Digits.__module__
    digits(tmp_path, name="mine", **SHORT).run()
    with pytest.raises(RunMismatchError, match="not those that the run"):
        digits(tmp_path, name="mine", data=Other(epoch_steps=10), **SHORT).run()


def test_gpus_are_looked_for_once_and_the_environment_is_left_as_it_was(monkeypatch):
    """Where there are none; a choice of GPUs, or GPUs, are left alone."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count, within in ((0, ""), (2, None)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with fresh.gpus_looked_for_once():
            assert os.environ.get("CUDA_VISIBLE_DEVICES") == within
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with fresh.gpus_looked_for_once():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_weights_of_a_run_that_no_ledger_knows_are_not_taken_up(tmp_path):
    first = digits(tmp_path, name="mine", **SHORT)
    first.run()
    for name in ("ledger.sqlite", "labels.csv"):
        (first.folder / name).unlink()
    again = digits(tmp_path, name="mine", module=_still, **SHORT)
    clean = digits(tmp_path, name="clean", module=_still, **SHORT)
    assert again.run()[-1].metrics == clean.run()[-1].metrics


def test_corrected_answers_are_trained_on_although_weights_are_there(tmp_path, monkeypatch):
    right, wrong = (digits(tmp_path / name, initial=AtRandom(20), **SHORT) for name in ("right", "wrong"))
    first = right.ask()
    assert wrong.ask() == first
    wrong.tell(first, [3] * 20)
    with monkeypatch.context() as patch:
        patch.setattr(Cycle, "_tested", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wrong.run()  # ends there, with weights on the disk
    for learner in (right, wrong):
        learner.tell(first, [learner.data.true_label(position) for position in first])
    assert right.run()[-1].metrics == wrong.run()[-1].metrics


@pytest.mark.parametrize("file", ["weights.safetensors", "fit.ckpt"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_was_cut_off_is_made_again(tmp_path, file, size):
    whole = digits(tmp_path / "whole", **SHORT)
    whole.run()
    cut = digits(tmp_path / "cut", **SHORT)
    cut.run()
    path = cut.folder / "cycles" / "001" / file
    path.write_bytes(path.read_bytes()[:size])
    grown = [digits(tmp_path / root, **SHORT | {"budget": 40}) for root in ("whole", "cut")]
    assert grown[0].run()[-1].metrics == grown[1].run()[-1].metrics
    (grown[1].folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="not a whole file"):
        deepal.load_model(grown[1].folder)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, "another"])
def test_a_ledger_that_cannot_be_read(tmp_path, content):
    learner = digits(tmp_path, name="mine", **SHORT)
    learner.folder.mkdir(parents=True)
    file = learner.folder / "ledger.sqlite"
    if content == "another":
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE people (name TEXT)")
            other.commit()
    else:
        file.write_bytes(content)
    if content == b"":
        assert learner.run()
    else:
        with pytest.raises(LedgerError, match="not a ledger that can be read"):
            learner.run()


def test_tables_whose_ledger_is_gone_are_not_written_over(tmp_path):
    learner = digits(tmp_path, name="mine", **SHORT)
    learner.run()
    labels = (learner.folder / "labels.csv").read_text()
    for emptied in (True, False):
        ledger = learner.folder / "ledger.sqlite"
        ledger.write_bytes(b"") if emptied else ledger.unlink()
        with pytest.raises(LedgerError, match=r"ledger.sqlite is missing or empty, and labels.csv beside it"):
            digits(tmp_path, name="mine", **SHORT).run()
    assert (learner.folder / "labels.csv").read_text() == labels


def test_a_budget_that_no_pool_has_is_said_and_ends_with_the_last_image(tmp_path, caplog):
    data = Digits(epoch_steps=2, pool_size=30, validation=0)
    run = digits(tmp_path, strategy=Random(), data=data, budget=5000, initial=AtRandom(10), trainer={"max_steps": 2})
    results = run.run()
    assert results[-1].labels == 30
    assert "budget=5000 is more than the 30 images that can be labeled" in caplog.text


def test_one_class_is_refused_as_that(tmp_path):
    images = Pictures(torch.rand(40, 1, 8, 8), torch.zeros(40, dtype=torch.long))
    data = FromDatasets(train=images, test=images, classes=("a",), validation=0)
    with pytest.raises(ValueError, match="FromDatasets has one class, a, and there have to be two"):
        digits(tmp_path, data=data, budget=20).run()


def test_files_of_others_among_those_of_cycles_stop_nothing(tmp_path):
    learner = digits(tmp_path, strategy=Margin(), budget=30)
    learner.run()
    (learner.folder / "cycles" / ".DS_Store").touch()
    assert len(digits(tmp_path, strategy=Margin(), budget=50).run()) == 4


class Confused(Oracle):
    def answer(self, questions, data, folder, seed):
        return [Answer(each.position, "cat") for each in questions]


def test_an_oracle_that_answers_no_class_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="'cat' is no class of Digits"):
        digits(tmp_path, name="mine", oracle=Confused(), **SHORT).run()
    assert Ledger(tmp_path / "mine" / "ledger.sqlite").answers(before=0) == []


def test_a_start_that_is_refused_claims_no_name(tmp_path):
    broken = partial(Classifier, optimizer=partial(torch.optim.SGD, lr=-1.0))
    with pytest.raises(ValueError, match="Invalid learning rate"):
        digits(tmp_path, name="mine", module=broken, **SHORT).run()
    assert digits(tmp_path, name="mine", **SHORT).run()


class _Nan(Acquisition):
    needs = {"pool": ("probs",)}

    def score(self, signals):
        scores = signals["probs"].amax(1).clone()
        scores[7] = torch.nan
        return scores


def test_a_nan_stops_the_run_by_name_and_cycle_and_the_ledger_is_whole(tmp_path):
    learner = digits(tmp_path, strategy=_Nan(), **SHORT)
    with pytest.raises(NonFiniteError, match=r"cycle 0: .*_Nan.* \d+ of 11\d\d rows"):
        learner.run()
    assert book(learner).asked(0) == []
    assert len(book(learner).answers(before=0)) == 20


def test_what_an_untrained_module_says_is_no_warning(tmp_path, caplog):
    """A shared backbone is one network before it is trained, which disagrees with nobody."""
    module = partial(SharedBackbone, members=2)
    digits(tmp_path, strategy=BALD(), module=module, **{**SHORT, "trainer": {"max_steps": 10}}).run()
    assert "coins decide" not in caplog.text


def test_a_watcher_that_fails_stops_nothing(tmp_path, caplog):
    class Down(Watcher):
        def begin(self, *_):
            raise ConnectionError("the dashboard is down")

    class Counts(Watcher):
        cycles = 0

        def measured(self, result, results):
            self.cycles += 1

    counts = Counts()
    digits(tmp_path, **SHORT).run([Down(), counts])
    assert counts.cycles == 2
    assert "the dashboard is down" in caplog.text


def test_sessions_say_where_and_with_what(tmp_path):
    learner = digits(tmp_path, **SHORT)
    learner.run()
    learner.run()
    first, second = book(learner).sessions()
    assert first == second
    assert first["bit_exact"] is True
    assert first["threads"] == 1
    assert {"torch", "lightning", "python", "device", "host"} <= set(first)


# Arrays in, positions out

PROBS = [[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.7, 0.3]]


def test_selecting_from_arrays():
    import numpy as np

    assert deepal.select(Margin(), {"probs": PROBS}, query_size=2) == [1, 2]
    assert deepal.select(Margin(), {"probs": np.array(PROBS)}, labeled=[1], query_size=2) == [2, 3]
    embedding = torch.tensor([[0.0], [1.0], [5.0]])
    assert deepal.select(CoreSet(), {"embedding": embedding}, {"embedding": torch.tensor([[5.1]])}, query_size=1) == [0]
    assert deepal.select(CoreSet(), {"embedding": embedding}, labeled=[2], query_size=2) == [0, 1]


@pytest.mark.parametrize(
    ("pool", "how", "says"),
    [
        ({"probs": PROBS}, {"query_size": 5}, "query_size=5"),
        ({"probs": PROBS}, {"query_size": 0}, "query_size=0"),
        ({"probs": PROBS}, {"query_size": 1, "labeled": [9]}, "labeled"),
        ({"probs": PROBS}, {"query_size": 1, "labeled": [1, 1]}, "labeled"),
        ({"embedding": PROBS}, {"query_size": 1}, "'probs' is needed"),
        ({"probs": PROBS, "embedding": PROBS[:2]}, {"query_size": 1}, "as many rows"),
        ({"probs": [0.1, 0.9]}, {"query_size": 1}, "shape"),
        ({"probs": [[1.0], [1.0]]}, {"query_size": 1}, "shape"),
        ({"probs": [[0.5, 0.5], [float("nan"), 0.5]]}, {"query_size": 1}, "probs is NaN"),
        ({"probs": [[0.5, 0.5], [1.5, -0.5]]}, {"query_size": 1}, "probs holds no probabilities in 1 of 2 rows"),
        ({"probs": [[0.5, 0.5], [0.9, 0.9]]}, {"query_size": 1}, "probs holds no probabilities in 1 of 2 rows"),
        ({"mc_probs": [[PROBS[0], [1.0, 1.0]]]}, {"query_size": 1}, "mc_probs holds no probabilities in 1 of 1 rows"),
        ({"probs": PROBS}, {"query_size": 1, "labeled": {"embedding": [[float("inf")]]}}, "embedding is NaN or infinite"),
    ],
)
def test_arrays_that_cannot_be_selected_from(pool, how, says):
    with pytest.raises(ValueError, match=says):
        deepal.select(Margin(), pool, **how)


def test_the_public_names():
    for name in deepal.__all__:
        assert getattr(deepal, name)
    with pytest.raises(AttributeError, match="Learnr"):
        _ = deepal.Learnr
    assert strategies.BADGE is BADGE
    assert Learner is deepal.Learner
    assert FromDatasets.__doc__


class Untested(LightningModule):
    """Says probs, and cannot be tested."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64, 10))

    def probs(self, images):
        return torch.softmax(images.flatten(1) @ self.weight, 1)


def test_a_module_that_lacks_a_step_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="Untested has no training_step and no configure_optimizers and no test_step"):
        digits(tmp_path, strategy=Margin(), module=Untested, **SHORT).run()
    learner = digits(tmp_path, strategy=Margin(), module=Untested, name="by hand", **SHORT)
    learner.tell(learner.ask(), [0] * 20)
    assert len(learner.ask(Untested())) == 10


def test_nothing_reads_the_test_set_but_the_test(tmp_path):
    class Guard(Watcher):
        now = "begin"

        def phase(self, cycle, name, total):
            self.now = name

        def measured(self, result, results):
            self.now = "between cycles"

    guard, reads = Guard(), []

    class Guarded(TensorImages):
        def images(self, positions):
            reads.append(guard.now)
            return super().images(positions)

        def targets(self, positions):
            reads.append(guard.now)
            return super().targets(positions)

    class Watched(Digits):
        def load(self):
            images = super().load()
            return replace(images, test=Guarded(images.test.data, images.test.classes))

    for strategy in EVERY_STRATEGY:
        digits(tmp_path, strategy=strategy, data=Watched(epoch_steps=10), **SHORT).run([guard])
    assert set(reads) == {"test"}


def of_draws(**options):
    return Classifier(posterior=MCDropout(6), **options)


def test_both_parts_of_uncertainty_and_notes_are_written_with_what_was_asked(tmp_path):
    for strategy in (BatchBALD(keep=50, num_samples=100), BALD(), Margin(), Random()):  # those that read no draws, too
        learner = digits(tmp_path, strategy=strategy, module=of_draws, **SHORT)
        learner.run()
        rows = [row for row in book(learner).labels() if row["cycle"] == 0]
        assert all(0 <= row[part] <= math.log(10) for row in rows for part in ("aleatoric", "epistemic"))
        assert max(row["epistemic"] for row in rows) > 0
        if strategy == BALD():
            assert [row["epistemic"] for row in rows] == pytest.approx([row["score"] for row in rows], abs=1e-6)
        assert all(row["aleatoric"] is None for row in book(learner).labels() if row["cycle"] < 0)
        assert "aleatoric,epistemic" in (learner.folder / "labels.csv").read_text().splitlines()[0]
        notes = book(learner).notes(0)
        assert set(notes) == ({"information", "certified", "evaluated"} if "Batch" in repr(strategy) else set())
        (record,) = records.read(learner.folder)
        assert record.cycles[0]["notes"] == notes
        assert record.up_to(record.cycles[0]["labels"]).cycles[-1]["notes"] == {}  # where it ends, nothing is asked
    plain = digits(tmp_path, strategy=Margin(), **SHORT)
    plain.run()
    assert {row["epistemic"] for row in book(plain).labels()} == {None}


def test_models_are_tested_where_labels_pass_a_mark_and_trained_where_somebody_reads_them(tmp_path):
    for strategy, fitted in ((Margin(), [0, 1, 2, 3, 4]), (Random(), [0, 2, 4])):
        every = digits(tmp_path / "every", strategy=strategy, budget=60, trainer={"max_steps": 20})
        some = digits(tmp_path / "some", strategy=strategy, budget=60, trainer={"max_steps": 20}, test_every=20)
        whole, results = every.run(), some.run()
        assert [cycle for cycle, _ in book(some).fits()] == fitted
        assert ["test/accuracy" in each.metrics for each in results] == [True, False, True, False, True]
        for cycle in range(5):  # the path is the same, and so is what is measured
            assert book(some).asked(cycle) == book(every).asked(cycle)
            if results[cycle].metrics:
                assert results[cycle].metrics == whole[cycle].metrics
        assert load_model(some.folder).task.classes


def test_marks_are_passed_by_labels_whatever_cycle_asked_for_them(tmp_path):
    """A query that nobody answers passes no mark, and passes none again."""

    class Silent(DatasetOracle):
        def answer(self, questions, data, folder, seed):
            answers = super().answer(questions, data, folder, seed)
            cycle = {each.position: each.cycle for each in questions}
            return [Answer(each.position, None, "abstained") if cycle[each.position] == 2 else each for each in answers]

    run = digits(tmp_path, strategy=Margin(), oracle=Silent(), budget=60, trainer={"max_steps": 5}, test_every=20)
    results = run.run()
    assert [each.labels for each in results] == [20, 30, 40, 40, 50, 60]
    assert ["test/accuracy" in each.metrics for each in results] == [True, False, True, False, False, True]


def test_a_run_tests_its_first_and_its_last_model_whatever_the_marks(tmp_path):
    results = digits(tmp_path, strategy=Random(), budget=50, trainer={"max_steps": 5}, test_every=1000).run()
    assert ["test/accuracy" in each.metrics for each in results] == [True, False, False, True]
    (record,) = records.read(next(tmp_path.iterdir()))
    assert record.labels().tolist() == [20, 50]
    assert len(record.metric("test/accuracy")) == 2
    with pytest.raises(ValueError, match="test_every=0 must be at least 1"):
        digits(tmp_path, test_every=0).run()


def test_weights_count_for_less_the_more_labels_there_are(tmp_path):
    torch.manual_seed(0)
    module = Classifier(weight_penalty=2.5)
    module.configure_network(Task((1, 8, 8), tuple("abc"), (0.0,), (1.0,)))
    module.eval()
    batch = {"input": torch.rand(5, 1, 8, 8), "target": torch.tensor([0, 1, 2, 0, 1])}
    plain = torch.nn.functional.cross_entropy(module(batch["input"]), batch["target"])
    hidden = [module.network.features[i].weight for i in (1, 4)]
    for images in (20, 1000):
        expected = plain + 2.5 / images * sum(each.square().sum() for each in hidden)
        assert torch.allclose(module.loss(batch, images)[0], expected)
    seen = []

    class Recorded(Classifier):
        def loss(self, batch, images):
            seen.append(images)
            return super().loss(batch, images)

    digits(tmp_path, strategy=Random(), module=lambda: Recorded(weight_penalty=2.5), **SHORT).run()
    assert set(seen) == {20, 30}
