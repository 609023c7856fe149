import json

import pytest
import torch
from safetensors.torch import save_file

import deepal
from deepal import weights
from deepal.modules import Classifier
from deepal.nn import ResNet18
from deepal.task import Task

TASK = Task((3, 16, 16), ("a", "b"), (0.5,) * 3, (0.25,) * 3)


def test_a_model_comes_back_as_it_was(tmp_path):
    module = Classifier(ResNet18)
    module.configure_network(TASK)
    weights.save(module, tmp_path / "model.safetensors", {"seconds": {"fit": 2.0}})
    found = deepal.load_model(tmp_path)
    images = torch.randn(2, 3, 16, 16)
    assert found.task == TASK
    assert not found.training
    assert torch.equal(found.probs(images), module.eval().probs(images))
    assert weights.notes(tmp_path / "model.safetensors")["seconds"] == {"fit": 2.0}


@pytest.mark.parametrize(
    "named",
    [
        {"class": "deepal.cli.main", "arguments": ["--version"]},
        {"class": "deepal.__main__.x"},
        {"class": "os.system", "command": "true"},
        {"class": "deepal.nn.network.width_of"},
        {"class": "deepal.modules.classifier.gradients"},
        {},
    ],
)
def test_a_file_cannot_make_us_call_what_it_names(tmp_path, named, capsys):
    metadata = {"deepal": json.dumps({"module": named, "task": None})}
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="not deepal's"):
        deepal.load_model(tmp_path)
    assert not capsys.readouterr().out
