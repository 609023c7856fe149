"""The ranking loss of predicted losses."""

import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.testing import assert_close

from deepal.functional.ranking import ranking_loss


def drawn(rows, seed):
    coins = torch.Generator().manual_seed(seed)
    return torch.randn(rows, generator=coins, dtype=torch.float64), torch.rand(rows, generator=coins, dtype=torch.float64)


@given(some.integers(0, 12), some.integers(0, 999), some.floats(0.1, 3))
def test_it_is_what_a_loop_says(rows, seed, margin):
    predicted, losses = drawn(rows, seed)
    missing = []
    for one in range(rows // 2):
        other = rows - 1 - one
        sign = 1 if losses[one] > losses[other] else -1
        missing.append(max(0.0, float(margin - sign * (predicted[one] - predicted[other]))))
    expected = sum(missing) / max(len(missing), 1)
    assert_close(ranking_loss(predicted, losses, margin), torch.tensor(expected, dtype=torch.float64))


@given(some.integers(2, 12), some.integers(0, 999))
def test_only_the_order_of_losses_and_differences_of_predictions_count(rows, seed):
    predicted, losses = drawn(rows, seed)
    found = ranking_loss(predicted, losses)
    assert_close(ranking_loss(predicted + 7, losses), found)
    assert_close(ranking_loss(predicted, losses.square() * 5), found)
    assert ranking_loss(predicted.flip(0), losses.flip(0)) == found


@given(some.integers(2, 12), some.integers(0, 999))
def test_pairs_in_order_with_the_margin_cost_nothing(rows, seed):
    _, losses = drawn(rows, seed)
    predicted = 1.001 * losses.argsort().argsort().double()
    assert ranking_loss(predicted, losses) == 0
    assert ranking_loss(-predicted, losses) >= 2


def test_equal_losses_have_no_order():
    predicted = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = ranking_loss(predicted, torch.zeros(2))
    loss.backward()
    assert loss == 0
    assert predicted.grad.tolist() == [0, 0]


def test_no_gradient_passes_by_the_losses():
    predicted, losses = (each.requires_grad_() for each in drawn(5, 0))
    ranking_loss(predicted, losses).backward()
    assert losses.grad is None
    assert predicted.grad[2] == 0, "the one in the middle has no pair"
    assert predicted.grad.abs().sum() > 0
