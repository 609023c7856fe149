import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal import testing
from deepal.signals import Signals
from deepal.strategies import CAL, View

seeds = st.integers(0, 2**31)


def scores(strategy, pool, labeled):
    return strategy.scores(View(Signals.of(pool), Signals.of(labeled)), torch.Generator())


def by_loops(pool, labeled, k):
    """Sorts all labeled rows by their angle to each row."""
    found = []
    for row, probs in zip(pool["embedding"].double(), pool["probs"].double(), strict=True):
        near = torch.nn.functional.cosine_similarity(labeled["embedding"].double(), row.unsqueeze(0)).sort(descending=True)
        parts = [(known * (known.log() - probs.log())).sum() for known in labeled["probs"][near.indices[:k]].double()]
        found.append(torch.stack(parts).mean())
    return torch.stack(found).float()


@given(seeds, st.integers(1, 12))
def test_it_is_brute_force(seed, k):
    pool, labeled = testing.made_up_signals(25, seed), testing.made_up_signals(8, seed + 1)
    assert torch.allclose(scores(CAL(neighbors=k), pool, labeled), by_loops(pool, labeled, k), rtol=1e-3, atol=1e-5)


def test_neighbors_are_labeled_rows_alone():
    """Published code looks among all rows, where each finds itself and differs from that by nothing."""
    pool = testing.made_up_signals(25, 0)
    beside = {name: array[:1] for name, array in testing.made_up_signals(1, 1).items()}
    expected = by_loops(pool, beside, 1)
    assert torch.allclose(scores(CAL(neighbors=1), pool, beside), expected, rtol=1e-3, atol=1e-5)
    assert (expected > 0).all()


def test_a_longer_embedding_has_the_same_neighbors():
    pool, labeled = testing.made_up_signals(25, 0), testing.made_up_signals(8, 1)
    for few in (CAL(neighbors=2), CAL(neighbors=8)):
        longer = [
            each | {"embedding": each["embedding"] * torch.linspace(1, 9, len(each["embedding"])).unsqueeze(1)}
            for each in (pool, labeled)
        ]
        assert torch.allclose(scores(few, pool, labeled), scores(few, *longer), atol=1e-6)
    everything = by_loops(pool, labeled, 8)
    for k in (8, 9, 100):  # all that there are
        assert torch.allclose(scores(CAL(neighbors=k), pool, labeled), everything, rtol=1e-3, atol=1e-5)


def test_where_all_predictions_are_the_same_there_is_no_contrast():
    pool, labeled = testing.made_up_signals(9, 0), testing.made_up_signals(4, 1)
    same = {"probs": torch.tensor([[0.1, 0.2, 0.3, 0.4]])}
    found = scores(CAL(), pool | {"probs": same["probs"].expand(9, -1)}, labeled | {"probs": same["probs"].expand(4, -1)})
    assert found.tolist() == [0.0] * 9
