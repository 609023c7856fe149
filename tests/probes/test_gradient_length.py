from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from deepal.functional import gradients
from deepal.modules import Adapter, Classifier, Snapshot
from deepal.nn import MLP, ResNet18
from deepal.probes import GradientLength
from deepal.strategies import EGL
from deepal.task import Task
from tests.runs import digits


def module(backbone=MLP):
    torch.manual_seed(0)
    made = Classifier(backbone)
    made.configure_network(Task((1, 8, 8), ("a", "b", "c"), (0.0,), (1.0,)))
    return made


def read(probe, made, images):
    with torch.inference_mode():
        return probe.start(made, torch.Generator())(images)


def by_loops(made, images, labels=3):
    """A backward pass for each image and label."""
    made.eval()
    found = []
    for image in images:
        probs = torch.softmax(made.logits(image[None]), 1)[0].detach()
        total = 0.0
        for label in probs.topk(labels).indices:
            made.zero_grad()
            nn.functional.cross_entropy(made.logits(image[None]), label[None]).backward()
            trained = [each.grad for each in made.parameters() if each.requires_grad]
            total += float(probs[label] * torch.stack([each.norm() for each in trained]).norm())
        found.append(total)
    return torch.tensor(found)


@pytest.mark.parametrize("backbone", [MLP, ResNet18])
@pytest.mark.parametrize("labels", [None, 1, 2])
def test_it_is_what_a_loop_over_images_and_labels_finds(backbone, labels):
    made, images = module(backbone), torch.rand(4, 1, 8, 8)
    expected = by_loops(made, images, labels or 3)
    made.train()
    before = {name: each.clone() for name, each in made.state_dict().items()}
    made.zero_grad()
    assert torch.allclose(read(GradientLength(labels), made, images), expected, rtol=1e-4)
    assert made.training
    assert all(each.grad is None for each in made.parameters())
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())


class Linear(LightningModule):
    """One layer, with a bias."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, images):
        return self.fc(images)


def test_of_a_network_of_one_layer_it_is_the_closed_form():
    made, rows = Adapter(Linear)().deepal_voice, torch.randn(7, 6)
    expected = gradients.expected_gradient_length(made.probs(rows), rows, bias=True)
    assert torch.allclose(read(GradientLength(), made, rows), expected, rtol=1e-5)


def test_what_is_frozen_is_not_counted():
    made = module()
    for name, each in made.named_parameters():
        each.requires_grad_(name.startswith("network.head"))
    images = torch.rand(5, 1, 8, 8)
    made.eval()
    expected = gradients.expected_gradient_length(made.probs(images), made.embedding(images), bias=True)
    assert torch.allclose(read(GradientLength(), made, images), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="Classifier trains nothing"):
        read(GradientLength(), made.requires_grad_(False), images)


def test_a_run_reads_it_and_is_told_of_it_where_it_is_missing(tmp_path):
    chosen = digits(tmp_path, strategy=EGL(whole_network=True), probes=[GradientLength(2)], trainer={"max_steps": 20}).run()
    assert [each.labels for each in chosen] == [20, 30, 40, 50]
    with pytest.raises(
        ValueError, match=r"needs gradient_length, which Classifier cannot say.*probes=\[GradientLength\(\)\]"
    ):
        digits(tmp_path / "without", strategy=EGL(whole_network=True)).run()
    with pytest.raises(ValueError, match="labels=0"):
        GradientLength(0)


def test_it_is_read_in_full_precision_whatever_is_around():
    """In half precision the errors of sure rows vanish, and with them all scores."""
    made, images = module(), torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        made.network.head.bias[1] += 25
    plain = read(GradientLength(), made, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(read(GradientLength(), made, images), plain)
    assert (plain > 0).all()
    assert torch.allclose(read(GradientLength(), made.double(), images.double()), plain.double(), rtol=1e-3)


def test_what_does_not_hang_on_trained_weights_or_is_no_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"GradientLength\(.*\) finds no gradient in any image"):
        digits(
            tmp_path, strategy=EGL(whole_network=True), probes=[GradientLength(1)], module=partial(Snapshot, cycles=2),
            trainer={"max_steps": 20},
        ).run()  # fmt: skip
    with pytest.raises(ValueError, match="reads one class an image"):
        GradientLength().start(Adapter(Linear, activation="sigmoid")().deepal_voice, torch.Generator())
