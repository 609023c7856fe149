"""Probes read modules that know nothing of them; the example in `examples/` is one, of at most 40 lines."""

import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deepal.modules import Classifier
from deepal.probes import Probe
from deepal.strategies import Margin, Prefilter
from deepal.task import Task
from tests.runs import Outcome, digits

EXAMPLE = Path(__file__).parents[2] / "examples" / "noise_stability.py"
example = runpy.run_path(str(EXAMPLE))
NoiseStability, WeightNoise = example["NoiseStability"], example["WeightNoise"]


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_it_runs_to_the_same_end_twice_and_after_a_prefilter(tmp_path):
    for strategy in (NoiseStability(), Prefilter(Margin(), NoiseStability(), keep=50)):
        made = {"strategy": strategy, "probes": [WeightNoise(draws=3)], "trainer": {"max_steps": 20}}
        runs = [digits(tmp_path / str(turn), **made) for turn in range(2)]
        assert [each.labels for each in runs[0].run()] == [20, 30, 40, 50]
        runs[1].run()
        assert Outcome.of(runs[0]) == Outcome.of(runs[1])


def module(seed=0):
    torch.manual_seed(seed)
    made = Classifier()
    made.configure_network(Task((1, 4, 4), ("a", "b", "c"), (0.0,), (1.0,)))
    return made.eval()


def read(probe, made, images, seed=0, parts=1):
    say = probe.start(made, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return torch.cat([say(part) for part in images.chunk(parts)])


def test_the_noise_is_the_same_for_all_images_and_leaves_the_weights_alone():
    made, images = module(), torch.rand(9, 1, 4, 4)
    before = {name: each.clone() for name, each in made.state_dict().items()}
    whole = read(WeightNoise(draws=2), made, images)
    assert whole.shape == (9, 2 * 3)
    assert torch.allclose(whole, read(WeightNoise(draws=2), made, images, parts=4), atol=1e-6)
    assert not torch.allclose(whole, read(WeightNoise(draws=2), made, images, seed=1), atol=1e-3)
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())
    assert torch.allclose(read(WeightNoise(scale=0.0), made, images), torch.zeros(9, 30), atol=1e-6)


def test_each_noise_is_as_long_as_it_says():
    weight = torch.randn(30, 20)
    noisy = WeightNoise(scale=0.1)._noisy(weight, torch.Generator())
    assert float((noisy - weight).norm() / weight.norm()) == pytest.approx(0.1, rel=1e-5)


@dataclass(frozen=True)
class Needy(Probe):
    """Asks what nobody says."""

    says, asks = "noise_moves", ("dreams",)

    def start(self, module, generator):
        return lambda images: images.flatten(1)


def test_what_nobody_can_say_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"NoiseStability\(\) needs noise_moves, which Classifier cannot say.*probe"):
        digits(tmp_path, strategy=NoiseStability()).run()
    with pytest.raises(ValueError, match=r"Needy\(\) asks dreams of Classifier"):
        digits(tmp_path, strategy=NoiseStability(), probes=[Needy()]).run()
    with pytest.raises(TypeError):
        Probe()
