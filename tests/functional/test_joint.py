"""BatchBALD and EPIG against enumeration by hand, and against the authors' own later implementation."""

import contextlib
import io
import itertools
import math

import pytest
import torch
from batchbald_redux.batchbald import get_batchbald_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepal.functional import joint, uncertainty

seeds = st.integers(0, 2**31)


def draws(seed, n=8, members=5, classes=3, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(scale * torch.randn(n, members, classes, generator=generator), -1)


def coins(seed=0):
    return torch.Generator().manual_seed(seed)


def information(mc_probs, rows):
    """I[y_S; w] by enumeration, in fp64."""
    p, total = mc_probs.double(), 0.0
    for labels in itertools.product(range(p.shape[2]), repeat=len(rows)):
        likelihood = torch.stack([p[row, :, label] for row, label in zip(rows, labels, strict=True)]).prod(0).mean()
        total -= float(torch.special.xlogy(likelihood, likelihood))
    return total - sum(float(torch.special.entr(p[row]).sum(-1).mean()) for row in rows)


def greedy(mc_probs, query_size):
    chosen = []
    for _ in range(query_size):
        left = [row for row in range(len(mc_probs)) if row not in chosen]
        chosen.append(max(left, key=lambda row: information(mc_probs, [*chosen, row])))
    return chosen


@given(seeds, st.integers(2, 6), st.integers(2, 4))
@settings(max_examples=25)
def test_while_it_is_enumerated_it_is_the_greedy_batch_and_says_what_it_is_worth(seed, members, classes):
    p = draws(seed, members=members, classes=classes)
    batch = joint.batch_bald(p, 3, 10_000, coins())
    assert batch.rows.tolist() == greedy(p, 3)
    assert batch.information == pytest.approx(information(p, batch.rows.tolist()), abs=1e-5)


@given(seeds, st.integers(1, 8))
@settings(max_examples=25)
def test_bounds(seed, members):
    p = draws(seed, members=members)
    batch = joint.batch_bald(p, 4, 10_000, coins())
    bald = uncertainty.mutual_information(p)
    assert bald.max() - 1e-6 <= batch.information <= bald[batch.rows].sum() + 1e-5
    assert batch.information <= math.log(members) + 1e-5
    assert (batch.gains[1:] <= batch.gains[:-1] + 1e-6).all()  # submodular, chosen greedily
    assert joint.batch_bald(p, 1, 10, coins()).rows.item() == int(bald.argmax())


@given(seeds)
@settings(max_examples=20)
def test_orders_of_draws_and_rows_do_not_matter(seed):
    p = draws(seed, n=7)
    batch = joint.batch_bald(p, 3, 10_000, coins())
    order = torch.randperm(7, generator=coins(seed))
    assert order[joint.batch_bald(p[order], 3, 10_000, coins()).rows].tolist() == batch.rows.tolist()
    members = torch.randperm(5, generator=coins(seed))
    again = joint.batch_bald(p[:, members], 3, 10_000, coins())
    assert again.rows.tolist() == batch.rows.tolist()
    assert torch.allclose(again.gains, batch.gains, atol=1e-5)


def test_a_copy_adds_less_than_it_did_the_first_time():
    p = draws(4, n=3, members=20, scale=1.0)[[0, 0, 0]]
    gains = joint.batch_bald(p, 3, 10_000, coins()).gains
    assert gains[0] > gains[1] > gains[2] > 0


def test_a_sampled_gain_is_an_enumerated_one_within_its_noise():
    p = draws(1, n=6, members=10, classes=4)
    exact = [information(p, [0, 1, 2, row]) - information(p, [0, 1, 2]) for row in (3, 4, 5)]
    found = []
    for seed in range(30):
        outcomes = joint._Outcomes(p, 200)
        outcomes._begin_sampling(coins(seed))
        outcomes.sampled = True
        for row in (0, 1, 2):
            outcomes.extend(row, coins(1000 * row + seed))
        found.append(outcomes.gains(p[3:], uncertainty.entropy(p[3:])))
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - torch.tensor(exact)).abs() <= 3 * error + 1e-6).all()


def test_outcomes_are_sampled_as_often_as_they_are_likely():
    p = draws(2, n=2, members=4, classes=3)
    outcomes = joint._Outcomes(p, 40_000)
    outcomes._begin_sampling(coins())
    label = torch.stack([(outcomes._label(0, coins(1)) - p[0][:, c]).abs().amax(1) < 1e-6 for c in range(3)])
    for member in range(4):
        share = label[:, outcomes.origin == member].float().mean(1)
        assert torch.allclose(share, p[0, member], atol=0.02)


