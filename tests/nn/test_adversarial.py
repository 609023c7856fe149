import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.nn.adversarial import CosineHead, Discriminator, reverse_gradient

seeds = st.integers(0, 2**31)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gradient_is_turned_round_and_twice_turned_it_is_the_gradient():
    points = random(0, 3, 4).requires_grad_()
    assert torch.equal(reverse_gradient(points), points)
    assert torch.autograd.gradcheck(lambda values: reverse_gradient(reverse_gradient(values)).tanh(), points)
    turned = torch.autograd.functional.jacobian(lambda values: reverse_gradient(values).tanh().sum(), points)
    plain = torch.autograd.functional.jacobian(lambda values: values.tanh().sum(), points)
    assert torch.equal(turned, -plain)


@given(seeds)
def test_what_comes_before_goes_the_other_way_and_what_comes_after_as_before(seed):
    features, weight = random(seed, 6, 3).requires_grad_(), random(seed + 1, 3, 4).requires_grad_()

    def grads(values):
        return torch.autograd.grad(torch.softmax(values @ weight, 1).square().sum(), (features, weight))

    turned, plain = grads(reverse_gradient(features)), grads(features)
    assert torch.allclose(turned[0], -plain[0])
    assert torch.allclose(turned[1], plain[1])


@given(seeds)
def test_a_cosine_head_sees_directions_alone_and_is_bounded(seed):
    head = CosineHead(5, 4, temperature=0.05).double()
    features = random(seed, 7, 5)
    logits = head(features)
    assert torch.allclose(logits, head(features * torch.linspace(0.1, 9, 7).unsqueeze(1)))
    assert (logits.abs() <= head.weight.norm(dim=1) / 0.05 + 1e-9).all()
    assert head.bias is None
    assert torch.allclose(head(features.unflatten(0, (1, 7))), logits.unsqueeze(0)), "sites"


def test_a_discriminator_says_a_number_of_each_vector():
    assert Discriminator(5)(torch.zeros(3, 5)).shape == (3,)
    assert Discriminator(5)(torch.zeros(3, 2, 4, 5)).shape == (3, 2, 4)


def test_a_discriminator_computes_in_single_precision_whatever_is_around():
    torch.manual_seed(0)
    discriminator, vectors = Discriminator(6), torch.randn(500, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(discriminator(vectors), discriminator(vectors.double()))
        assert len(discriminator(vectors).unique()) > 450
