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
