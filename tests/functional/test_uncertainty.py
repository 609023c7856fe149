import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import uncertainty

seeds = st.integers(0, 2**31)
SCORES = [uncertainty.entropy, uncertainty.least_confidence, uncertainty.margin]


def logits(seed, n=20, classes=5, scale=3.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds, st.integers(2, 12))
def test_each_score_equals_its_definition(seed, classes):
    probs = torch.softmax(logits(seed, classes=classes), -1)
    first, second = probs.topk(2).values.unbind(-1)
    assert torch.allclose(uncertainty.entropy(probs), -(probs * probs.log()).sum(-1))
    assert torch.allclose(uncertainty.least_confidence(probs), 1 - first)
    assert torch.allclose(uncertainty.margin(probs), 1 - (first - second))


@given(seeds, st.integers(2, 12))
def test_ranges(seed, classes):
    probs = torch.softmax(logits(seed, classes=classes), -1).float()
    for score, top in zip(SCORES, (math.log(classes), 1 - 1 / classes, 1.0), strict=True):
        assert score(probs).min() >= 0
        assert score(probs).max() <= top + 1e-6
        uniform = torch.full((1, classes), 1 / classes)
        assert score(uniform).item() == pytest.approx(top, abs=1e-6)


@given(seeds)
def test_with_two_classes_all_three_rank_alike(seed):
    probs = torch.softmax(logits(seed, classes=2), -1)
    ranks = [score(probs).argsort().tolist() for score in SCORES]
    assert ranks[0] == ranks[1] == ranks[2]


@given(seeds, st.floats(-50, 50))
def test_a_constant_added_to_the_logits_changes_nothing(seed, constant):
    z = logits(seed)
    for score in SCORES:
        assert torch.allclose(score(torch.softmax(z, -1)), score(torch.softmax(z + constant, -1)))


@given(seeds)
def test_fp32_agrees_with_fp64(seed):
    probs = torch.softmax(logits(seed), -1)
    for score in SCORES:
        assert torch.allclose(score(probs.float()).double(), score(probs), atol=1e-6)


def test_a_sure_row_is_finite_and_scores_zero():
    sure = torch.tensor([[1.0, 0.0, 0.0]])
    for score in SCORES:
        assert score(sure).item() == 0


