"""VAAL: three networks, each trained by its own loss; what is unlike the labeled is asked for, whatever its label is."""

import signal
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from deepal.functional import variational
from deepal.ledger import Ledger
from deepal.modules import MAL, VAAL, Classifier
from deepal.nn import MLP
from deepal.nn.vae import VAE
from deepal.oracles import DatasetOracle
from deepal.probes import MCDropout
from deepal.strategies import BADGE, ComparedBy, CoreSet, Margin, UnlabeledEntropy, Unlabeledness
from deepal.task import Task
from deepal.weights import load_model
from tests import runs
from tests.modules.pools import asked_first, clusters, low_digits
from tests.runs import Outcome, digits, in_process

SMALL = partial(VAAL, width=8)


def made(module=SMALL, shape=(1, 8, 8)):
    torch.manual_seed(0)
    built = module()
    built.configure_network(Task(shape, ("a", "b", "c"), (0.0,) * shape[0], (1.0,) * shape[0]))
    return built


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 8, 8), (3, 37, 50), (1, 4, 4), (3, 224, 224)])
def test_images_of_any_size_come_back_in_it(shape):
    vae = VAE(shape, latent_dim=5, width=2).eval()
    again, mean, log_variance = vae(torch.randn(2, *shape))
    assert again.shape == (2, *shape)
    assert mean.shape == log_variance.shape == (2, 5)


def test_what_it_says_fits_together():
    module, images = made().eval(), torch.randn(6, 1, 8, 8)
    names = (
        "probs", "logits", "embedding", "logit_gradient", "flip_distance", "latent", "unlabeledness", "reconstruction",
    )  # fmt: skip
    said = module.say(images, names)
    assert set(said) == set(names)
    for name, value in said.items():
        assert torch.allclose(value, getattr(module, name)(images), atol=1e-6)
    assert torch.allclose(said["unlabeledness"], -module.adversary(said["latent"]))
    assert torch.allclose(said["reconstruction"], module.vae.decode(said["latent"]))
    assert said["unlabeledness"].shape == (6,)


def test_each_loss_moves_its_own_network_alone(tmp_path, monkeypatch):
    moved, step = [], VAAL._step

    def watched(self, optimizer, loss):
        before = {name: each.detach().clone() for name, each in self.named_parameters()}
        step(self, optimizer, loss)
        moved.append({name.split(".")[0] for name, each in self.named_parameters() if not torch.equal(each, before[name])})

    monkeypatch.setattr(VAAL, "_step", watched)
    learner = digits(tmp_path, strategy=Unlabeledness(), module=partial(SMALL, adversary_steps=2), budget=20)
    (result,) = learner.run()
    assert moved[:5] == [{"of"}, {"vae"}, {"vae"}, {"adversary"}, {"adversary"}]
    assert moved == moved[:5] * 60, "a step of the fit is one of the classifier"
    assert "test/accuracy" in result.metrics


def test_the_classifier_trains_in_train_mode(tmp_path, monkeypatch):
    """Published code switches it to eval mode before the first step, and never back."""
    modes, step = [], VAAL.training_step

    def watched(self, batch, batch_idx):
        modes.append({each.training for each in self.modules()})
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VAAL, "training_step", watched)
    digits(tmp_path, strategy=Unlabeledness(), module=SMALL, budget=20).run()  # with a validation after each epoch
    assert modes == [{True}] * 60


def test_of_two_clusters_one_of_which_is_labeled_the_other_is_asked_for(tmp_path):
    images, cluster, labeled = clusters()
    asked, _ = asked_first(tmp_path, Unlabeledness(), VAAL, labeled, images, cluster, 200, width=8)
    assert cluster[asked].float().mean() >= 0.95


def test_on_digits_it_sees_what_has_no_label_and_knows_what_images_look_like(tmp_path):
    images, targets, labeled = low_digits()
    asked, module = asked_first(tmp_path, Unlabeledness(), VAAL, labeled, images, targets, 300, width=16)
    assert (targets[asked] >= 5).float().mean() >= 0.8
    some = module.task.normalize(images[:1000])
    with torch.no_grad():
        error = (module.reconstruction(some) - some).square().mean()
        assert variational.alive(module.latent(some)).sum() >= 10
    assert error <= (some - some.mean(0)).square().mean() / 4


@dataclass(frozen=True)
class Renaming(DatasetOracle):
    """Calls each class by the name of the next."""

    def answer(self, questions, data, folder, seed):
        answers = super().answer(questions, data, folder, seed)
        return [each.__class__(each.position, str((int(each.label) + 1) % 10)) for each in answers]


def test_labels_change_nothing_that_is_asked(tmp_path):
    queries = []
    for oracle in (DatasetOracle(), Renaming()):
        learner = digits(tmp_path / type(oracle).__name__, strategy=Unlabeledness(), module=SMALL, oracle=oracle)
        learner.run()
        book = Ledger(learner.folder / "ledger.sqlite")
        queries.append([book.asked(cycle) for cycle in range(4)])
    assert queries[0] == queries[1]


def test_a_killed_run_goes_on_to_the_same_queries(tmp_path):
    changes = {"strategy": Unlabeledness(), "module": SMALL, "budget": 30}
    whole = digits(tmp_path / "whole", **changes)
    whole.run()
    for where, turn in (("after a checkpoint", 3), ("mid-scan", 3), ("between fit and its weights", 1)):
        process = in_process(runs.run_and_die, tmp_path / "killed", where, turn, changes)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, "it died where it should"
    runs.run(tmp_path / "killed", changes)
    assert Outcome.of(digits(tmp_path / "killed", **changes)) == Outcome.of(whole)


def test_other_strategies_read_it_and_it_is_loaded_again(tmp_path):
    for number, strategy in enumerate((BADGE(), Margin())):
        learner = digits(tmp_path / str(number), strategy=strategy, module=SMALL, budget=30)
        assert [each.labels for each in learner.run()] == [20, 30]
    module, images = load_model(learner.folder), torch.rand(3, 1, 8, 8)
    assert module.probs(images).shape == (3, 10)
    assert (module.width, module.latent_dim) == (8, 32)


def test_it_trains_in_mixed_precision_too(tmp_path):
    trainer = {"max_steps": 20, "precision": "bf16-mixed"}
    for module, strategy in ((SMALL, Unlabeledness()), (MAL, UnlabeledEntropy())):
        learner = digits(tmp_path / type(strategy).__name__, strategy=strategy, module=module, budget=30, trainer=trainer)
        assert [each.labels for each in learner.run()] == [20, 30]


def test_its_latent_is_covered_in_one_line(tmp_path):
    learner = digits(tmp_path, strategy=ComparedBy(CoreSet(), "latent"), module=SMALL, budget=30)
    assert [each.labels for each in learner.run()] == [20, 30]
    with pytest.raises(ValueError, match=r"needs latent, which Classifier cannot say; VAAL can"):
        digits(tmp_path / "without", strategy=ComparedBy(CoreSet(), "latent")).run()
    with pytest.raises(ValueError, match=r"ComparedBy\(of=BADGE"):
        ComparedBy(BADGE(), "latent")


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="leave frozen and posterior out"):
        VAAL(Classifier(posterior=MCDropout()))
    with pytest.raises(ValueError, match="vae_steps=0"):
        VAAL(vae_steps=0)
    with pytest.raises(ValueError, match=r"VAAL\(of=MLP\)"):
        VAAL(MLP((1, 8, 8), 3))
    with pytest.raises(ValueError, match="those of 3 x 9 pixels are too small"):
        VAE((1, 3, 9))
