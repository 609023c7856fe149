import pytest
import torch

from deepal.nn import MLP, BatchBALDCNN, GalCNN, ResNet18, ResNet34, ResNet50, Timm, Torchvision
from deepal.nn.network import width_of


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP, (1, 8, 8)),
        (GalCNN, (1, 28, 28)),
        (GalCNN, (1, 8, 8)),
        (BatchBALDCNN, (1, 28, 28)),
        (BatchBALDCNN, (3, 32, 32)),
        (ResNet18, (1, 28, 28)),
        (ResNet34, (3, 32, 32)),
        (ResNet50, (3, 32, 32)),
    ],
)
def test_the_embedding_is_the_input_of_the_last_linear_layer(network, shape):
    made = network(shape, 7).eval()
    images = torch.randn(2, *shape)
    seen = []
    made.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    logits = made(images)
    assert logits.shape == (2, 7)
    assert torch.equal(seen[0], made.forward_features(images))
    assert torch.equal(made.forward_head(seen[0]), logits)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5"])
def test_any_classifier_of_torchvision(name):
    made = Torchvision((1, 64, 64), 5, name=name).eval()
    images = torch.randn(2, 1, 64, 64)
    assert made.forward_features(images).shape == (2, made.head.in_features)
    assert made(images).shape == (2, 5)


def test_googlenet_answers_one_tensor_while_training():
    assert Torchvision((3, 64, 64), 5, name="googlenet").train()(torch.randn(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("name", ["resnet19", "squeezenet1_0"])
def test_a_network_that_cannot_be_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        Torchvision((3, 64, 64), 5, name=name)


def test_five_channels_are_refused():
    with pytest.raises(ValueError, match="5"):
        Torchvision((5, 64, 64), 5)


def test_the_layers_of_the_papers():
    """Gal et al. (2017) and Kirsch et al. (2019): kernel sizes, channels and dropout rates in order."""

    def layers(network):
        found = []
        for each in network.modules():
            if isinstance(each, torch.nn.Conv2d):
                found.append(("conv", each.out_channels, each.kernel_size[0]))
            elif isinstance(each, torch.nn.Dropout | torch.nn.Dropout2d):
                found.append((type(each).__name__, each.p))
            elif isinstance(each, torch.nn.Linear):
                found.append(("linear", each.in_features, each.out_features))
        return found

    assert layers(GalCNN((1, 28, 28), 10)) == [
        ("conv", 32, 4), ("conv", 32, 4), ("Dropout", 0.25), ("linear", 3872, 128), ("Dropout", 0.5), ("linear", 128, 10),
    ]  # fmt: skip
    assert layers(BatchBALDCNN((1, 28, 28), 10)) == [
        ("conv", 32, 5), ("Dropout2d", 0.5), ("conv", 64, 5), ("Dropout2d", 0.5), ("linear", 1024, 128), ("Dropout", 0.5),
        ("linear", 128, 10),
    ]  # fmt: skip


def test_a_model_of_timm_is_split_before_its_last_layer():
    pytest.importorskip("timm")
    network = Timm((1, 32, 32), 7, name="resnet10t").eval()
    images = torch.rand(2, 1, 32, 32)
    assert network.forward_features(images).shape == (2, network.head.in_features)
    assert torch.equal(network(images), network.head(network.forward_features(images)))
    with pytest.raises(ValueError, match=r"no model 'resnet18x'; the nearest is resnet18"):
        Timm((3, 32, 32), 7, name="resnet18x")


@pytest.mark.parametrize("network", [GalCNN, BatchBALDCNN])
def test_finding_the_width_draws_nothing_and_changes_no_mode(network):
    made = network((1, 28, 28), 10)
    dense = next(i for i, layer in enumerate(made.features) if isinstance(layer, torch.nn.Linear))
    trunk = made.features[:dense]
    trunk[0].eval()
    modes, state = [each.training for each in trunk.modules()], torch.get_rng_state()
    assert width_of(trunk, (1, 28, 28)) == made.features[dense].in_features
    assert torch.equal(torch.get_rng_state(), state)
    assert [each.training for each in trunk.modules()] == modes


def test_a_head_without_a_bias():
    network = MLP((1, 8, 8), 10, hidden=(16,), dropout=0, head_bias=False)
    assert network.head.bias is None
    assert not network.head(torch.zeros(1, 16)).any()
