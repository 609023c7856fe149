import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import gradients, mixing

seeds = st.integers(0, 2**31)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(seed, rows=40, classes=4, width=5):
    """Embeddings, the weights and biases of a linear head, and what it says of them."""
    hidden, weight, bias = random(seed, rows, width), random(seed + 1, classes, width), random(seed + 2, classes)
    logits = hidden @ weight.T + bias
    return hidden, weight, bias, logits, gradients.logit_gradient(logits)


@given(seeds)
def test_a_prediction_changes_there_and_not_before(seed):
    hidden, weight, bias, logits, error = head(seed)
    distance = mixing.flip_distance(logits, weight)
    along = torch.nn.functional.normalize(error @ weight, dim=1)
    for part, changes in ((0.999, False), (1.001, True)):
        moved = (hidden + part * distance.unsqueeze(1) * along) @ weight.T + bias
        assert ((moved.argmax(1) != logits.argmax(1)) == changes).all()


def published(hidden, weight, bias, logits, gradient, anchors, eps):
    """Which rows change their prediction at one class mean at least, as published: a step of length `eps` times the
    distance, feature by feature, at each of the means."""
    changes = torch.zeros(len(hidden), dtype=torch.bool)
    for anchor in anchors:
        apart = anchor - hidden
        alpha = eps * apart.norm(dim=1, keepdim=True) * gradient / gradient.norm(dim=1, keepdim=True) / apart
        step = alpha * apart
        assert torch.allclose(step.norm(dim=1), eps * apart.norm(dim=1))
        changes |= ((hidden + step) @ weight.T + bias).argmax(1) != logits.argmax(1)
    return changes


@given(seeds, st.floats(0.01, 1))
def test_the_farthest_class_mean_decides_for_all_of_them(seed, eps):
    hidden, weight, bias, logits, error = head(seed)
    anchors = random(seed + 3, 4, 5)
    distance, reach = mixing.flip_distance(logits, weight), eps * mixing.farthest(hidden, anchors)
    clear = (distance / reach - 1).abs() > 1e-6  # of rounding
    expected = published(hidden, weight, bias, logits, error @ weight, anchors, eps)
    assert torch.equal((distance < reach)[clear], expected[clear])


@given(seeds, st.floats(0.01, 0.5))
def test_what_changes_with_little_changes_with_more(seed, eps):
    hidden, weight, bias, logits, error = head(seed)
    anchors = random(seed + 3, 4, 5)
    less, more = (published(hidden, weight, bias, logits, error @ weight, anchors, part) for part in (eps, 2 * eps))
    assert (more | ~less).all()


@pytest.mark.parametrize("lead", [0.0, 60.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sure_rows_have_a_distance_too(lead, dtype):
    """With a lead of 300 there is nothing left of the other probabilities in single precision."""
    weight, logits = torch.eye(2, dtype=dtype), torch.tensor([[lead, 0.0]], dtype=dtype)
    found = mixing.flip_distance(logits, weight)
    assert torch.allclose(found, torch.tensor([lead / math.sqrt(2)], dtype=dtype), rtol=1e-5)


def test_where_nothing_changes_a_prediction_the_distance_is_the_largest_number():
    logits, most = torch.tensor([[1.0, 0.0]]), torch.finfo(torch.float32).max
    assert mixing.flip_distance(logits, torch.ones(2, 3)).tolist() == [most]
    assert mixing.flip_distance(logits[:, :1], torch.ones(1, 3)).tolist() == [most]


def test_half_precision_around_it_costs_no_digit():
    weight, logits = random(0, 4, 5).float(), random(1, 6, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = mixing.flip_distance(logits, weight)
    assert torch.equal(found, mixing.flip_distance(logits, weight))


@given(seeds)
def test_class_means_are_of_the_classes_that_there_are(seed):
    embedding, target = random(seed, 9, 3), torch.tensor([4, 1, 4, 4, 1, 7, 7, 1, 4])
    expected = torch.stack([embedding[target == each].mean(0) for each in (1, 4, 7)])
    assert torch.allclose(mixing.class_means(embedding, target), expected)


@given(seeds)
def test_the_farthest_is_what_brute_force_finds(seed):
    points, others = random(seed, 11, 3), random(seed + 1, 4, 3)
    expected = torch.tensor([max(float((point - other).norm()) for other in others) for point in points])
    assert torch.allclose(mixing.farthest(points, others), expected.double())
    assert mixing.farthest(points[:0], others).shape == (0,)


def test_far_from_the_origin_distances_keep_their_digits():
    points, others = random(0, 40, 64), random(1, 30, 64)
    expected = mixing.farthest(points, others)
    found = mixing.farthest((points + 1000).float(), (others + 1000).float())
    assert torch.allclose(found.double(), expected, rtol=1e-4)
