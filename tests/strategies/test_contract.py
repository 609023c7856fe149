"""The contract, asked of every strategy that is exported: a new one is checked because it is there."""

import inspect
from collections import Counter
from dataclasses import dataclass, fields, replace

import pytest
import torch

from deepal import strategies, testing
from deepal.signals import Signals
from deepal.strategies import (
    BADGE,
    BALD,
    CAL,
    EPIG,
    Balanced,
    ClusterMargin,
    ComparedBy,
    CoreSet,
    Entropy,
    KMeans,
    Margin,
    Mixture,
    Partition,
    PerGroup,
    Prefilter,
    Projected,
    PseudoLabels,
    QueryStrategy,
    Random,
    Schedule,
    Split,
    Stochastic,
    Typicality,
    View,
)
from deepal.strategies.base import Acquisition, Choice, Composed, choose
from tests.runs import digits

NEEDS_ARGUMENTS = {
    Mixture: [Mixture([Margin(), Typicality(5)], [1.0, 2.0]), Mixture([Entropy(), BALD()])],
    Split: [Split([Margin(), CoreSet()], [2.0, 1.0]), Split([BADGE(), Random(), Prefilter(Margin(), KMeans(), keep=20)])],
    Schedule: [Schedule([Random(), Margin()], [5]), Schedule([KMeans(), CoreSet()], [0.9])],
    Partition: [Partition(Margin(), 3), Partition(CoreSet(), 4), Partition(BADGE(), 2)],
    Balanced: [Balanced(Margin()), Balanced(BADGE()), Balanced(Partition(CoreSet(), 2))],
    PseudoLabels: [
        PseudoLabels(Margin(), 0.9),
        PseudoLabels(BADGE(), 0.3, 0, "confidence", 3),
        PseudoLabels(Random(), 1),
    ],
    Prefilter: [Prefilter(Margin(), CoreSet(), keep=20), Prefilter(Margin(), BADGE(first="uniform"))],
    Stochastic: [Stochastic(BALD()), Stochastic(Margin(), kind="softmax", beta=4), Stochastic(Entropy(), kind="softrank")],
    PerGroup: [PerGroup(Margin()), PerGroup(BADGE(), limit=2), PerGroup(Prefilter(Margin(), CoreSet(), keep=20))],
    ComparedBy: [
        ComparedBy(CoreSet(), "latent"),
        ComparedBy(KMeans(), "latent"),
        ComparedBy(ClusterMargin(), "logits"),
        ComparedBy(CAL(), "latent"),
    ],
    Projected: [Projected(CoreSet(), 2), Projected(KMeans(), 3), Projected(ClusterMargin(), 2), Projected(CAL(), 2)],
}


def exported() -> list[QueryStrategy]:
    found = [getattr(strategies, name) for name in strategies.__all__]
    classes = [each for each in found if inspect.isclass(each) and issubclass(each, QueryStrategy)]
    return [one for each in classes if not inspect.isabstract(each) for one in NEEDS_ARGUMENTS.get(each, [each])]


@pytest.mark.parametrize("strategy", exported(), ids=lambda each: repr(each if not inspect.isclass(each) else each()))
def test_every_exported_strategy_keeps_the_contract(strategy):
    testing.check_strategy(strategy() if inspect.isclass(strategy) else strategy)


@pytest.mark.parametrize("strategy", exported(), ids=lambda each: repr(each if not inspect.isclass(each) else each()))
def test_a_strategy_that_is_not_made_of_others_reads_the_pool_once(strategy):
    """Every pass of a scan is a pass of the network over all images."""
    made = strategy() if inspect.isclass(strategy) else strategy
    if isinstance(made, Composed | EPIG):  # which reads its targets before what it compares with them
        return
    signals = testing.made_up_signals(60, 0)
    source = testing.StrictSource(signals, set(made.needs.get("pool", ())), 1000)
    known = {name: torch.zeros(60, dtype=torch.long) for name in made.artifacts}
    view = View(*(Signals.of(testing.made_up_signals(size, size)) for size in (60, 5, 20)))
    choose(made, replace(view, pool=Signals(torch.arange(60), source, known)), 7, torch.Generator().manual_seed(0))
    assert source.passes == bool(made.needs.get("pool", ()))


COMPOSED = [made for each in exported() if isinstance(made := each() if inspect.isclass(each) else each, Composed)]


