"""Rules for stopping: each says its reason where it should and not before, and a run keeps to it, killed or not."""

import json
import signal
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from deepal import records
from deepal.data import Digits
from deepal.entries import COMPARED, Predictions, Result
from deepal.functional import uncertainty
from deepal.functional.agreement import cohen_kappa
from deepal.ledger import Ledger
from deepal.modules import Classifier, SimCLR
from deepal.ranks import Ranks
from deepal.report import Display
from deepal.stopping import (
    Around,
    NoImprovement,
    OverallUncertainty,
    StablePredictions,
    StoppingRule,
    TargetMetric,
    first_reason,
)
from deepal.strategies import Entropy, Margin, Random
from deepal.weights import load_model
from tests import runs
from tests.runs import Outcome, digits, in_process

NOTHING = Predictions()


def measured(**values):
    """Results of cycles with these values of one metric."""
    ((name, each),) = values.items()
    key = {"val": "val/accuracy", "loss": "val/nll", "entropy": "pool/uncertainty", "kappa": "pool/agreement"}[name]
    metrics = [{} if value is None else {key: value} for value in each]
    return [Result(cycle, 10 * cycle, 10 * cycle, 0, of, {}) for cycle, of in enumerate(metrics)]


def first_stop(rule, results):
    """The cycle after which it stops; None where it goes on."""
    return next((i for i in range(len(results)) if rule.reason(results[: i + 1])), None)


def test_each_rule_stops_where_its_definition_says():
    assert first_stop(TargetMetric(0.9), measured(val=[0.5, 0.89, 0.9, 0.95])) == 2
    assert first_stop(TargetMetric(0.3, "val/nll", "min"), measured(loss=[0.9, 0.4, 0.3])) == 2
    assert first_stop(TargetMetric(0.9), measured(val=[0.5, None, 0.6])) is None
    assert first_stop(NoImprovement(2), measured(val=[0.5, 0.6, 0.6, 0.55, 0.7])) == 3
    assert first_stop(NoImprovement(2, by=0.05), measured(val=[0.5, 0.54, 0.55, 0.8])) == 2
    assert first_stop(NoImprovement(3), measured(val=[0.5, 0.6, 0.6, 0.55, 0.7, 0.7])) is None
    assert first_stop(NoImprovement(1, metric="val/nll", mode="min"), measured(loss=[0.5, 0.4, 0.3, 0.3])) == 3
    assert first_stop(OverallUncertainty(0.1), measured(entropy=[2.0, 0.1, 0.09])) == 2
    assert first_stop(StablePredictions(0.9, 2), measured(kappa=[None, 0.5, 0.95, 0.8, 1.0, 1])) == 4
    assert first_stop(StablePredictions(0.9, 3), measured(kappa=[None, 0.95, 0.95])) is None


def test_what_is_no_number_is_no_reason():
    nan = float("nan")
    assert first_stop(TargetMetric(0.3, "val/nll", "min"), measured(loss=[nan, nan])) is None
    assert first_stop(TargetMetric(0.9), measured(val=[nan])) is None
    assert first_stop(OverallUncertainty(0.1), measured(entropy=[nan])) is None
    assert first_stop(StablePredictions(0.5, 1), measured(kappa=[None, nan])) is None
    assert first_stop(NoImprovement(2, metric="val/nll", mode="min"), measured(loss=[1, nan, 0.5])) is None


def test_the_first_rule_that_has_a_reason_is_told():
    results = measured(val=[0.9])
    assert first_reason([NoImprovement(1), TargetMetric(0.8)], results).startswith("val/accuracy has come to 0.9")
    assert first_reason([TargetMetric(0.95)], results) is None
    assert first_reason([TargetMetric(0.5)], []) is None


def test_what_is_watched_is_nearly_the_same_where_images_are_gone():
    read = []

    def probs(positions):
        read.append(set(positions.tolist()))
        return torch.eye(3)[positions % 3]

    def around(first, before=NOTHING):
        return Around(torch.empty(0, dtype=torch.long), first, 7, probs, before)

    rule = StablePredictions(size=100)
    metrics, kept = rule.measure(around(torch.arange(1000)))
    assert metrics == {}
    assert kept.positions == tuple(sorted(read[0]))
    assert len(read[0]) == 100
    wrong = Predictions(kept.positions, tuple((each + 1) % 3 if i < 30 else each for i, each in enumerate(kept.classes)))
    gone = torch.tensor([position for position in range(1000) if position % 50])
    metrics, again = rule.measure(around(gone, wrong))
    assert len(read[0] & read[1]) >= 94
    both = sorted(read[0] & read[1])
    then = dict(zip(*wrong, strict=True))
    expected = cohen_kappa(torch.tensor([then[each] for each in both]), torch.tensor(both) % 3)
    assert metrics["pool/agreement"] == pytest.approx(expected)
    assert len(again.positions) == 100


