"""What is recorded while a module trains: what it predicted, and what it forgot."""

import signal
from functools import partial
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torchmetrics.functional import auroc

from deepal import Learner, recorders
from deepal.data import AtRandom, Digits
from deepal.functional import dynamics
from deepal.ledger import Ledger
from deepal.modules import MAL, VAAL, Classifier, Ensemble, LossPrediction
from deepal.oracles import NoisyOracle
from deepal.recorders import ForgettingEvents, PredictionHistory
from deepal.report import ForgettingPictures
from deepal.run import Files
from deepal.strategies import LabelDispersion, Margin, PredictionFlips, Random, Stochastic
from deepal.weights import load_model
from tests import runs
from tests.runs import Outcome, digits, in_process

STEPS = {"max_steps": 60}  # six epochs


def recording(*callbacks):
    return {"trainer": {**STEPS, "callbacks": list(callbacks)}}


def book(learner):
    return Ledger(learner.folder / "ledger.sqlite")


def history_of(learner, cycle):
    return load_file(Files(learner.folder).recorded(cycle))["history"]


def predictions(learner, positions):
    """Of the last model, read in one pass."""
    model = load_model(learner.folder)
    images = model.task.normalize(learner.data._set.train.images(positions))
    return model.probs(images).argmax(1)


@pytest.mark.parametrize(("options", "times"), [({}, 6), ({"every": 2}, 3), ({"burn_in": 3}, 3), ({"follow": 30}, 6)])
def test_a_history_is_what_was_predicted_of_the_pool_after_each_epoch(tmp_path, options, times):
    learner = digits(tmp_path, strategy=Margin(), budget=30, **recording(PredictionHistory(**options)))
    (*_, last) = learner.run()
    history = history_of(learner, last.cycle)
    pool = torch.tensor(learner.data.pool.index)
    followed = (history != dynamics.UNSEEN).all(1).nonzero().squeeze(1)
    assert history.shape == (len(learner.data._set.train), times)
    assert ((history == dynamics.UNSEEN).any(1) == (history == dynamics.UNSEEN).all(1)).all()
    assert set(followed.tolist()) <= set(pool.tolist())
    assert len(followed) == options.get("follow", len(pool))
    assert torch.equal(history[followed, -1].long(), predictions(learner, followed))
    if times == 6:
        assert len(history[followed].unique(dim=1).T) > 1, "it learns"
    assert last.seconds["record"] > 0
    if "follow" in options:
        first = torch.tensor(learner.data.pool.index)[:30]
        assert not torch.equal(followed, first), "they are drawn"
        before = digits(tmp_path / "before", strategy=Random(), budget=20, **recording(PredictionHistory(**options)))
        before.run()
        assert not torch.equal(followed, (history_of(before, 0) != dynamics.UNSEEN).all(1).nonzero()[:, 0]), "anew"


def test_what_recording_takes_is_no_part_of_the_fit(tmp_path, monkeypatch):
    read = recorders.PredictionHistory.on_train_epoch_end

    def slowly(self, *arguments):
        before = self.seconds
        read(self, *arguments)
        self.seconds = before + 100.0

    monkeypatch.setattr(recorders.PredictionHistory, "on_train_epoch_end", slowly)
    (result,) = digits(tmp_path, strategy=Random(), budget=20, **recording(PredictionHistory())).run()
    assert result.seconds["record"] == 600.0
    assert result.seconds["fit"] < 0


def test_of_a_pool_of_which_a_part_is_seen_that_part_is_followed(tmp_path):
    learner = digits(
        tmp_path, strategy=LabelDispersion(), pool_subset=40, budget=40, test_every=10, **recording(PredictionHistory())
    )
    learner.run()
    for cycle in (0, 1):
        assert min(book(learner).scores(cycle)) >= 0, "all that was asked had been followed"
    assert int((history_of(learner, 2) != dynamics.UNSEEN).all(1).sum()) == 40


def test_recording_changes_nothing(tmp_path):
    plain = digits(tmp_path / "plain", strategy=Margin())
    recorded = digits(tmp_path / "recorded", strategy=Margin(), **recording(PredictionHistory(), ForgettingEvents()))
    plain.run(), recorded.run()
    assert Outcome.of(plain) == Outcome.of(recorded)