@given(seeds)
@settings(max_examples=15)
def test_looking_at_the_largest_bounds_finds_what_looking_at_all_finds(seed):
    p = torch.cat(
        [draws(seed, n=60, members=12, classes=4, scale=1.5), draws(seed + 1, n=240, members=12, classes=4, scale=0.3)]
    )
    lazy = joint.batch_bald(p, 8, 300, coins(seed), tolerance=-0.05)
    full = joint.batch_bald(p, 8, 300, coins(seed), tolerance=-math.inf)
    assert lazy.rows.tolist() == full.rows.tolist()
    assert lazy.evaluated < 0.8 * full.evaluated
    quick = joint.batch_bald(p, 8, 300, coins(seed))
    assert quick.evaluated <= lazy.evaluated
    assert quick.information >= full.information - 0.1  # of few samples


def test_bounds_that_are_out_of_date_do_not_hide_what_lies_behind_them():
    """Two hundred copies of a row that says most, in front of others that say less, and something else."""
    copied = draws(0, n=1, members=200, classes=4, scale=3.0).expand(200, -1, -1)
    others = draws(1, n=30, members=200, classes=4, scale=1.2)
    p = torch.cat([copied, others])
    assert uncertainty.mutual_information(copied).min() > uncertainty.mutual_information(others).max() + 0.05
    batch = joint.batch_bald(p, 6, 15, coins())  # sampled from the third on
    assert batch.rows[0] == 0
    assert (batch.rows[1:] >= 200).sum() >= 4
    full = joint.batch_bald(p, 6, 15, coins(), tolerance=-math.inf)
    assert batch.information >= full.information - 0.05


def test_what_is_passed_over_within_the_tolerance_is_looked_at_again():
    """Many images of two unknowns, and some of a third, of which each says little, and always the same: they are next as
    soon as the others have said so much that their gains are smaller, though each of these falls by little a time."""

    def coins_of(chances, copies):
        p = torch.zeros(copies, len(chances), 10)
        p[:, :, 0], p[:, :, 1] = chances, 1 - chances
        return p

    first = torch.linspace(0.02, 0.98, 12).repeat_interleave(12)
    second = 0.5 + torch.linspace(-0.24, 0.24, 12).repeat(12)
    p = torch.cat([coins_of(first, 300), coins_of(second, 40)])
    quick = joint.batch_bald(p, 40, 1000, coins())
    full = joint.batch_bald(p, 40, 1000, coins(), tolerance=-math.inf)
    assert (quick.rows >= 300).sum() >= 8
    assert quick.information >= full.information - 0.05


def test_it_chooses_what_the_authors_own_implementation_does():
    for seed in range(3):
        p = draws(seed, n=30, members=12, classes=4)
        with contextlib.redirect_stderr(io.StringIO()):
            peer = get_batchbald_batch(p.double().log(), 5, 10_000, dtype=torch.double, device="cpu")
        batch = joint.batch_bald(p, 5, 10_000, coins())
        assert batch.rows.tolist() == peer.indices
        assert torch.allclose(batch.gains.cumsum(0), torch.tensor(peer.scores, dtype=torch.float64), atol=1e-4)


def test_probabilities_of_zero_are_finite():
    p = torch.eye(3).expand(5, 3, 3).contiguous()
    batch = joint.batch_bald(p, 3, 5, coins())
    assert batch.gains.isfinite().all()
    assert batch.gains[0].item() == pytest.approx(math.log(3), abs=1e-5)
    assert joint.epig(p, p).isfinite().all()


def test_confident_draws_are_exact_and_leave_no_subnormal_numbers():
    """Processors compute with those many times more slowly: batches of confident draws took twenty times as long."""
    p = draws(0, n=12, members=6, scale=60.0)
    assert ((p > 0) & (p < torch.finfo().tiny)).any()
    batch = joint.batch_bald(p, 3, 10_000, coins())
    assert batch.information == pytest.approx(information(p, batch.rows.tolist()), abs=1e-5)
    for size in (10**6, 10):  # enumerated, and sampled
        outcomes = joint._Outcomes(p, size)
        for row in range(8):
            outcomes.extend(row, coins(row))
            assert not ((outcomes.likelihood > 0) & (outcomes.likelihood < 1e-15)).any()
    columns = joint._columns(p)
    assert not ((columns > 0) & (columns < 1e-15)).any()
    targets = draws(1, n=5, members=6, scale=60.0)
    assert torch.allclose(joint.epig(p, targets).double(), epig_by_hand(p, targets), atol=1e-6)


