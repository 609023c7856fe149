"""Pseudo-labels: what is sure trains the next model, is never asked for at the same time, and is no label."""

import json
import signal
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.data import AtRandom, Digits, Given
from deepal.entries import PSEUDO_LABELS, Predictions, Query, Result
from deepal.functional import uncertainty
from deepal.ledger import Ledger
from deepal.modules import Classifier
from deepal.probes import Laplace
from deepal.signals import Signals
from deepal.strategies import (
    BADGE,
    CoreSet,
    Entropy,
    LeastConfidence,
    Margin,
    Mixture,
    Partition,
    Prefilter,
    PseudoLabels,
    Random,
    View,
)
from deepal.strategies.base import Choice, QueryStrategy, choose, select
from deepal.testing import StrictSource, made_up_signals, select_from
from tests import runs
from tests.runs import Outcome, digits, in_process

SURE = partial(PseudoLabels, threshold=1.0, decay=0.0)


def chosen(strategy, size=200, query_size=10, labeled=0):
    return select_from(strategy, made_up_signals(size, 3), query_size, labeled=labeled)


@given(st.floats(0, 1.4), st.floats(0, 1.4), st.sampled_from([Margin(), BADGE(), Random(), CoreSet()]))
def test_what_is_taken_is_below_the_threshold_and_not_asked_and_grows_with_it(one, two, of):
    low, high = (PseudoLabels(of, each, 0) for each in sorted((one, two)))
    signals = made_up_signals(200, 3)
    found = {}
    for strategy in (low, high):
        choice = chosen(strategy)
        rows, classes = choice.pseudo_labels or (torch.empty(0, dtype=torch.long),) * 2
        unasked = torch.ones(200, dtype=torch.bool).index_fill_(0, choice.rows, False)
        expected = ((uncertainty.entropy(signals["probs"]) < strategy.threshold) & unasked).nonzero().squeeze(1)
        assert torch.equal(rows, expected)
        assert torch.equal(classes, signals["probs"].argmax(1)[rows])
        found[strategy.threshold] = set(rows.tolist())
    assert found[low.threshold] <= found[high.threshold]


def test_a_threshold_of_zero_takes_nothing_not_even_of_what_is_certain():
    signals = {"probs": torch.eye(4)[torch.arange(40) % 4]}
    choice = choose(PseudoLabels(Random(), 0.0, 0.0), View(Signals.of(signals), Signals.of({})), 5, torch.Generator())
    assert choice.pseudo_labels is None
    assert choice.notes == {"pseudo-labels": 0.0, "threshold": 0.0}
    taken = choose(PseudoLabels(Random(), 1e-9, 0.0), View(Signals.of(signals), Signals.of({})), 5, torch.Generator())
    assert len(taken.pseudo_labels[0]) == 35


@pytest.mark.parametrize(
    "of", [Margin(), Entropy(), LeastConfidence(), Random(), BADGE(), Prefilter(Margin(), CoreSet(), keep=30)]
)
def test_what_is_asked_is_what_the_other_strategy_asks(of):
    alone = chosen(of)
    for threshold in (0.0, 0.5, 2.0):
        choice = chosen(PseudoLabels(of, threshold))
        assert torch.equal(choice.rows, alone.rows)
        assert (choice.scores is None) == (alone.scores is None)
        assert alone.scores is None or torch.equal(choice.scores, alone.scores)


def test_of_each_class_the_surest_are_taken():
    choice = chosen(PseudoLabels(Random(), 2.0, 0, max_per_class=4))
    signals = made_up_signals(200, 3)
    scores, classes = uncertainty.entropy(signals["probs"]), signals["probs"].argmax(1)
    rows, taken = choice.pseudo_labels
    assert rows.tolist() == sorted(rows.tolist())
    for number in range(4):
        there = [row for row in range(200) if classes[row] == number and row not in choice.rows]
        assert set(sorted(there, key=lambda row: scores[row])[:4]) == set(rows[taken == number].tolist())


