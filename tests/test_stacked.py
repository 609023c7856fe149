"""Stacked heads: the fits of many runs as one, and each comes out as by itself."""

import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from deepal import fingerprint, lockstep, stacked, weights
from deepal.data import Digits, RandomCrop
from deepal.leases import Leases
from deepal.ledger import Ledger
from deepal.modules import Classifier, Ensemble
from deepal.nn import MLP, Headed
from deepal.probes import Laplace
from deepal.strategies import Margin, QueryStrategy, Random
from deepal.strategies.base import Choice
from deepal.study import Study, StudyError
from tests import runs
from tests.runs import Outcome, digits, in_process

HEAD = partial(Classifier, frozen=True)
DEEPER = partial(HEAD, backbone=partial(Headed, of=MLP, hidden=[24], dropout=0.0), weight_penalty=0.01)
SCHEDULED = partial(
    HEAD, optimizer=partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=1e-3),
    scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=20),
)  # fmt: skip


def made(root, **changes):
    """Four runs of three cycles of heads on the features of a network that is not trained."""
    settings = {
        "strategies": [Random(), Margin()], "modules": [HEAD], "seeds": 2, "data": [Digits(epoch_steps=10, batch_size=16)],
        "trainer": {"max_steps": 65}, "budget": 40, "root": root, "stacked": True,
    }  # fmt: skip
    return Study(**{**settings, **changes})


def heads_of(study):
    """The trained weights of the last cycle of each run, by (seed, strategy, module)."""
    return {
        (each.seed, repr(each.strategy), fingerprint.digest(fingerprint.describe(each.module))): load_file(
            each.folder / "model.safetensors"
        )
        for each in study.runs.values()
    }


def queries_of(study):
    found = {}
    for each in study.runs.values():
        book = Ledger(each.folder / "ledger.sqlite")
        key = (each.seed, repr(each.strategy), fingerprint.digest(fingerprint.describe(each.module)))
        found[key] = [book.asked(cycle) for cycle in range(-1, len(book.results()))]
    return found


def fits_of(study):
    return [Ledger(each.folder / "ledger.sqlite").fits() for each in study.runs.values()]


@pytest.mark.parametrize(
    "module", [HEAD, DEEPER, pytest.param(SCHEDULED, marks=pytest.mark.slow)], ids=["linear", "hidden", "schedule"]
)
def test_stacked_runs_are_those_of_one_after_another(tmp_path, module):
    together, alone = (made(tmp_path / str(stack), modules=[module], stacked=stack) for stack in (True, False))
    for study in (together, alone):
        study.run()
    assert queries_of(together) == queries_of(alone)
    assert fits_of(together) == fits_of(alone)
    for key, one in heads_of(together).items():
        for name, weight in heads_of(alone)[key].items():
            assert torch.allclose(one[name], weight, atol=1e-5), (key, name)
    for one, two in zip(together.records(), alone.records(), strict=True):
        for here, there in zip(one.cycles, two.cycles, strict=True):
            assert here["metrics"] == pytest.approx(there["metrics"], abs=2e-4)


def test_a_run_is_the_same_whatever_runs_are_beside_it(tmp_path):
    """So that a killed one is the same again."""
    many, few = made(tmp_path / "many", seeds=4), made(tmp_path / "few", seeds=[3], strategies=[Margin()])
    many.run()
    few.run()
    ((key, lone),) = heads_of(few).items()
    for name, weight in lone.items():
        assert torch.equal(weight, heads_of(many)[key][name])
    learner = next(iter(few.runs.values()))
    by_itself = digits(
        tmp_path / "alone", strategy=Margin(), module=HEAD, data=Digits(epoch_steps=10, batch_size=16), seed=3,
        trainer={"max_steps": 65}, budget=40, stacked=True,
    )  # fmt: skip
    by_itself.run()
    assert Outcome.of(by_itself) == Outcome.of(learner)


def test_it_is_a_part_of_the_configuration(tmp_path):
    plain, stack = (digits(tmp_path, module=HEAD, stacked=each) for each in (False, True))
    assert plain.folder != stack.folder


def test_fits_that_are_unlike_are_stacks_of_their_own(tmp_path, monkeypatch):
    sizes, fit = [], stacked._fit
    monkeypatch.setattr(stacked, "_fit", lambda fits, orders: (sizes.append(len(fits)), fit(fits, orders))[1])
    made(tmp_path, modules=[HEAD, DEEPER, SCHEDULED], seeds=2, budget=30, ceiling=True).run()
    # heads of one shape have recipes of their own; ceilings see all images, and end with their first cycle
    assert sorted(sizes[:6]) == [2, 2, 2, 4, 4, 4]
    assert sorted(sizes[6:]) == [4, 4, 4]


def test_an_epoch_may_be_the_length_of_a_fit(tmp_path):
    data = [Digits(batch_size=8)]
    together, alone = (
        made(tmp_path / str(stack), data=data, trainer={"max_epochs": 7}, stacked=stack) for stack in (True, False)
    )
    for study in (together, alone):
        study.run()
    assert queries_of(together) == queries_of(alone)
    for key, one in heads_of(together).items():
        for name, weight in heads_of(alone)[key].items():
            assert torch.allclose(one[name], weight, atol=1e-5)


