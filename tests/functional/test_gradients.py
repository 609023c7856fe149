import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import gradients
from deepal.functional.geometry import FactoredGradients

seeds = st.integers(0, 2**31)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autograd(weight, hidden, label):
    weight = weight.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy((weight @ hidden).unsqueeze(0), torch.tensor([label]))
    return torch.autograd.grad(loss, weight)[0].flatten()


@given(seeds)
def test_the_gradient_embedding_is_the_gradient_of_the_last_layer(seed):
    weight, hidden = random(seed, 4, 3), random(seed + 1, 6, 3)
    logits = hidden @ weight.T
    found = gradients.gradient_embedding(gradients.logit_gradient(logits), hidden)
    expected = torch.stack([autograd(weight, h, int(z.argmax())) for h, z in zip(hidden, logits, strict=True)])
    assert torch.allclose(found, expected)


@given(seeds)
def test_the_predicted_label_gives_the_shortest_gradient(seed):
    """|g_y|^2 = (sum p^2 + 1 - 2 p_y) |h|^2, smallest at the predicted class (Ash et al., 2020, proposition 1)."""
    weight, hidden = random(seed, 4, 3), random(seed + 1, 3)
    logits = weight @ hidden
    p = torch.softmax(logits, 0)
    norms = torch.stack([autograd(weight, hidden, label).square().sum() for label in range(4)])
    assert torch.allclose(norms, (p.square().sum() + 1 - 2 * p) * hidden.square().sum())
    assert norms.argmin() == logits.argmax()


def test_a_confident_row_is_short_and_an_uncertain_one_long():
    """Published code leaves out the 1 of the predicted class, and confident rows come out longer."""
    logits, hidden = torch.tensor([[6.0, 0.0, 0.0], [0.1, 0.0, 0.0]]), torch.ones(2, 4)
    confident, uncertain = FactoredGradients(gradients.logit_gradient(logits), hidden).norm2().tolist()
    assert confident < 0.01 * uncertain


@given(seeds)
def test_rows_of_the_logit_gradient_sum_to_zero(seed):
    assert gradients.logit_gradient(random(seed, 5, 7)).sum(-1).abs().max() < 1e-12


def test_confident_rows_keep_the_gradient_of_the_predicted_class():
    """softmax - 1 would be 0 in fp32 where the true value is -1e-8."""
    logits = torch.tensor([[18.42, 0.0]])
    found = gradients.logit_gradient(logits)[0, 0].double()
    assert torch.allclose(found, -1 / (1 + logits[0, 0].double().exp()), rtol=1e-5)


@given(seeds)
def test_factored_distances_are_the_dense_ones(seed):
    logits, hidden = random(seed, 8, 4), random(seed + 1, 8, 3)
    error = gradients.logit_gradient(logits)
    dense = gradients.gradient_embedding(error, hidden)
    geometry, everything = FactoredGradients(error, hidden), torch.arange(8)
    assert torch.allclose(geometry.norm2(), dense.square().sum(1))
    for row in range(8):
        dist2 = geometry.dist2(geometry.wide(everything), geometry.wide(everything[row : row + 1]))
        assert torch.allclose(dist2, (dense - dense[row]).square().sum(1), atol=1e-12)


@given(seeds)
def test_with_two_classes_the_gradient_is_the_doubt_times_the_features(seed):
    logits, hidden = random(seed, 5, 2), random(seed + 1, 5, 3)
    p = torch.softmax(logits, -1).amax(-1, keepdim=True)
    norms = gradients.gradient_embedding(gradients.logit_gradient(logits), hidden).norm(dim=1, keepdim=True)
    assert torch.allclose(norms, 2**0.5 * (1 - p) * hidden.norm(dim=1, keepdim=True))


@given(seeds, st.booleans())
def test_the_expected_gradient_length_is_what_a_loop_over_labels_finds(seed, bias):
    weight, shift, hidden = random(seed, 4, 3), random(seed + 2, 4), random(seed + 1, 6, 3)
    logits = hidden @ weight.T + bias * shift

    def length(row, label):
        trained = [weight.clone().requires_grad_(), *([shift.clone().requires_grad_()] if bias else [])]
        said = trained[0] @ hidden[row] + (trained[1] if bias else 0)
        loss = torch.nn.functional.cross_entropy(said.unsqueeze(0), torch.tensor([label]))
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, trained)]).norm()

    probs = torch.softmax(logits, 1)
    expected = torch.stack([sum(probs[row, label] * length(row, label) for label in range(4)) for row in range(6)])
    assert torch.allclose(gradients.expected_gradient_length(probs, hidden, bias), expected)