def test_an_empty_pool_says_nothing_of_its_uncertainty():
    around = Around(torch.empty(0, dtype=torch.long), torch.arange(3), 0, lambda positions: 1 / 0, Predictions())
    assert OverallUncertainty().measure(around).metrics == {}


# In a run

DATA = {"epoch_steps": 10, "validation": 20}


def stopped(root, rule, **changes):
    made = digits(root, **{"strategy": Margin(), "data": Digits(**DATA), "budget": 60, **changes}, stop=[rule])
    results = made.run()
    return made, results, Ledger(made.folder / "ledger.sqlite")


@dataclass(frozen=True)
class After(StoppingRule):
    """Stops after so many cycles."""

    cycles: int

    def reason(self, results):
        return "they are enough" if len(results) >= self.cycles else None


def test_a_run_stops_asks_nothing_more_and_says_why(tmp_path, capsys):
    learner, results, book = stopped(tmp_path, After(3))
    assert [each.labels for each in results] == [20, 30, 40]
    assert book.asked(2) == []
    assert book.stopped() == (2, "they are enough")
    record = json.loads((learner.folder / "run.json").read_text())["runs"][0]
    assert (record["stopped"], record["finished"]) == ("they are enough", True)
    assert load_model(learner.folder).probs(torch.rand(1, 1, 8, 8)).shape == (1, 10)
    learner.run([Display()])
    assert "stops before its budget: they are enough" in capsys.readouterr().out
    assert len(book.fits()) == 3, "a run that has stopped is left alone"


def test_the_record_of_a_run_that_has_gone_on_says_nothing_of_where_it_had_stopped(tmp_path):
    learner, _, book = stopped(tmp_path, After(2))
    assert records.of_ledger(book, 50).stopped == "they are enough"
    again = digits(tmp_path, strategy=Margin(), data=Digits(**DATA), budget=60)
    again.ask()
    record = records.of_ledger(Ledger(again.folder / "ledger.sqlite"), 60)
    assert again.folder == learner.folder
    assert (record.finished, record.stopped) == (False, "")


def test_processes_have_to_agree_on_what_they_stop_by(tmp_path, monkeypatch):
    """Each measures its share of the validation images."""

    def each(ranks, value):
        return [value, {name: 0.5 if name.startswith("val") else measured for name, measured in value.items()}]

    monkeypatch.setattr(Ranks, "each", each)
    with pytest.raises(ValueError, match=r"val/\S+ is .* in 2 processes, each of which measures its share"):
        digits(tmp_path, strategy=Margin(), data=Digits(**DATA), stop=[TargetMetric(0.99)], test_every=100).run()


def test_a_spent_budget_is_a_reason_too(tmp_path):
    _, results, book = stopped(tmp_path, After(99), budget=30)
    assert len(results) == 2
    assert book.stopped() == (1, "the budget is spent")


def test_it_goes_on_as_if_it_had_never_stopped_where_the_rule_changes(tmp_path):
    stopped(tmp_path, After(2))
    again, _, _ = stopped(tmp_path, After(4))
    whole, _, _ = stopped(tmp_path / "whole", After(4))
    assert again.folder.name == whole.folder.name, "rules are not what a run is made of"
    assert Outcome.of(again) == Outcome.of(whole)
    unruled = digits(tmp_path, strategy=Margin(), data=Digits(**DATA), budget=60)
    assert [each.labels for each in unruled.run()] == [20, 30, 40, 50, 60]


def test_rules_change_nothing_but_the_end(tmp_path):
    """They read with coins of their own."""
    rules = [NoImprovement(99), OverallUncertainty(0.0), StablePredictions(1.0, 99), TargetMetric(1.01)]
    ruled = digits(tmp_path / "ruled", strategy=Margin(), data=Digits(**DATA), stop=rules)
    free = digits(tmp_path / "free", strategy=Margin(), data=Digits(**DATA))
    for learner in (ruled, free):
        learner.run()
    one, two = Outcome.of(ruled), Outcome.of(free)
    assert (one.queries, one.labels, one.weights) == (two.queries, two.labels, two.weights)
    extra = {"pool/uncertainty", "pool/agreement"}
    for cycle, (after, before) in enumerate(zip(one.results, two.results, strict=True)):
        metrics = {name: value for name, value in after[3].items() if not name.startswith(("val/", "pool/"))}
        assert metrics == before[3]
        assert set(after[3]) & extra == (extra if cycle else {"pool/uncertainty"})
        assert "val/accuracy" in after[3]