def test_what_is_asked_is_what_was_predicted_differently(tmp_path):
    same = {"data": Digits(epoch_steps=10, validation=0), **recording(PredictionHistory())}
    learner = digits(tmp_path, strategy=LabelDispersion(), budget=30, **same)
    learner.run()
    alike = digits(tmp_path / "again", strategy=Random(), budget=20, **same)
    alike.run()  # trained as the first cycle of the other, whose record is gone
    dispersion = dynamics.label_dispersion(history_of(alike, 0))
    assert book(learner).scores(0) == dispersion.sort(descending=True).values[:10].tolist()
    assert torch.equal(dispersion[book(learner).asked(0)], torch.tensor(book(learner).scores(0)))
    assert book(learner).scores(0)[0] > 0


def killed_and_taken_up(root, places, changes):
    for where, turn in places:
        process = in_process(runs.run_and_die, root, where, turn, changes)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, "it died where it should"
    runs.run(root, changes)
    return digits(root, **changes)


@pytest.mark.parametrize(
    "places",
    [
        [("mid-fit", 35), ("mid-fit", 71)],
        [("between fit and its weights", 1), ("after a checkpoint", 3)],
        [("between weights and test", 2), ("between test and scan", 1)],
    ],
    ids=str,
)
def test_a_killed_fit_goes_on_with_its_records(tmp_path, places):
    changes = {
        "strategy": LabelDispersion(), "oracle": NoisyOracle(0.1), **recording(PredictionHistory(), ForgettingEvents()),
    }  # fmt: skip
    whole = digits(tmp_path / "whole", **changes)
    whole.run()
    killed = killed_and_taken_up(tmp_path / "killed", places, changes)
    assert Outcome.of(killed) == Outcome.of(whole)
    for cycle in range(4):
        assert book(killed).forgetting(cycle) == book(whole).forgetting(cycle) != []
    recorded, expected = (load_file(Files(each.folder).recorded(3)) for each in (killed, whole))
    assert all(torch.equal(recorded[name], expected[name]) for name in expected)


def test_forgetting_is_what_the_batches_of_training_showed(tmp_path, monkeypatch):
    shown, step = [], Classifier.training_step

    def watched(self, batch, batch_idx):
        made = step(self, batch, batch_idx)
        shown.extend(zip(batch["position"].tolist(), made["correct"].tolist(), strict=True))
        return made

    monkeypatch.setattr(Classifier, "training_step", watched)
    learner = digits(
        tmp_path, strategy=Random(), budget=20, data=Digits(epoch_steps=7, batch_size=8), **recording(ForgettingEvents())
    )
    learner.run()
    rows = book(learner).forgetting(0)
    assert len(rows) == 20
    for row in rows:
        seen = [correct for position, correct in shown if position == row["position"]]
        events = sum(before and not after for before, after in pairwise(seen))
        assert row["shown"] == len(seen) > 0
        assert row["learned"] == any(seen)
        assert row["events"] == (events if any(seen) else len(seen))
    assert [row["events"] for row in rows] == sorted((row["events"] for row in rows), reverse=True)
    table = (learner.folder / "forgetting.csv").read_text().splitlines()
    assert table[0] == "id,label,events,shown,learned,wrong,position"
    assert len(table) == 21


def test_labels_that_are_wrong_are_forgotten_more_often(tmp_path):
    """One in ten, among 800 digits."""
    learner = Learner(
        strategy=Random(),
        module=Classifier(optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9)), data=Digits(validation=0),
        oracle=NoisyOracle(0.1), initial=AtRandom(800), budget=800,
        trainer={"max_epochs": 20, "callbacks": [ForgettingEvents()]}, root=tmp_path,
    )  # fmt: skip
    learner.run()
    rows = book(learner).forgetting(0)
    events, wrong = (torch.tensor([float(row[name]) for row in rows]) for name in ("events", "wrong"))
    assert 50 < wrong.sum() < 110
    assert auroc(events, wrong.long(), task="binary") >= 0.75