def test_by_confidence_it_is_what_the_largest_probability_lacks():
    rows, _ = chosen(PseudoLabels(Random(), 0.05, 0, by="confidence")).pseudo_labels
    probs = made_up_signals(200, 3)["probs"][rows]
    assert len(rows)
    assert (probs.amax(1) > 0.95).all()


def test_the_threshold_falls_as_the_paper_has_it_and_never_below_zero():
    strategy = PseudoLabels(Margin(), 0.05, 0.0033)
    threshold = strategy.threshold
    for query in range(20):
        threshold -= strategy.decay * query  # from the one before
        assert strategy.threshold_after(query) == pytest.approx(max(0, threshold))
    assert strategy.threshold_after(19) == 0


def test_queries_are_counted_by_what_is_labeled():
    """A strategy has no state: a run that is taken up again goes on with the threshold that it had."""
    signals = Signals.of(made_up_signals(50, 1))
    for last, expected in ((-1, 0.5), (0, 0.4), (2, 0.0)):
        labeled = Signals.of({"cycle": torch.tensor([-1, last])})
        choice = choose(PseudoLabels(Margin(), 0.5, 0.1), View(signals, labeled), 5, torch.Generator())
        assert choice.notes["threshold"] == pytest.approx(expected)


def test_an_acquisition_and_the_pseudo_labels_read_the_pool_once():
    signals = made_up_signals(60, 0)
    source = StrictSource(signals, {"probs"}, 1000)
    view = View(Signals(torch.arange(60), source), Signals.of({}))
    choose(SURE(Margin()), view, 7, torch.Generator())
    assert source.passes == 1