@given(seeds)
def test_squared_lengths_of_the_error_have_the_gini_impurity_for_their_mean(seed):
    """sum_y p_y |p - onehot(y)|^2 = 1 - sum p^2, the trace of the Fisher information by the logits; its root limits the
    mean of the lengths."""
    logits = random(seed, 8, 5)
    probs = torch.softmax(logits, 1)
    lengths = gradients.class_gradients(logits, torch.arange(5).expand(8, 5)).norm(dim=2)
    gini = 1 - probs.square().sum(1)
    assert torch.allclose((probs * lengths.square()).sum(1), gini)
    assert (gradients.expected_error_length(probs) <= gini.sqrt() + 1e-12).all()


@given(seeds, st.integers(1, 6), st.floats(-40, 40))
def test_the_expected_length_of_the_error_is_the_sum_over_labels(seed, classes, lead):
    """However sure the model is, of whichever class."""
    logits = random(seed, 8, classes)
    logits[:, 0] += lead
    probs, labels = torch.softmax(logits, 1), torch.arange(classes).expand(8, classes)
    expected = (probs * gradients.class_gradients(logits, labels).norm(dim=2)).sum(1)
    assert torch.allclose(gradients.expected_error_length(probs), expected, rtol=1e-9, atol=0)


def test_two_classes_that_rounding_puts_above_a_half_are_as_uncertain_as_can_be():
    probs = torch.full((1, 2), 0.5).nextafter(torch.tensor(1.0))
    assert float(gradients.expected_error_length(probs)) == pytest.approx(0.5**0.5)


def test_lengths_are_euclidean_and_are_averaged_rather_than_the_gradients():
    """Published code sums absolute values; and the average gradient over the labels is zero."""
    probs, hidden = torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 4.0]])
    assert float(gradients.expected_gradient_length(probs, hidden)) == pytest.approx(5 * 0.5**0.5)


@given(seeds)
def test_the_mean_square_of_the_length_is_the_trace_of_the_fisher_information(seed):
    """sum_y p_y |g_y|^2 = (1 - sum p^2) |h|^2; without an embedding there is no gradient."""
    weight, hidden = random(seed, 4, 3), random(seed + 1, 6, 3)
    logits = hidden @ weight.T
    probs, error = torch.softmax(logits, 1), gradients.class_gradients(logits, torch.arange(4).expand(6, 4))
    dense = torch.stack([gradients.gradient_embedding(error[:, label], hidden) for label in range(4)], 1)
    trace = (1 - probs.square().sum(1)) * hidden.square().sum(1)
    assert torch.allclose((probs * dense.square().sum(2)).sum(1), trace)
    assert gradients.expected_gradient_length(probs, 0 * hidden).tolist() == [0.0] * 6


def test_a_sure_row_has_no_length_and_a_longer_embedding_more_in_proportion():
    probs, hidden = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]), torch.ones(2, 4)
    once, thrice = (gradients.expected_gradient_length(probs, each) for each in (hidden, 3 * hidden))
    assert once.gt(0).tolist() == [False, True]
    assert torch.allclose(thrice, 3 * once)


@given(seeds, st.floats(0, 80))
def test_the_expected_gradient_length_keeps_its_digits_on_sure_rows(seed, lead):
    logits, hidden = random(seed, 5, 10), random(seed + 1, 5, 6)
    logits[:, 3] += lead
    logits = logits.float()
    expected = gradients.expected_gradient_length(torch.softmax(logits.double(), 1), hidden, True)
    found = gradients.expected_gradient_length(torch.softmax(logits, 1), hidden.float(), True)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=0)


@given(seeds)
def test_gradients_of_labels_are_the_errors_of_each(seed):
    logits, labels = random(seed, 6, 4), torch.arange(4).expand(6, 4)
    expected = torch.softmax(logits, 1).unsqueeze(1) - torch.eye(4)
    found = gradients.class_gradients(logits, labels)
    assert torch.allclose(found, expected)


def test_a_sketch_keeps_inner_products_on_average():
    error, hidden = random(0, 6, 4), random(1, 6, 3)
    dense = gradients.gradient_embedding(error, hidden)
    coins = torch.Generator().manual_seed(2)
    directions = [gradients.random_directions(each.shape[1], 200_000, coins) for each in (error, hidden)]
    sketch = gradients.sketched_gradient(error, hidden, directions)
    assert sketch.shape == (6, 200_000)
    lengths = dense.norm(dim=1)
    apart = (sketch @ sketch.T - dense @ dense.T).abs() / (lengths.unsqueeze(1) * lengths)
    assert apart.max() < 0.03  # by chance some 0.005
