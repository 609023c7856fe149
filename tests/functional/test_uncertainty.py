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
