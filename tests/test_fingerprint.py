import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule

from deepal import seeds
from deepal.data import Digits
from deepal.fingerprint import NEUTRAL, describe, differences, digest
from deepal.modules import Classifier
from deepal.nn import MLP
from deepal.strategies import BADGE, Margin, Prefilter


@dataclass
class Part:
    rate: float = 0.5
    folder: str = field(default="here", metadata=NEUTRAL)


class Kept:
    def __init__(self, width=3, *, depth=2):
        self.width, self.depth, self.derived = width, depth, width * depth


def test_a_description_is_class_and_arguments():
    name = f"{__name__}."
    assert describe(Part(0.25)) == {"class": name + "Part", "rate": 0.25}
    assert describe(Kept(4)) == {"class": name + "Kept", "width": 4, "depth": 2}
    assert describe([Path("a"), {1: (2, None)}, True]) == ["a", {"1": [2, None]}, True]


def test_an_instance_a_partial_and_a_class_that_make_the_same_are_the_same():
    same = [Kept(), Kept, partial(Kept), partial(Kept, 3), partial(Kept, width=3, depth=2)]
    assert len({digest(describe(each)) for each in same}) == 1
    assert describe(Classifier()) == describe(Classifier) == describe(partial(Classifier, backbone=MLP))
    assert describe(Classifier(partial(MLP, hidden=(8,)))) != describe(Classifier())


def test_one_number_has_one_description():
    assert digest(describe(Part(2))) == digest(describe(Part(2.0)))
    assert digest(describe(Part(0.5))) != digest(describe(Part(2)))


def test_differences_name_what_was_and_is():
    before = describe(Prefilter(Margin(), BADGE(), keep=20))
    now = describe(Prefilter(Margin(), BADGE(first="uniform"), keep=30))
    assert differences(before, now) == ["then.first: was 'max_norm', is 'uniform'", "keep: was 20, is 30"]
    assert differences(before, before) == []
    assert differences({"a": 1, "b": 2}, {"b": 2}) == ["a: was 1, is 'absent'"]


def test_the_same_in_another_process():
    code = "from deepal.data import Digits; from deepal.fingerprint import *; print(digest(describe(Digits(batch_size=7))))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == digest(describe(Digits(batch_size=7)))


def test_seeds_differ_by_every_key_and_fit_every_generator():
    found = {seeds.derive(seed, phase, cycle) for seed in range(5) for phase in ("fit", "select") for cycle in range(50)}
    assert len(found) == 500
    assert all(0 <= seed < 2**63 for seed in found)
    torch.Generator().manual_seed(max(found))


class Renamed:
    def __init__(self, power):
        self._power = power


class WithHparams(LightningModule):
    def __init__(self, rate):
        super().__init__()
        self.save_hyperparameters()


def test_what_differs_in_an_argument_is_never_described_alike():
    """Two experiments in one folder: the second would return the first one's numbers."""
    for first, second in [
        (Renamed(1.0), Renamed(-1.0)),
        (WithHparams(0.1), WithHparams(0.2)),
        (lambda: Classifier(frozen=True), lambda: Classifier(frozen=False)),
        (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
        (torch.zeros(3), torch.ones(3)),
        (np.zeros(3), np.ones(3)),
    ]:
        assert describe(first) != describe(second)
    made = [_closure(rate) for rate in (1, 2, 1)]
    assert describe(made[0]) == describe(made[2]) != describe(made[1])


def test_sets_have_one_description_in_every_process():
    code = (
        "from deepal.fingerprint import *; f = lambda x: x in {'a', 'b', 'c', 'd'}; "
        "print(digest(describe([{'a', 'b', 'c', 'd'}, f])))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in "123"
    }
    assert len(found) == 1
    assert found != {""}


def _closure(rate):
    return lambda: rate


def test_instances_of_other_layers_are_other_modules():
    import torch
    from torch import nn

    def net(*layers):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), *layers)

    described = [describe(net(*layers)) for layers in ((nn.ReLU(),), (nn.Tanh(),), (nn.Dropout(0.1),), (nn.Dropout(0.9),))]
    assert len({digest(each) for each in described}) == 4
    assert describe(net(nn.ReLU())) == described[0]
    assert describe(net().to(torch.bfloat16)) != describe(net())
    assert describe(nn.Sequential(nn.LazyLinear(3)))
