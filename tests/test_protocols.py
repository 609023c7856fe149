"""`configs/reproduce` holds the protocols of the papers; what is committed was made by the command that the page names."""

import shlex
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.optim import Adam

from deepal import cli, fingerprint, records
from deepal.callbacks import BestWeights
from deepal.data import MNIST, AtRandom, Balanced, Repeated
from deepal.nn import BatchBALDCNN, GalCNN
from deepal.probes import MCDropout
from deepal.strategies import BALD, BatchBALD, Margin, Random, Stochastic, UnlabeledEntropy, Unlabeledness
from tests.test_reproduction import generator

ROOT = Path(__file__).parent.parent


def study(*arguments):
    made = cli.study_parser(arguments)
    return cli._study_of(made.instantiate(made.parse_args(list(arguments))).as_dict())


def learners(path):
    return list(study("--config", str(ROOT / path)).runs.values())


def test_deep_bayesian_active_learning():
    """Gal, Islam & Ghahramani, 2017, and their scripts."""
    runs = learners("configs/reproduce/dbal_mnist.yaml")
    assert len(runs) == 6 * 3
    for run in runs:
        module = run.module()
        assert type(module.backbone((1, 28, 28), 10)) is GalCNN
        assert module.posterior == MCDropout(100, at_test=False)
        assert module.weight_penalty == 2.5
        assert trains_with_adam(module)
        assert (run.query_size, run.budget, run.pool_subset) == (10, 1000, 2000)
        assert (run.data.batch_size, run.data.epoch_steps, run.data.validation) == (128, None, 0)
        assert run.trainer["max_epochs"] == 50
        assert run.initial == Balanced(2)
        assert not run.warm_start


@pytest.mark.parametrize(
    ("name", "draws", "pool"), [("batchbald_mnist", 100, 60_000), ("batchbald_repeated_mnist", 10, 180_000)]
)
def test_batch_bald(name, draws, pool):
    """Kirsch, van Amersfoort & Gal, 2019, and their code."""
    runs = learners(f"configs/reproduce/{name}.yaml")
    extra = {Stochastic(BALD())} if name == "batchbald_repeated_mnist" else set()
    assert {run.strategy for run in runs} == {Random(), BALD(), BatchBALD(num_samples=40_000, keep=pool)} | extra
    for run in runs:
        module = run.module()
        assert type(module.backbone((1, 28, 28), 10)) is BatchBALDCNN
        assert module.posterior == MCDropout(draws)
        assert module.weight_penalty == 0
        assert trains_with_adam(module)
        assert (run.query_size, run.budget, run.pool_subset) == (10, 300, None)
        data = run.data
        assert (data.batch_size, data.epoch_steps) == (64, 79)  # 5,056 images
        assert data.full_batches
        assert data.validation == 1024
        assert run.trainer["max_epochs"] == 30
        stopping, best = run.trainer["callbacks"]
        assert isinstance(stopping, EarlyStopping)
        assert (stopping.monitor, stopping.mode, stopping.patience, stopping.min_delta) == ("val/accuracy", "max", 3, 0)
        assert isinstance(best, BestWeights)
        assert run.initial == Balanced(2)
        if name == "batchbald_mnist":
            assert isinstance(data, MNIST)
        else:
            assert isinstance(data, Repeated)
            assert (data.times, data.noise) == (3, 0.1)
    assert len({run.seed for run in runs}) == 6


def trains_with_adam(module):
    optimizer = module.optimizer([nn.Parameter(nn.Linear(1, 1).weight)])
    return isinstance(optimizer, Adam) and optimizer.defaults["lr"] == 0.001 and not optimizer.defaults["weight_decay"]


def sections():
    return [each for each in generator().SECTIONS if each.is_made and hasattr(each, "commands")]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.name)
def test_what_is_committed_is_what_the_command_makes(section, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = {}
    for command in section.commands:
        _, _, path, *options = shlex.split(command.partition(" --workers")[0])
        for run in study("--config", path, *options).runs.values():
            described = fingerprint.describe(run)
            runs[_which(described, fingerprint.title(described["strategy"]))] = run
    committed = records.read(ROOT / "results" / section.name / "study.json")
    assert len(committed) == len(runs)
    for record in committed:
        is_ceiling = record.config["initial"]["class"].endswith("Everything")
        run = runs[_which(record.config, record.title["strategy"])]
        assert_agrees(record.config, fingerprint.describe(run))
        assert is_ceiling or record.cycles[-1]["labels"] == run.budget


def _which(config, strategy):
    """What tells the runs of a study from each other."""
    return strategy, config["seed"], config["initial"]["class"], config["data"].get("imbalance")


def assert_agrees(then, now):
    """All that was said then is said now; what is said since is of an option that is off."""
    if isinstance(then, dict):
        for name in then:
            assert_agrees(then[name], now[name])
        assert not any(now[name] for name in {*now} - {*then})
    else:
        assert then == now


def test_variational_adversarial_active_learning():
    """Sinha et al., 2019, and their code."""
    runs = learners("configs/reproduce/vaal_cifar10.yaml")
    assert {run.strategy for run in runs} == {Random(), Unlabeledness()}
    for run in runs:
        module = run.module()
        assert (module.latent_dim, module.beta, module.adversary_weight) == (32, 1, 1)
        assert (module.vae_steps, module.adversary_steps, module.vae_rate, module.adversary_rate) == (2, 1, 5e-4, 5e-4)
        optimizer = module.of.optimizer([nn.Parameter(torch.zeros(1))])
        assert [optimizer.defaults[name] for name in ("lr", "momentum", "weight_decay")] == [0.01, 0.9, 5e-4]
        assert module.of.scheduler(optimizer).step_size * 4 == run.trainer["max_steps"] == 100 * run.data.epoch_steps
        assert (run.data.batch_size, run.data.validation, run.data.full_batches) == (128, 5000, True)
        assert (run.initial, run.query_size, run.budget) == (AtRandom(5000), 2500, 20_000)
        assert any(isinstance(each, BestWeights) for each in run.trainer["callbacks"])


@pytest.mark.parametrize("name", ["mal_cifar10", "mal_mnist"])
def test_minimax_active_learning(name):
    """Ebrahimi et al., 2020, of which there is no code; temperature and weight of Saito et al., 2019."""
    runs = learners(f"configs/reproduce/{name}.yaml")
    assert {run.strategy for run in runs} == {Random(), Margin(), UnlabeledEntropy()}
    assert all((run.module().temperature, run.module().entropy_weight) == (0.05, 0.1) for run in runs)