def test_what_it_measures_is_what_it_says(tmp_path):
    learner, results, book = stopped(tmp_path, StablePredictions(size=50), budget=30)
    data = learner.data
    module = load_model(learner.folder)
    kept = book.predictions(1, COMPARED)
    images = module.task.normalize(torch.stack([data._set.train.data[position] for position in kept.positions]))
    with torch.no_grad():
        assert module.probs(images).argmax(1).tolist() == list(kept.classes)
    before = book.predictions(0, COMPARED)
    assert before.positions == kept.positions
    expected = cohen_kappa(torch.tensor(before.classes), torch.tensor(kept.classes))
    assert results[1].metrics["pool/agreement"] == pytest.approx(expected)
    learner, results, book = stopped(tmp_path, OverallUncertainty(0.0), name="overall", budget=20)
    module, data = load_model(learner.folder), learner.data
    images = module.task.normalize(torch.stack([data._set.train.data[position] for position in data.pool.index]))
    with torch.no_grad():
        entropy = uncertainty.entropy(module.probs(images)).mean()
    assert results[0].metrics["pool/uncertainty"] == pytest.approx(float(entropy), rel=1e-5)


@pytest.mark.parametrize("rule", [OverallUncertainty(2.0), StablePredictions(0.3, 2), TargetMetric(0.5), NoImprovement(1)])
def test_a_killed_run_stops_where_it_would_have(tmp_path, rule):
    changes = {"strategy": Entropy(), "budget": 100, "stop": [rule]}
    whole = digits(tmp_path / "whole", data=Digits(**DATA), **changes)
    results = whole.run()
    assert 1 <= len(results) < 9, "it stops before the budget"
    for where, turn in (("before the intent", 1), ("mid-scan", 2), ("after the intent", len(results))):
        process = in_process(runs.run_and_die, tmp_path, where, turn, {**changes, "data": Digits(**DATA)})
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
    again = digits(tmp_path, data=Digits(**DATA), **changes)
    again.run()
    assert Outcome.of(again) == Outcome.of(whole)
    books = [Ledger(each.folder / "ledger.sqlite") for each in (again, whole)]
    assert books[0].stopped() == books[1].stopped()


def test_a_model_is_trained_for_a_rule_that_wants_it(tmp_path):
    _, results, _ = stopped(tmp_path, OverallUncertainty(0.0), strategy=Random(), test_every=10**6, budget=40)
    assert all("pool/uncertainty" in each.metrics for each in results)
    assert [each.is_tested for each in results] == [True, False, True]


def test_the_model_with_which_a_run_stops_is_tested(tmp_path):
    _, results, _ = stopped(tmp_path, After(3), test_every=10**6)
    assert [each.is_tested for each in results] == [True, False, True]


@pytest.mark.parametrize("changes", [{"stop": [After(1)]}, {"budget": 20}], ids=["a rule", "a smaller budget"])
def test_a_frozen_model_is_whole_whatever_made_it_the_last(tmp_path, changes):
    """Its file was written when the run was to go on, and the network that gives the features is trained by no fit."""
    settings = {
        "strategy": Margin(), "module": partial(Classifier, frozen=True), "pretext": SimCLR(steps=5, batch_size=16),
        "budget": 60,
    }  # fmt: skip
    process = in_process(runs.run_and_die, tmp_path, "between weights and test", 1, {**settings, "data": Digits(**DATA)})
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ValueError, match="and not the network that gives the features"):
        load_model(next(tmp_path.glob("*/cycles/000/weights.safetensors")))
    learner = digits(tmp_path, data=Digits(**DATA), **{**settings, **changes})
    (result,) = learner.run()
    module, data = load_model(learner.folder), learner.data
    images = module.task.normalize(torch.stack([data._set.test.data[at] for at in data.test_positions]))
    with torch.no_grad():
        right = module.probs(images).argmax(1) == data._set.test.classes[data.test_positions]
    assert float(right.float().mean()) == pytest.approx(result.metrics["test/accuracy"], abs=1e-6)