@pytest.mark.parametrize(
    "where",
    ["the fit", "some weights", *(pytest.param(each, marks=pytest.mark.slow) for each in ("a query", "the answers"))],
)
def test_a_study_that_is_killed_goes_on_to_the_same_queries(tmp_path, where):
    whole = made(tmp_path / "whole")
    whole.run()
    process = in_process(run_and_die, tmp_path / "killed", where)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    again = made(tmp_path / "killed")
    again.run()
    assert queries_of(again) == queries_of(whole)
    for key, one in heads_of(again).items():
        for name, weight in heads_of(whole)[key].items():
            assert torch.equal(one[name], weight)


def run_and_die(root, where):
    owner, name, turn = {
        "the fit": (stacked, "_fit", 2), "some weights": (weights, "save", 6), "a query": (Ledger, "ask", 3),
        "the answers": (Ledger, "answer", 7),
    }[where]  # fmt: skip
    runs.kill_at(owner, name, turn)
    made(root).run()


class Breaks(QueryStrategy):
    """Fails in its second query."""

    needs = {"pool": ("probs",)}

    def select(self, view, query_size, generator):
        if len(view.labeled) > 20:
            raise RuntimeError("it broke")
        return Choice(torch.arange(query_size))


def test_a_run_that_fails_stands_aside(tmp_path):
    study = made(tmp_path, strategies=[Breaks(), Margin()], seeds=2)
    with pytest.raises(StudyError, match="2 of 4 runs"):
        study.run()
    whole = made(tmp_path / "whole", strategies=[Margin()], seeds=2)
    whole.run()
    assert len(study.records()) == 2
    assert {key: each for key, each in queries_of(study).items() if "Margin" in key[1]} == queries_of(whole)


def test_a_fit_that_fails_stops_no_other(tmp_path):
    """Some of a stack alone, or a stack whose recipe cannot train as long."""
    short = partial(HEAD, scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=5))
    study = made(tmp_path, modules=[HEAD, short], strategies=[Random()])
    with pytest.raises(StudyError, match="2 of 4 runs"):
        study.run()
    assert len(study.records()) == 2
    assert len(list(study.folder.glob("*/failure.*.txt"))) == 2


def test_a_study_waits_for_runs_of_a_machine_that_may_be_gone(tmp_path, monkeypatch):
    study, looked = made(tmp_path, strategies=[Random()]), []
    folders = list(study.runs)
    made_lease = Leases._made

    def elsewhere(self, folder):
        return None if folder == folders[0] and not looked else made_lease(self, folder)

    monkeypatch.setattr(Leases, "_made", elsewhere)
    monkeypatch.setattr(Leases, "is_undecided", lambda self, folder: not looked)
    monkeypatch.setattr(lockstep.time, "sleep", lambda seconds: looked.append(seconds))
    study.run()
    assert looked == [2.0]
    assert len(study.records()) == 2


def test_every_run_has_a_layout_of_its_own_over_the_same_images(tmp_path):
    """Validation sets and pools differ by seed."""
    study = made(tmp_path, data=[Digits(epoch_steps=10, validation=30, pool_size=200)])
    study.run()
    asked = [{position for query in each for position in query} for each in queries_of(study).values()]
    assert all(len(each) == 40 for each in asked)
    assert len({frozenset(each) for each in asked}) == 4


def test_what_it_takes_is_shared_among_the_runs(tmp_path):
    study = made(tmp_path)
    study.run()
    for record in study.records():
        for each in record.times["cycles"]:
            assert 0 < each["seconds"]["fit"] < 2
            assert each["seconds"]["cpu"] >= each["seconds"]["test"] / 10


class Own(Classifier):
    """A user's, who may train it by anything."""


Own.__name__ = Own.__qualname__ = "Classifier"


def test_what_cannot_be_a_stack_is_refused_before_anything_is_asked(tmp_path):
    for changes, said in {
        "not frozen": ({"module": Classifier}, r"is for Classifier\(frozen=True\), and the module is Classifier"),
        "own class": ({"module": partial(Own, frozen=True)}, "is for Classifier"),
        "ensemble": ({"module": partial(Ensemble, HEAD)}, "the module is Ensemble"),
        "dropout": ({"module": partial(HEAD, backbone=partial(Headed, of=MLP))}, "without dropout"),
        "posterior": ({"module": partial(HEAD, posterior=Laplace())}, "without a posterior"),
        "optimizer": ({"module": partial(HEAD, optimizer=torch.optim.LBFGS)}, "LBFGS does not"),
        "options": ({"module": HEAD, "trainer": {"max_steps": 3, "gradient_clip_val": 1.0}}, "trainer.gradient_clip_val"),
        "endless": ({"module": HEAD, "trainer": {"max_epochs": -1}}, "needs an end"),
        "augmented": ({"module": HEAD, "data": Digits(augmentation=[RandomCrop(1)])}, "data.augmentation"),
    }.values():
        learner = digits(tmp_path, strategy=Margin(), stacked=True, **changes)
        with pytest.raises(ValueError, match=f"stacked=True .*{said}"):
            learner.run()
        assert not Ledger(learner.folder / "ledger.sqlite").asked(-1)
    with pytest.raises(ValueError, match="workers=2 must be 1"):
        made(tmp_path / "study").run(workers=2)