def test_what_was_not_shown_was_not_forgotten(tmp_path):
    """A cycle without a fit, of a model that nobody reads; and a fit of one step, in which some images have no turn."""
    learner = digits(tmp_path, strategy=Random(), test_every=40, budget=40, **recording(ForgettingEvents()))
    learner.run()
    assert [len(book(learner).forgetting(cycle)) for cycle in range(3)] == [20, 0, 40]
    short = {"trainer": {"max_steps": 1, "callbacks": [ForgettingEvents()]}, "data": Digits(batch_size=8)}
    learner = digits(tmp_path / "short", strategy=Random(), budget=20, **short)
    learner.run()
    assert [row["shown"] for row in book(learner).forgetting(0)] == [1] * 8


@pytest.mark.parametrize("module", [partial(VAAL, width=8), MAL, LossPrediction])
def test_modules_that_learn_beside_a_classifier_say_what_it_has_right(tmp_path, module):
    learner = digits(tmp_path, module=module, strategy=Random(), budget=20, **recording(ForgettingEvents()))
    learner.run()
    rows = book(learner).forgetting(0)
    assert {row["position"] for row in rows} == set(learner.data.pool.labeled)
    assert {row["shown"] for row in rows} == {60}
    assert sum(row["learned"] for row in rows) > 10


class Silent(Classifier):
    """Trains like a Classifier, and does not say what it has right."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)["loss"]


def test_what_cannot_be_recorded_is_refused_with_its_cure(tmp_path):
    for number, module in enumerate((Silent, Ensemble)):
        learner = digits(tmp_path / str(number), module=module, strategy=Random(), **recording(ForgettingEvents()))
        with pytest.raises(ValueError, match=f"{module.__name__} does not say it: return"):
            learner.run()
    for strategy in (LabelDispersion(), PredictionFlips()):
        with pytest.raises(ValueError, match=r"needs history, .*trainer.callbacks=\[PredictionHistory\(\)\]"):
            digits(tmp_path / "none", strategy=strategy).run()
    with pytest.raises(ValueError, match="every=0"):
        PredictionHistory(every=0)
    for options in ({"burn_in": 4}, {"every": 4}):  # six epochs
        with pytest.raises(ValueError, match=r"three times at least, and a fit with all of the budget is 6 epochs"):
            digits(tmp_path / "short", strategy=Random(), **recording(PredictionHistory(**options))).run()
    with pytest.raises(ValueError, match=r"PredictionHistory\(follow=9\) leaves a part of query_size=10 to chance"):
        digits(tmp_path / "few", strategy=Random(), **recording(PredictionHistory(follow=9))).run()
    assert not (tmp_path / "short").exists() or not any((tmp_path / "short").rglob("*.safetensors"))


def test_a_draw_by_what_was_recorded(tmp_path):
    learner = digits(
        tmp_path, strategy=Stochastic(LabelDispersion()), budget=30, **recording(PredictionHistory(follow=600))
    )
    assert [each.labels for each in learner.run()] == [20, 30]
    assert min(book(learner).scores(0)) > 0


class Mute(LightningModule):
    """Trains, and says nothing of an image."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch["input"].flatten(1)), batch["target"])

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_a_module_that_does_not_say_what_is_recorded_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"PredictionHistory asks probs of Mute, which cannot say it"):
        digits(tmp_path, module=Mute, strategy=Random(), **recording(PredictionHistory())).run()


def test_a_picture_that_a_kill_has_cost_is_drawn_when_the_run_goes_on(tmp_path):
    learner = digits(tmp_path, strategy=Random(), budget=20, **recording(ForgettingEvents()))
    learner.run()  # without anybody who draws
    learner.run([ForgettingPictures()])
    assert [each.name for each in (learner.folder / "forgetting").iterdir()] == ["000.png"]


def test_before_anything_was_trained_chance_decides(tmp_path):
    learner = digits(tmp_path, strategy=LabelDispersion(), initial=AtRandom(0), budget=20, **recording(PredictionHistory()))
    assert [each.labels for each in learner.run()] == [0, 10, 20]
    assert all(each < 0 for each in book(learner).scores(0))