@pytest.mark.parametrize("score", SCORES)
def test_confident_rows_keep_their_order(score):
    """1 - p_max would be 0 for all of them in fp32: mass ties, where there are none."""
    doubt = torch.tensor([1e-9, 3e-9, 2e-9])
    probs = torch.stack([1 - doubt, doubt], 1)
    assert score(probs).argsort().tolist() == [0, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("score", SCORES)
def test_half_precision_is_read_in_full(score, dtype):
    probs = torch.softmax(logits(3), -1).to(dtype)
    assert torch.equal(score(probs), score(probs.float()))


@pytest.mark.parametrize("third", [0.0, 0.1, 0.2, 0.3])
def test_a_tie_of_the_first_two_has_margin_one_exactly(third):
    equal = torch.tensor((1 - third) / 2)
    assert uncertainty.margin(torch.stack([equal, equal, torch.tensor(third)])).item() == 1


@given(seeds)
def test_confident_rows_have_their_entropy_in_fp32(seed):
    z = logits(seed, n=200, classes=4, scale=8.0)
    exact = uncertainty.entropy(torch.softmax(z, -1))
    found = uncertainty.entropy(torch.softmax(z.float(), -1)).double()
    assert torch.allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_only_the_last_axis_is_reduced(score):
    probs = torch.softmax(logits(4, n=24), -1).view(2, 3, 4, 5)
    assert torch.allclose(score(probs).flatten(), score(probs.view(-1, 5)))


def draws(seed, n=12, members=7, classes=4, scale=3.0):
    """Class probabilities (N, K, C), fp64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(scale * torch.randn(n, members, classes, generator=generator, dtype=torch.float64), -1)


OF_DRAWS = [
    uncertainty.predictive_entropy, uncertainty.expected_entropy, uncertainty.mutual_information, uncertainty.mean_std,
    uncertainty.variation_ratio, lambda each: uncertainty.variation_ratio(each, votes=False), uncertainty.vote_entropy,
    uncertainty.consensus_kl,
]  # fmt: skip
DISAGREEMENT = [
    uncertainty.mutual_information, uncertainty.mean_std, uncertainty.vote_entropy, uncertainty.variation_ratio,
    uncertainty.consensus_kl,
]  # fmt: skip


@given(seeds, st.integers(1, 9), st.integers(2, 6), st.floats(0.1, 20))
def test_scores_of_draws_equal_their_definitions(seed, members, classes, scale):
    p = draws(seed, members=members, classes=classes, scale=scale)
    mean = p.mean(1)
    entropy = torch.special.entr(p).sum(-1)
    votes = torch.stack([(p.argmax(-1) == c).double().mean(1) for c in range(classes)], -1)
    bald = torch.special.entr(mean).sum(-1) - entropy.mean(1)
    kl = torch.special.xlogy(p, p / mean.unsqueeze(1)).sum(-1).mean(1)
    expected = [
        torch.special.entr(mean).sum(-1), entropy.mean(1), bald,
        (p - mean.unsqueeze(1)).square().mean(1).sqrt().mean(-1), 1 - votes.amax(-1), 1 - mean.amax(-1),
        torch.special.entr(votes).sum(-1), kl,
    ]  # fmt: skip
    for score, value in zip(OF_DRAWS, expected, strict=True):
        assert torch.allclose(score(p), value, atol=1e-9)


@given(seeds, st.integers(1, 9), st.integers(2, 6))
def test_ranges_of_scores_of_draws(seed, members, classes):
    p = draws(seed, members=members, classes=classes, scale=20).float()
    most, all_of_it = math.log(min(members, classes)) + 1e-6, math.log(classes) + 1e-6
    for score, top in [
        (uncertainty.mutual_information, most), (uncertainty.vote_entropy, most), (uncertainty.mean_std, 0.5),
        (uncertainty.predictive_entropy, all_of_it), (uncertainty.expected_entropy, all_of_it),
    ]:  # fmt: skip
        assert score(p).min() >= 0
        assert score(p).max() <= top
    assert (uncertainty.predictive_entropy(p) >= uncertainty.mutual_information(p) - 1e-6).all()


@given(seeds)
def test_the_two_parts_make_the_whole(seed):
    p = draws(seed)
    parts = uncertainty.expected_entropy(p) + uncertainty.mutual_information(p)
    assert torch.allclose(parts, uncertainty.predictive_entropy(p))


@given(seeds)
def test_the_order_of_draws_does_not_matter(seed):
    p = draws(seed)
    order = torch.randperm(p.shape[1], generator=torch.Generator().manual_seed(seed))
    for score in OF_DRAWS:
        assert torch.allclose(score(p), score(p[:, order]))


@pytest.mark.parametrize("members", [1, 5])
@pytest.mark.parametrize("score", DISAGREEMENT)
def test_draws_that_are_equal_do_not_disagree(score, members):
    p = draws(0, members=1).expand(-1, members, -1)
    assert torch.allclose(score(p), torch.zeros(12, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(score(p.float()), torch.zeros(12), atol=1e-6)


def test_sure_draws_that_disagree_share_one_bit_and_zeros_are_finite():
    opposite = torch.eye(2).expand(3, 2, 2)
    assert torch.allclose(uncertainty.mutual_information(opposite), torch.full((3,), math.log(2)))
    for score in OF_DRAWS:
        assert score(opposite).isfinite().all()
        assert score(torch.eye(5).expand(1, 5, 5)).isfinite().all()


def test_votes_and_mean_are_two_variation_ratios():
    p = torch.tensor([[[0.51, 0.49], [0.51, 0.49], [0.0, 1.0]]])
    assert uncertainty.variation_ratio(p).item() == pytest.approx(1 / 3)
    assert uncertainty.variation_ratio(p, votes=False).item() == pytest.approx(0.34)


def test_a_small_disagreement_of_sure_draws_is_not_lost_in_single_precision():
    """The difference of two entropies of about 1e-6 would have two digits left, or come out negative."""
    rest = torch.tensor([1e-7, 3e-7, 2e-7], dtype=torch.float64)
    p = torch.stack([1 - rest, rest], -1).unsqueeze(0)
    mean = p.mean(1)
    truth = (torch.special.xlogy(p, p / mean.unsqueeze(1)).sum(-1).mean(1)).item()
    rows = torch.stack([1 - rest, rest], -1).float().unsqueeze(0)
    rows[..., 0] = 1.0  # what single precision leaves of the first class
    assert uncertainty.mutual_information(rows).item() == pytest.approx(truth, rel=0.01)


def test_equal_draws_have_no_negative_information_in_single_precision():
    """As the difference of two entropies has in every third row."""
    one = torch.softmax(torch.randn(2000, 1, 10, generator=torch.Generator().manual_seed(0)), -1)
    assert uncertainty.mutual_information(one.expand(-1, 7, -1).contiguous()).min() >= 0


def test_half_precision_and_sites():
    p = draws(3)
    sites = p.unsqueeze(2).expand(-1, -1, 2, -1)
    for score in OF_DRAWS:
        assert torch.allclose(score(sites), score(p).unsqueeze(1).expand(-1, 2))
        assert torch.allclose(score(p.half()).double(), score(p.half().double()), atol=1e-3)


def test_uniform_rows_in_half_precision_are_finite():
    for classes in range(400, 1000, 7):
        for kind in (torch.float16, torch.bfloat16):
            assert uncertainty.entropy(torch.full((1, classes), 1 / classes, dtype=kind)).isfinite().all()