def test_what_it_cannot_choose_from_is_refused():
    with pytest.raises(ValueError, match=r"\(N, K, C\)"):
        joint.batch_bald(torch.ones(3, 4, 2, 2), 1, 10, coins())
    with pytest.raises(ValueError, match="num_samples=1"):
        joint.batch_bald(draws(0), 1, 0, coins())
    with pytest.raises(ValueError, match="take the softmax of logits"):
        joint.batch_bald(draws(0).log(), 3, 10, coins())
    with pytest.raises(ValueError, match="target has none"):
        joint.epig(draws(0), draws(0)[:0])
    assert len(joint.batch_bald(draws(0, n=2), 5, 10, coins()).rows) == 2


def epig_by_hand(pool, target):
    """E_x* of H[y] + H[y*] - H[y, y*], from the joint distribution itself."""
    pool, target = pool.double(), target.double()
    together = torch.einsum("nkc,tkd->ntcd", pool, target) / pool.shape[1]
    apart = [torch.special.entr(each.mean(1)).sum(-1) for each in (pool, target)]
    return (apart[0].unsqueeze(1) + apart[1] - torch.special.entr(together).sum((2, 3))).mean(1)


@given(seeds, st.integers(1, 6), st.integers(2, 4))
def test_epig_equals_its_definition_and_says_no_more_than_bald(seed, members, classes):
    pool, target = (draws(each, members=members, classes=classes) for each in (seed, seed + 1))
    found = joint.epig(pool, target)
    assert torch.allclose(found.double(), epig_by_hand(pool, target), atol=1e-5)
    assert found.min() >= 0
    bald, of_target = uncertainty.mutual_information(pool), uncertainty.mutual_information(target)
    assert (found <= torch.minimum(bald, of_target.mean()) + 1e-5).all()
    pairs = torch.stack([joint.epig(pool, each.unsqueeze(0)) for each in target], 1)
    back = torch.stack([joint.epig(target, each.unsqueeze(0)) for each in pool])
    assert torch.allclose(pairs, back, atol=1e-5)
    assert torch.allclose(joint.epig(pool.repeat(20, 1, 1), target)[:8], found, atol=1e-6)


def test_one_draw_says_nothing():
    assert not joint.epig(draws(0, members=1), draws(1, members=1)).any()
    assert joint.batch_bald(draws(0, members=1), 3, 100, coins()).information == pytest.approx(0, abs=1e-6)


def test_classes_that_no_draw_thinks_possible_do_no_harm():
    """An impossible outcome is none: one-hot votes, of which a class has none."""
    votes = torch.eye(3)[torch.randint(2, (12, 6), generator=coins())]
    batch = joint.batch_bald(votes, 5, 1000, coins())
    assert batch.gains.isfinite().all()
    assert batch.information == pytest.approx(information(votes, batch.rows.tolist()), abs=1e-5)
    far = torch.softmax(torch.tensor([0.0, -1.0, -110.0]) * torch.rand(12, 6, 3, generator=coins()), -1)
    assert len(joint.batch_bald(far, 6, 1000, coins()).rows.unique()) == 6


def test_epig_in_pieces_is_epig(monkeypatch):
    pool, target = draws(0, n=20), draws(1, n=9)
    whole = joint.epig(pool, target)
    monkeypatch.setattr(joint, "_ELEMENTS", 30)
    assert torch.allclose(joint.epig(pool, target), whole, atol=1e-6)


def test_candidates_that_are_left_early_are_not_those_that_are_chosen():
    """With several parts of the sampled outcomes; and what is said of those left is above their gain."""
    spread = 6 * torch.rand(300, 1, 1, generator=coins(1))
    p = torch.softmax(draws(5, n=300, members=60, classes=4, scale=1.0).log() * spread, -1)
    lazy = joint.batch_bald(p, 6, 4000, coins(), tolerance=-0.01)
    full = joint.batch_bald(p, 6, 4000, coins(), tolerance=-math.inf)
    assert lazy.rows.tolist() == full.rows.tolist()
    outcomes = joint._Outcomes(p, 4000)
    outcomes._begin_sampling(coins())
    for row in full.rows[:4].tolist():
        outcomes.extend(row, coins(row))
    whole = outcomes.gains(p, uncertainty.entropy(p))
    before = outcomes.evaluated
    best = float(whole.max())
    raced = outcomes.gains(p, uncertainty.entropy(p), best)
    early = (raced - whole).abs() > 1e-6
    assert early.sum() > 30
    assert outcomes.evaluated - before < 0.9 * before
    assert (raced[early] < best).all()
    assert (raced >= whole - 1e-6).float().mean() > 0.99