@pytest.mark.parametrize("strategy", COMPOSED, ids=repr)
@pytest.mark.parametrize("part", [Margin, None, "Margin", PseudoLabels(Margin())], ids=["class", "none", "name", "pseudo"])
def test_what_is_made_of_strategies_takes_nothing_else(strategy, part):
    for field in fields(strategy):
        value = getattr(strategy, field.name)
        if isinstance(value, QueryStrategy):
            wrong = part
        elif isinstance(value, tuple) and isinstance(value[0], QueryStrategy):
            wrong = [part, *value[1:]]
        else:
            continue
        with pytest.raises(ValueError, match=f"^{type(strategy).__name__} (is made of strategies|has PseudoLabels)"):
            replace(strategy, **{field.name: wrong})


@pytest.mark.parametrize(
    "made",
    [
        lambda: Prefilter(Margin(), CoreSet(), keep=10.7),
        lambda: Prefilter(Margin(), CoreSet(), factor=float("inf")),
        lambda: Partition(Margin(), into=1.5),
        lambda: PerGroup(Margin(), limit=1.5),
        lambda: Projected(CoreSet(), width=2.5),
        lambda: PseudoLabels(Margin(), max_per_class=1.5),
        lambda: PseudoLabels(Margin(), threshold=float("inf")),
        lambda: Schedule([Random(), Margin()], until=50),
        lambda: Schedule([Random(), Margin()], until=["50"]),
        lambda: Split([Random(), Margin()], shares=0.5),
        lambda: Mixture([Entropy(), Margin()], weights=["a", "b"]),
    ],
)
def test_numbers_that_a_query_could_not_use_are_refused_when_it_is_made(made):
    with pytest.raises(ValueError, match=r"^\w+\(.*(whole number|a number|numbers)"):
        made()


@dataclass(frozen=True)
class Hiding(QueryStrategy):
    """Has another strategy inside, and does not say so."""

    of: QueryStrategy

    def select(self, view, query_size, generator):
        return choose(self.of, view, query_size, generator)


@dataclass(frozen=True)
class NotAList(Composed):
    """Names its part wrongly."""

    of: QueryStrategy

    @property
    def parts(self):
        return self.of

    select = Hiding.select


def test_another_strategy_inside_is_named(tmp_path):
    for refused in (
        lambda: testing.check_strategy(Hiding(Margin())),
        lambda: strategies.base.select(Hiding(Margin()), testing.made_up_signals(9, 0), query_size=2),
        lambda: digits(tmp_path, strategy=Hiding(Margin())),
    ):
        with pytest.raises(ValueError, match=r"Hiding has another strategy in of=Margin\(\); derive it from .*Composed"):
            refused()
    with pytest.raises(ValueError, match=r"NotAList.parts must be a list of strategies, and is Margin\(\)"):
        NotAList(Margin())


def test_what_is_said_of_pools_of_equal_rows_is_no_failure_of_a_strategy(caplog):
    testing.check_strategy(Margin())
    assert not caplog.text


def test_abstract_or_final():
    for abstract in (QueryStrategy, Acquisition):
        with pytest.raises(TypeError):
            abstract()


@dataclass(frozen=True)
class _ByGlobalCoin(QueryStrategy):
    """Breaks the contract."""

    def select(self, view, query_size, generator):
        return Choice(torch.randperm(len(view.pool))[:query_size])


@dataclass(frozen=True)
class _MovesGlobalCoin(QueryStrategy):
    """Breaks the contract."""

    def select(self, view, query_size, generator):
        torch.rand(1)
        return Choice(torch.arange(query_size))


@dataclass(frozen=True)
class _Peeks(QueryStrategy):
    """Breaks the contract."""

    def select(self, view, query_size, generator):
        return Choice(view.pool["probs"].amax(1).sort().indices[:query_size])


@dataclass(frozen=True)
class _Repeats(QueryStrategy):
    """Breaks the contract."""

    def select(self, view, query_size, generator):
        return Choice(torch.zeros(query_size, dtype=torch.long))


@dataclass(frozen=True)
class _KeepsNoPrefix(QueryStrategy):
    """Breaks the contract."""

    def select(self, view, query_size, generator):
        return Choice(torch.arange(query_size).flip(0))


