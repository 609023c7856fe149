"""VAAL: three networks, each trained by its own loss; what is unlike the labeled is asked for, whatever its label is."""

import csv
import signal
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from deepal import fitting
from deepal.callbacks import BestWeights
from deepal.data import AtRandom, ImageFolder
from deepal.functional import variational
from deepal.ledger import Ledger
from deepal.modules import MAL, VAAL, Classifier, vaal
from deepal.nn import MLP
from deepal.nn.vae import VAE
from deepal.oracles import DatasetOracle
from deepal.probes import MCDropout
from deepal.report import Reconstructions
from deepal.strategies import BADGE, ComparedBy, CoreSet, Margin, UnlabeledEntropy, Unlabeledness
from deepal.task import Task
from deepal.weights import load_model
from tests import own, runs
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


@pytest.mark.parametrize(("shape", "latent"), [((1, 28, 28), 32), ((1, 8, 8), 5), ((3, 16, 12), 7)])
def test_the_loss_of_the_autoencoder_is_what_is_written_down(shape, latent, monkeypatch):
    """An error of a pixel, a divergence of a latent number, and how little the discriminator takes for labeled; with 28 x
    28 pixels and 32 latent numbers they weigh as in the bound of an image, with errors of variance 1."""
    module = made(partial(SMALL, beta=1.7, adversary_weight=2.3, latent_dim=latent), shape)
    module._seen = []
    labeled, unlabeled = torch.randn(4, *shape), torch.randn(6, *shape)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    found = module.vae_loss(labeled, unlabeled)
    images = torch.cat([labeled, unlabeled])
    mean, log_variance = module.vae.encode(images)
    again = module.vae.decode(mean + (log_variance / 2).exp())
    divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2 / (10 * latent)
    taken = torch.sigmoid(module.adversary(mean)).log()
    fooled = -taken[:4].mean() - taken[4:].mean()
    beside = 1.7 * divergence + 2.3 * fooled / latent
    assert torch.allclose(found, ((again - images) ** 2).mean() + 2 * 32 / 784 * beside, rtol=1e-4)
    if shape == (1, 28, 28):
        bound = ((again - images) ** 2).sum() / 10 / 2 + 1.7 * 32 * divergence + 2.3 * fooled
        assert torch.allclose(found, bound * 2 / 784, rtol=1e-4)


def test_the_loss_of_the_discriminator_is_small_where_it_is_right():
    module = made()
    labeled, unlabeled = torch.randn(4, 1, 8, 8), torch.randn(6, 1, 8, 8)
    told = module.adversary(module.latent(torch.cat([labeled, unlabeled])))
    expected = -torch.sigmoid(told[:4]).log().mean() - torch.sigmoid(-told[4:]).log().mean()
    loss = module.adversary_loss(labeled, unlabeled)
    assert torch.allclose(loss, expected)
    loss.backward()
    assert all(each.grad is None for each in module.vae.parameters())


