"""What is asked of every query strategy, ours or yours: `check_strategy(MyStrategy())` raises where one breaks it."""

import logging
from collections.abc import Mapping
from dataclasses import is_dataclass

import torch
from torch import Tensor

from deepal.functional import gradients, mixing
from deepal.signals import NonFiniteError, Score, Signals
from deepal.strategies.base import Acquisition, Choice, QueryStrategy, View, choose, refuse_hidden_parts
from deepal.watching import quiet


def check_strategy(strategy: QueryStrategy, size: int = 60, seed: int = 0) -> None:
    """Ask a strategy what every strategy must answer.

    It chooses distinct rows, as many as asked, all of them where there are no more; the same for the same seed, whatever
    the global random state, which it leaves alone; it reads what it needs and nothing else, in any batches, and refuses
    NaN; it copes with a pool of equal rows, with an empty one, and with nothing labeled; where it keeps prefixes, it does;
    an acquisition follows its rows when the pool is permuted, and breaks ties by the generator.

    Args: strategy: to check; size: of the pool; seed: of the signals made up for it.
    Raises AssertionError, saying what was broken, and ValueError where it hides another strategy.
    """
    with quiet(logging.ERROR, "deepal.strategies"):  # of pools of equal rows it is said that coins decide
        _check(strategy, size, seed)


def _check(strategy: QueryStrategy, size: int, seed: int) -> None:
    assert is_dataclass(strategy), "a strategy is a dataclass"
    assert type(strategy).__dataclass_params__.frozen, "a strategy is frozen"
    assert type(strategy).__doc__, "a strategy says in its docstring what it does and where it comes from"
    refuse_hidden_parts(strategy)
    signals = made_up_signals(size, seed)
    chosen = _rows(strategy, signals, 7)
    assert len(set(chosen)) == len(chosen) == 7, "as many distinct rows as asked"
    assert _rows(strategy, signals, 7) == chosen, "the same rows for the same seed"
    assert sorted(_rows(strategy, signals, size + 5)) == list(range(size)), "the whole pool where it holds no more"
    assert _rows(strategy, signals, 7, batch=13) == chosen, "the same rows in whatever batches signals are read"
    _check_random_state(strategy, signals)
    if any(signals[name].is_floating_point() for name in strategy.needs.get("pool", ())):
        _check_nan(strategy, signals)
    if strategy.keeps_prefix:
        assert _rows(strategy, signals, 3) == chosen[:3], (
            "the first three of seven are a query of three; keeps_prefix = False says of a strategy that they need not be"
        )
    same = {name: array[:1].expand_as(array).contiguous() for name, array in signals.items()}
    assert len(set(_rows(strategy, same, 7))) == 7, "distinct rows of a pool of equal rows"
    assert len(set(_rows(strategy, signals, 7, labeled=0))) == 7, "a cold start, with nothing labeled"
    assert _rows(strategy, signals, 0) == [], "nothing where nothing is asked for"
    assert _rows(strategy, made_up_signals(0, seed), 7) == [], "nothing of an empty pool"
    if isinstance(strategy, Acquisition):
        _check_acquisition(strategy, signals)


def made_up_signals(size: int, seed: int, classes: int = 4, width: int = 5) -> dict[str, Tensor]:
    """Every signal that a module of deepal says, of `size` samples that never were."""
    generator = torch.Generator().manual_seed(seed)
    logits, embedding = 2 * torch.randn(size, classes, generator=generator), torch.randn(size, width, generator=generator)
    error, head = gradients.logit_gradient(logits), torch.randn(classes, width, generator=generator)
    return {
        "logits": logits,
        "probs": torch.softmax(logits, -1),
        "mc_probs": torch.softmax(logits.unsqueeze(1) + torch.randn(size, 6, classes, generator=generator), -1),
        "embedding": embedding,
        "logit_gradient": error,
        "gradient_embedding": gradients.gradient_embedding(error, embedding),
        "gradient_length": gradients.expected_gradient_length(torch.softmax(logits, -1), embedding),
        "flip_distance": mixing.flip_distance(logits, head),
        "latent": torch.randn(size, 3, generator=generator),
        "predicted_loss": torch.randn(size, generator=generator),
        "unlabeledness": 3 * torch.randn(size, generator=generator),
        "history": torch.randint(classes, (size, 9), generator=generator, dtype=torch.int16),
        "target": torch.randint(classes, (size,), generator=generator),
        "cycle": torch.zeros(size, dtype=torch.long),
        "group": torch.randint(max(size, 1), (size,), generator=generator),
        "dropout_flips": torch.randint(4, (size,), generator=generator) / 3,
    }