@dataclass(frozen=True)
class _ByBatch(Acquisition):
    """Breaks the contract: a row's score depends on its neighbors in the batch."""

    needs = {"pool": ("probs",)}

    def score(self, signals):
        return signals["probs"][:, 0] - signals["probs"][:, 0].mean()


@dataclass(frozen=True)
class _TiesByIndex(Acquisition):
    """Breaks the contract."""

    needs = {"pool": ("probs",)}

    def select(self, view, query_size, generator):
        scores = view.pool.map(self.score, ("probs",))
        rows = scores.sort(descending=True, stable=True).indices[:query_size]
        return Choice(rows, scores[rows])

    def score(self, signals):
        return signals["probs"][:, 0]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_ByGlobalCoin(), "same rows for the same seed"),
        (_MovesGlobalCoin(), "none with the global one"),
        (_Peeks(), "does not say it needs"),
        (_Repeats(), "distinct rows"),
        (_KeepsNoPrefix(), "query of three"),
        (_ByBatch(), "whatever batches"),
        (_TiesByIndex(), "ties are broken by the generator"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_contract_can_be_broken(broken, says):
    with pytest.raises((AssertionError, ValueError), match=says):
        testing.check_strategy(broken)


def test_random_is_uniform():
    counts = Counter()
    signals = testing.made_up_signals(10, 0)
    for seed in range(3000):
        counts.update(testing.select_from(Random(), signals, 2, seed=seed).rows.tolist())
    expected = 3000 * 2 / 10
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9  # chi-square, 9 degrees, p = .001


def test_a_prefilter_by_and_then_the_same_is_that():
    signals = testing.made_up_signals(200, 1)
    once = set(testing.select_from(Margin(), signals, 10).rows.tolist())
    twice = set(testing.select_from(Prefilter(Margin(), Margin(), factor=4), signals, 10).rows.tolist())
    assert once == twice


def test_a_prefilter_nests_and_chooses_from_its_short_list():
    signals = testing.made_up_signals(200, 1)
    kept = set(testing.select_from(Entropy(), signals, 50).rows.tolist())
    nested = Prefilter(Entropy(), Prefilter(Margin(), KMeans(), keep=20), keep=50)
    assert set(testing.select_from(nested, signals, 10).rows.tolist()) <= kept


def test_a_group_is_asked_once_while_there_are_others():
    signals = testing.made_up_signals(60, 3) | {"group": torch.arange(60) // 6}
    rows = testing.select_from(PerGroup(Margin()), signals, 8).rows
    assert len(set((rows // 6).tolist())) == 8
    order = testing.select_from(Margin(), signals, 60).rows.tolist()  # brute force: down the list, skipping known groups
    best = list({row // 6: row for row in reversed(order)}.values())
    assert sorted(rows.tolist()) == sorted(sorted(best, key=order.index)[:8])
    twice = testing.select_from(PerGroup(BADGE(), limit=2), signals, 25).rows // 6
    assert torch.bincount(twice, minlength=10).min() >= 2  # ten groups of at most two, and five more
    assert torch.bincount(twice).max() <= 4


def test_where_there_are_few_groups_no_more_is_asked_than_can_help():
    asked = []

    @dataclass(frozen=True)
    class Counted(QueryStrategy):
        """Counts."""

        def select(self, view, query_size, generator):
            asked.append(query_size)
            return Choice(torch.arange(query_size), torch.arange(query_size).float(), {"said": 1.0})

    signals = testing.made_up_signals(600, 3) | {"group": torch.arange(600) % 3}
    choice = testing.select_from(PerGroup(Counted(), limit=2), signals, 10)
    assert asked == [10]
    assert choice.rows.tolist() == list(range(10))
    assert choice.notes == {"said": 1.0}


@pytest.mark.parametrize("reduce", ["median", ""])
def test_a_reduction_that_there_is_not_is_refused(reduce):
    with pytest.raises(ValueError, match=r"Entropy\(reduce=.*mean, max, sum"):
        Entropy(reduce=reduce)


def test_groups_that_cannot_be_limited_are_refused():
    with pytest.raises(ValueError, match=r"PerGroup\(limit=0\)"):
        PerGroup(Margin(), limit=0)


@pytest.mark.parametrize("wrong", [{"keep": 5, "factor": 2}, {"keep": 0}, {"factor": 0.5}])
def test_a_prefilter_refuses_a_short_list_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="Prefilter"):
        Prefilter(Margin(), CoreSet(), **wrong)