def test_a_schedule_is_of_the_classifier_and_steps_with_it(tmp_path, monkeypatch):
    rates, step = [], VAAL.training_step

    def watched(self, batch, batch_idx):
        rates.append([each.param_groups[0]["lr"] for each in self.trainer.optimizers])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VAAL, "training_step", watched)
    of = partial(Classifier, scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=20, gamma=0.1))
    digits(tmp_path, strategy=Unlabeledness(), module=partial(SMALL, of), budget=20).run()
    assert [rates[i][0] for i in (0, 19, 20, 40)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert {tuple(each[1:]) for each in rates} == {(5e-4, 5e-4)}


def test_what_the_latent_says_is_logged_and_drawn_and_a_collapse_is_said(tmp_path, caplog):
    for beta, collapses in ((1.0, False), (1e4, True)):
        learner = digits(
            tmp_path / str(beta), strategy=Unlabeledness(), module=partial(SMALL, beta=beta), budget=30,
        )  # fmt: skip
        learner.run([Reconstructions()])
        (row, *_) = csv.DictReader((learner.folder / "curves" / "000" / "metrics.csv").open())
        assert {"train/reconstruction", "train/divergence", "train/alive"} <= set(row)
        assert [each.name for each in sorted((learner.folder / "reconstructions").iterdir())] == ["000.png"]
        said = [each.message for each in caplog.records if "says next to nothing" in each.message]
        assert len(said) == 2 * collapses, "once a fit"


def test_each_loss_moves_its_own_network_alone(tmp_path, monkeypatch):
    moved, step = [], vaal.step

    def watched(module, *of):
        before = {name: each.detach().clone() for name, each in module.named_parameters()}
        step(module, *of)
        moved.append(
            {name.split(".")[0] for name, each in module.named_parameters() if not torch.equal(each, before[name])}
        )

    monkeypatch.setattr(vaal, "step", watched)
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
    (file,) = tmp_path.rglob("ledger.sqlite")
    with torch.no_grad():
        in_eval_mode = module.unlabeledness(module.task.normalize(images[asked]))
    assert torch.allclose(torch.tensor(Ledger(file).scores(0)).float(), in_eval_mode, atol=1e-3)
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


@pytest.mark.parametrize(
    "callbacks", [[], pytest.param([BestWeights()], marks=pytest.mark.slow)], ids=["as it ends", "best weights"]
)
def test_labels_change_nothing_that_is_asked(tmp_path, callbacks):
    queries, trainer = [], {"max_steps": 60, "callbacks": callbacks}
    for oracle in (DatasetOracle(), Renaming()):
        root = tmp_path / type(oracle).__name__
        learner = digits(root, strategy=Unlabeledness(), module=SMALL, oracle=oracle, trainer=trainer)
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


@pytest.mark.parametrize("module", [SMALL, MAL])
def test_options_for_automatic_steps_are_refused_before_anything_is_asked(tmp_path, module):
    for name, value in (("gradient_clip_val", 1.0), ("accumulate_grad_batches", 2)):
        learner = digits(tmp_path, strategy=Margin(), module=module, trainer={"max_steps": 20, name: value})
        with pytest.raises(ValueError, match=f"trainer.{name} is for modules that leave their steps to the Trainer"):
            learner.run()
        assert not Ledger(learner.folder / "ledger.sqlite").asked(-1)


def test_unlabeled_images_that_cannot_be_read_cost_no_second_fit(tmp_path, monkeypatch):
    """They are left out of the stream, and set aside by the scan; a killed fit meets them again as it did."""
    scans, names = own.scans(160)
    files = own.png_folder(tmp_path / "images", scans, names)
    for file in files[::20]:
        own.truncate(tmp_path / "images" / file)
    fits = []
    fit = fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *of: (fits.append(1), fit(*of)))
    data = ImageFolder(root=tmp_path / "images", image_size=28, validation=0, epoch_steps=5, max_bad_fraction=0.2)
    learner = digits(
        tmp_path, strategy=Unlabeledness(), module=SMALL, data=data, budget=40, initial=AtRandom(20), query_size=10,
        trainer={"max_steps": 10},
    )  # fmt: skip
    assert [each.labels for each in learner.run()] == [20, 30, 40]
    assert len(fits) == 3
    assert 0 < len(Ledger(learner.folder / "ledger.sqlite").unreadable()) <= 8


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="leave frozen and posterior out"):
        VAAL(Classifier(posterior=MCDropout()))
    with pytest.raises(ValueError, match="vae_steps=0"):
        VAAL(vae_steps=0)
    with pytest.raises(ValueError, match="beta=nan"):
        VAAL(beta=float("nan"))
    with pytest.raises(ValueError, match=r"VAAL\(of=MLP\)"):
        VAAL(MLP((1, 8, 8), 3))
    with pytest.raises(ValueError, match="those of 3 x 9 pixels are too small"):
        VAE((1, 3, 9))