class StrictSource:
    """A source that serves signals in batches, refuses those that are not needed, and counts its passes."""

    def __init__(self, signals: Mapping[str, Tensor], allowed: set[str], batch: int) -> None:
        self.signals, self.allowed, self.batch = signals, allowed, batch
        self.passes = 0

    def read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The signals of these positions, all at once."""
        assert set(names) <= self.allowed, f"reads {set(names) - self.allowed}, which it does not say it needs"
        self.passes += 1
        return {name: self.signals[name][positions].clone() for name in names}

    def map(self, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
        """A score of these positions, batch by batch."""
        scores = [score(self.read(some, names)) for some in positions.split(self.batch)]
        return torch.cat(scores) if scores else torch.empty(0)


def select_from(
    strategy: QueryStrategy,
    signals: Mapping[str, Tensor],
    query_size: int,
    seed: int = 0,
    batch: int = 1000,
    labeled: int = 5,
) -> Choice:
    """What a strategy chooses from these signals, with other made-up samples labeled."""
    size = len(next(iter(signals.values())))
    known, held_out = made_up_signals(labeled, seed + 1), made_up_signals(20, seed + 2)
    sets = {"pool": (signals, size), "labeled": (known, labeled), "holdout": (held_out, 20)}
    view = View(
        **{
            of: Signals(
                torch.arange(count),
                StrictSource(arrays, set(strategy.needs.get(of, ())), batch),
                {} if of == "pool" else {"target": arrays["target"]},
            )
            for of, (arrays, count) in sets.items()
        }
    )
    return choose(strategy, view, query_size, torch.Generator().manual_seed(seed))


def _rows(strategy: QueryStrategy, signals: Mapping[str, Tensor], query_size: int, **how: int) -> list[int]:
    return select_from(strategy, signals, query_size, **how).rows.tolist()


def _check_random_state(strategy: QueryStrategy, signals: Mapping[str, Tensor]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = _rows(strategy, signals, 7)
        assert torch.equal(before, torch.get_rng_state()), (
            "every coin is tossed with the generator, none with the global one"
        )
        torch.manual_seed(2)
        assert _rows(strategy, signals, 7) == first, "the global random state changes nothing"


def _check_nan(strategy: QueryStrategy, signals: Mapping[str, Tensor]) -> None:
    for wrong in (torch.nan, torch.inf):
        broken = {name: array.clone() for name, array in signals.items()}
        for array in broken.values():
            if array.is_floating_point():
                array.view(len(array), -1)[3, -1] = wrong
        try:
            _rows(strategy, broken, 7)
        except NonFiniteError:
            continue
        raise AssertionError(f"a signal that is {wrong} in one place is refused, never ranked")


def _scores(strategy: Acquisition, signals: Mapping[str, Tensor]) -> Tensor:
    choice = select_from(strategy, signals, len(signals["probs"]))
    assert choice.scores is not None, "an acquisition says the scores of what it chooses"
    return torch.empty_like(choice.scores).index_copy_(0, choice.rows, choice.scores)


def _check_acquisition(strategy: Acquisition, signals: Mapping[str, Tensor]) -> None:
    order = torch.randperm(len(signals["probs"]), generator=torch.Generator().manual_seed(9))
    permuted = {name: array[order] for name, array in signals.items()}
    scores, after = (_scores(strategy, each) for each in (signals, permuted))
    assert torch.allclose(after, scores[order], atol=1e-6), "a permuted pool gives the same samples the same scores"
    same = {name: array[:1].expand_as(array).contiguous() for name, array in signals.items()}
    assert _rows(strategy, same, 7, seed=1) != _rows(strategy, same, 7, seed=2), "ties are broken by the generator"