class Logging(Classifier):
    """Logs what it validates by a name of its own."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        right = self(batch["input"]).argmax(1) == batch["target"]
        self.log("val_acc", right.float().mean(), batch_size=len(right))


def test_a_metric_that_is_not_measured_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"reads val/acc, which is not measured; measured are .*val/val_acc"):
        digits(tmp_path, module=Logging, data=Digits(**DATA), stop=[TargetMetric(0.0, "val/acc")]).run()
    again = digits(tmp_path, module=Logging, data=Digits(**DATA), stop=[TargetMetric(0.0, "val/val_acc")])
    (result,) = again.run()
    assert Ledger(again.folder / "ledger.sqlite").fits() == [(0, 0)], "what was trained is not trained again"
    assert "val/val_acc" in result.metrics


class Sites(Classifier):
    """Says labels, of which several may be right."""

    def probs(self, images):
        return torch.stack([super().probs(images)] * 2, 1)

    def say(self, images, names):
        return {name: getattr(self, name)(images) for name in names}

    def validation_step(self, batch, batch_idx):
        return None

    test_step = validation_step


def test_predictions_of_sites_are_not_compared(tmp_path):
    learner = digits(tmp_path, strategy=Random(), module=Sites, data=Digits(**DATA), stop=[StablePredictions()])
    with pytest.raises(ValueError, match="compares one class an image"):
        learner.run()
    assert not Ledger(learner.folder / "ledger.sqlite").fits()


def test_ask_ends_where_a_rule_says_so(tmp_path):
    learner = digits(tmp_path, strategy=Margin(), data=Digits(**DATA), stop=[After(1)])
    learner.run()
    assert learner.ask() == []


def test_a_metric_in_single_precision_is_the_number_that_was_meant():
    """18 of 20 is stored as 0.8999999761581421."""
    stored = [float(torch.tensor(each, dtype=torch.float32)) for each in (0.85, 0.9)]
    assert first_stop(TargetMetric(0.9), measured(val=stored)) == 1
    assert first_stop(TargetMetric(0.3, "val/nll", "min"), measured(loss=[0.4, float(torch.tensor(0.3))])) == 1
    assert first_stop(TargetMetric(0.9), measured(val=[0.89999])) is None
    steps = [float(torch.tensor(each, dtype=torch.float32)) for each in (0.5, 0.55)]
    assert first_stop(NoImprovement(1, by=0.05), measured(val=steps)) == 1, "by so much is not by more"


@dataclass(frozen=True)
class Unnamed(StoppingRule):
    """Reads a metric that it does not name."""

    def reason(self, results):
        return "high" if results[-1].metrics["val/accuracy"] > 2 else None


def test_a_rule_that_names_nothing_to_measure_is_told_to(tmp_path):
    with pytest.raises(ValueError, match=r"Unnamed\(\) reads 'val/accuracy', which cycle 0 has not .* in `validated`"):
        stopped(tmp_path, Unnamed())


def test_rules_that_come_late_are_told_what_they_do_not_know(tmp_path, caplog):
    plain = digits(tmp_path, strategy=Margin(), data=Digits(**DATA), budget=30)
    plain.run()
    caplog.clear()
    late, _, book = stopped(tmp_path, TargetMetric(0.01), budget=30)
    assert late.folder == plain.folder
    assert "measured without TargetMetric(value=0.01" in caplog.text
    assert book.stopped()[1] == "the budget is spent"


def test_at_the_end_of_the_budget_no_rule_has_stopped_anything(tmp_path, capsys):
    learner, _, book = stopped(tmp_path, After(2), budget=30)
    learner.run([Display()])
    assert "before its budget" not in capsys.readouterr().out
    assert book.stopped() == (1, "the budget is spent")


def test_what_could_never_stop_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of the validation set"):
        TargetMetric(0.9, "test/accuracy")
    with pytest.raises(ValueError, match="mode='most'"):
        NoImprovement(mode="most")
    nan = float("nan")
    for wrong in (
        lambda: NoImprovement(0), lambda: NoImprovement(1.5), lambda: NoImprovement(by=nan), lambda: OverallUncertainty(-1),
        lambda: OverallUncertainty(nan), lambda: StablePredictions(0.0), lambda: StablePredictions(window=1.5),
        lambda: TargetMetric(nan), lambda: TargetMetric("0.9"), lambda: TargetMetric(None),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"needs a|needs one|needs an"):
            wrong()
    with pytest.raises(ValueError, match="reads the validation set, and there is none"):
        digits(tmp_path, data=Digits(epoch_steps=10, validation=0), stop=[TargetMetric(0.9)]).run()
    with pytest.raises(ValueError, match=r"stop=TargetMetric\(.*\) must be a list"):
        digits(tmp_path, stop=TargetMetric(0.9))
    with pytest.raises(ValueError, match="holds StablePredictions twice"):
        digits(tmp_path, stop=[StablePredictions(), StablePredictions(size=5)]).run()
    with pytest.raises(ValueError, match="stop=StablePredictions is a class"):
        digits(tmp_path, stop=[StablePredictions])