def test_bad_values_are_refused():
    for wrong in (
        {"by": "margin"}, {"threshold": -0.1}, {"decay": -1.0}, {"max_per_class": 0}, {"threshold": float("nan")},
        {"threshold": 0.95, "by": "confidence"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="PseudoLabels"):
            PseudoLabels(Margin(), **wrong)
    sites = Signals.of({"probs": torch.full((20, 3, 2), 0.5)})
    with pytest.raises(ValueError, match="one class a sample"):
        choose(SURE(Random()), View(sites, Signals.of({})), 5, torch.Generator())


def test_inside_another_strategy_nobody_would_train_on_them():
    for made in (
        lambda: Prefilter(SURE(Margin()), CoreSet(), keep=20),
        lambda: Partition(SURE(Margin())),
        lambda: Mixture([SURE(Margin()), Margin()]),
        lambda: SURE(SURE(Margin())),
    ):
        with pytest.raises(ValueError, match=r"inside, where nobody trains on pseudo-labels; put PseudoLabels around"):
            made()


def test_a_strategy_that_gives_pseudo_labels_to_what_it_asks_is_refused():
    class Both(QueryStrategy):
        def select(self, view, query_size, generator):
            return Choice(torch.arange(query_size), pseudo_labels=(torch.tensor([0]), torch.tensor([0])))

    with pytest.raises(ValueError, match="that it asks people for"):
        choose(Both(), View(Signals.of(made_up_signals(9, 0)), Signals.of({})), 2, torch.Generator())


# In a run

DATA = {"epoch_steps": 10, "validation": 0}


def seen(root, strategy, **changes):
    """A run, and what each of its fits was given: positions and targets."""
    fits = []

    class Watched(Digits):
        def train_dataloader(self):
            fits.append(self.pool.trained)
            return super().train_dataloader()

    learner = digits(root, strategy=strategy, data=Watched(**{**DATA, **changes.pop("data", {})}), **changes)
    learner.run()
    return learner, fits


def test_they_train_for_one_cycle_and_are_no_labels(tmp_path):
    learner, fits = seen(tmp_path, SURE(Margin(), max_per_class=30))
    book, data = Ledger(learner.folder / "ledger.sqlite"), learner.data
    asked = [book.asked(cycle) for cycle in range(-1, 4)]
    for cycle, (positions, targets) in enumerate(fits):
        labeled = [position for query in asked[: cycle + 1] for position in query]
        pseudo = book.predictions(cycle - 1, PSEUDO_LABELS)
        assert positions == [*labeled, *pseudo.positions]
        assert targets[len(labeled) :] == list(pseudo.classes)
        assert not set(pseudo.positions) & {position for query in asked[: cycle + 1] for position in query}
        result = book.result(cycle)
        assert result.labels == len(labeled), "they are not counted"
        assert result.metrics.get("labels/pseudo", 0) == len(pseudo.positions)
        if cycle:
            assert len(pseudo.positions) > 20
            right = [data.true_label(at) == data.classes[of] for at, of in zip(*pseudo, strict=True)]
            assert result.metrics["labels/pseudo_accuracy"] == pytest.approx(sum(right) / len(right))
            assert len(set(pseudo.classes)) > 2
    assert len(fits) == 4
    again = set(book.predictions(0, PSEUDO_LABELS).positions) & set(book.predictions(1, PSEUDO_LABELS).positions)
    assert again, "they went back to the pool"
    assert book.notes(1)["pseudo-labels"] == len(book.predictions(1, PSEUDO_LABELS).positions)
    assert len(book.answers(before=99)) == 50
    assert not set(book.predictions(3, PSEUDO_LABELS).positions), (
        "the last cycle asks nothing, and nobody trains on what it would say"
    )
    record = json.loads((learner.folder / "run.json").read_text())["runs"][0]
    assert record["cycles"][1]["metrics"]["labels/pseudo"] == len(book.predictions(0, PSEUDO_LABELS).positions)


def test_ceal_with_a_threshold_of_zero_is_its_base_strategy_bit_for_bit(tmp_path):
    base = digits(tmp_path, strategy=LeastConfidence())
    base.run()
    for zero in (PseudoLabels(LeastConfidence(), 0.0), PseudoLabels(LeastConfidence(), 0.0, 5.0, "confidence", 3)):
        ceal = digits(tmp_path, strategy=zero)
        ceal.run()
        assert Outcome.of(ceal) == Outcome.of(base)
    other = digits(tmp_path, strategy=PseudoLabels(LeastConfidence(), 1.0, 0.0))
    other.run()
    assert Outcome.of(other).queries[:2] == Outcome.of(base).queries[:2], "the first model has seen labels alone"
    assert Outcome.of(other).weights != Outcome.of(base).weights


@pytest.mark.parametrize(
    ("where", "turns"),
    [("mid-fit", (95, 40)), ("after the intent", (2, 1)), ("mid-checkpoint", (5, 4)), ("mid-scan", (7, 3))],
)
def test_a_run_killed_with_pseudo_labels_in_hand_is_the_run_that_nobody_killed(tmp_path, where, turns):
    changes = {"strategy": SURE(BADGE())}
    whole = digits(tmp_path / "whole", **changes)
    whole.run()
    for turn in turns:
        process = in_process(runs.run_and_die, tmp_path, where, turn, changes)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    again = digits(tmp_path, **changes)
    again.run()
    assert Ledger(again.folder / "ledger.sqlite").predictions(2, PSEUDO_LABELS).positions
    assert Outcome.of(again) == Outcome.of(whole)


def test_a_larger_budget_takes_them_up_where_the_run_had_ended(tmp_path):
    whole = digits(tmp_path / "whole", strategy=SURE(Margin()), data=Digits(**DATA))
    whole.run()
    for budget in (30, 50):
        grown = digits(tmp_path, strategy=SURE(Margin()), data=Digits(**DATA), budget=budget)
        grown.run()
    assert Outcome.of(grown).queries == Outcome.of(whole).queries
    assert Outcome.of(grown).results == Outcome.of(whole).results


def test_what_somebody_labels_in_the_meantime_is_trained_on_with_that_label(tmp_path):
    """And what is open is neither asked nor trained on."""
    learner = digits(tmp_path, strategy=SURE(Margin(), threshold=2.0), data=Digits(**DATA), initial=Given([0, 1, 2, 3]))
    learner.tell([0, 1, 2, 3], [0, 1, 2, 3])
    asked = learner.ask()
    book = Ledger(learner.folder / "ledger.sqlite")
    taken = book.predictions(0, PSEUDO_LABELS)
    assert not set(asked) & set(taken.positions)
    assert len(taken.positions) > 1000
    learner.tell(asked[:5], [7] * 5)
    learner.tell(asked[5:], [None] * 5)
    learner.ask()
    pool = learner.data.pool
    assert pool.labeled == [0, 1, 2, 3, *asked[:5]]
    assert pool.pseudo_labeled == list(taken.positions)
    assert not set(asked) & set(pool.pseudo_labeled)


@pytest.mark.parametrize("answers", [1, 2])
def test_a_label_that_is_corrected_in_the_end_makes_one_model_more(tmp_path, answers):
    """Which is trained on the same pseudo-labels as the one before, and is the last."""
    learner = digits(tmp_path, strategy=SURE(Margin(), threshold=2.0), data=Digits(**DATA), budget=30)
    learner.run()
    book = Ledger(learner.folder / "ledger.sqlite")
    position = book.asked(0)[0]
    for answer in range(answers):
        learner.tell([position], [answer])
    learner.run()
    counts = [each.metrics.get("labels/pseudo") for each in book.results()]
    assert len(counts) == 3
    assert counts[1] == counts[2] == len(book.predictions(0, PSEUDO_LABELS).positions) > 100
    assert len(learner.run()) == 3


def test_a_module_of_somebody_else_is_not_said_to_have_trained_on_them(tmp_path):
    learner = digits(tmp_path, strategy=SURE(Margin()), data=Digits(**DATA))
    with pytest.raises(ValueError, match=r"ask\(module\) chooses by a module of yours"):
        learner.ask(Classifier())


def test_without_a_run_there_is_nobody_to_train_on_them():
    signals = made_up_signals(20, 0)
    with pytest.raises(ValueError, match="is for runs"):
        select(SURE(Margin()), {"probs": signals["probs"]}, query_size=2)


def test_a_strategy_that_reads_nothing_trains_for_them(tmp_path):
    _, fits = seen(tmp_path, SURE(Random()), test_every=10**6, initial=AtRandom(20))
    assert [len(positions) > 20 + 10 * cycle for cycle, (positions, _) in enumerate(fits)] == [False, True, True, True]


def test_a_posterior_around_the_last_layer_sees_what_the_network_was_trained_on(tmp_path, monkeypatch):
    read, serve = [], Digits.scan_dataloader

    def watched(self, positions, *rest):
        read.append(set(positions.tolist()))
        return serve(self, positions, *rest)

    monkeypatch.setattr(Digits, "scan_dataloader", watched)
    module = partial(Classifier, posterior=Laplace())
    learner = digits(tmp_path, strategy=SURE(Margin()), module=module, data=Digits(**DATA), budget=30)
    learner.run()
    assert {*learner.data.pool.trained[0]} in read
    assert len(learner.data.pool.pseudo_labeled) > 20


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 999)), unique_by=lambda pair: pair[0]))
def test_the_ledger_gives_them_back(tmp_path_factory, pairs):
    book = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
    book.declare({"name": "a run"}, Query((3, 1)))
    positions, classes = tuple(zip(*sorted(pairs), strict=True)) or ((), ())
    said = Predictions(tuple(positions), tuple(classes))
    book.ask(0, Query((5,), predictions={PSEUDO_LABELS: said}), Result(0, 2, 2, 0, {}, {}))
    assert book.predictions(0, PSEUDO_LABELS) == said
    assert book.predictions(-1, PSEUDO_LABELS) == book.predictions(1, PSEUDO_LABELS) == Predictions()
    book.close()


def test_a_million_of_them_take_little_room(tmp_path):
    book = Ledger(tmp_path / "ledger.sqlite")
    book.declare({"name": "a run"}, Query((3, 1)))
    coins = torch.Generator().manual_seed(0)
    rows = (torch.rand(1_281_167, generator=coins) < 0.8).nonzero().squeeze(1)
    said = Predictions(tuple(rows.tolist()), tuple(torch.randint(1000, rows.shape, generator=coins).tolist()))
    book.ask(0, Query((1_300_000,), predictions={PSEUDO_LABELS: said}))
    assert book.predictions(0, PSEUDO_LABELS) == said
    book.close()
    assert (tmp_path / "ledger.sqlite").stat().st_size < 4 * len(rows)
