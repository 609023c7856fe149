import random

import pytest
import torch
from torch import nn

from deepal.data import Digits
from deepal.functional import uncertainty
from deepal.modules import Classifier
from deepal.nn import MLP, ResNet18
from deepal.probes import MCDropout
from deepal.room import Room
from deepal.scan import Scan
from deepal.signals import NonFiniteError, Signals
from deepal.strategies import BALD
from deepal.strategies.base import View, choose


@pytest.fixture
def data():
    made = Digits(eval_batch_size=100)
    made.begin(0, 10)
    return made


def classifier(data, backbone=ResNet18):
    torch.manual_seed(0)
    module = Classifier(backbone)
    module.configure_network(data.task)
    return module


def scan(module, data, **options):
    return Scan(module=module, data=data, device=torch.device("cpu"), **options)


def test_a_scan_equals_a_loop_over_single_images_by_position(data):
    module = classifier(data)
    positions = torch.tensor([700, 3, 12, 3 + 40, 1199])
    read = scan(module, data).read(positions, ("probs", "embedding"))
    module.eval()
    for row, position in enumerate(positions.tolist()):
        image = data.task.normalize(data._set.train.images([position]))
        assert torch.allclose(read["probs"][row], module.probs(image)[0], atol=1e-5)
        assert torch.allclose(read["embedding"][row], module.embedding(image)[0], atol=1e-4)


def test_a_scan_leaves_no_trace(data):
    """Modes, batch norm's running statistics, gradients and the random state are as they were."""

    class Careless(nn.Module):
        """Draws, and switches itself to training: what published code does to sample dropout."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def probs(self, images):
            self.train()
            torch.rand(3), random.random()
            return self.module.probs(images + 5)

    module = classifier(data).train()
    module.network.trunk.layer1.eval()
    modes = [each.training for each in module.modules()]
    state = {name: each.clone() for name, each in module.state_dict().items()}
    random_state, pythons = torch.get_rng_state(), random.getstate()
    for reader, names in ((module, ("probs", "embedding", "logit_gradient")), (Careless(module), ("probs",))):
        scan(reader, data).read(torch.arange(300), names)
        assert [each.training for each in module.modules()] == modes
        assert all(torch.equal(each, state[name]) for name, each in module.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random_state)
        assert random.getstate() == pythons
        assert all(each.requires_grad and each.grad is None for each in module.parameters())


def test_scores_stream_and_equal_scores_of_signals(data):
    module = classifier(data)
    positions = torch.arange(0, 1000, 3)
    seen = []

    def score(signals):
        seen.append(len(signals["probs"]))
        return signals["probs"].amax(1)

    streamed = scan(module, data).map(positions, ("probs",), score)
    assert torch.allclose(streamed, scan(module, data).read(positions, ("probs",))["probs"].amax(1))
    assert max(seen) <= 100


def test_a_set_reads_once_what_is_asked_together_and_keeps_it(data):
    one = scan(classifier(data), data)
    pool = Signals(torch.arange(200), one)
    error, embedding = pool["logit_gradient", "embedding"]
    assert (error.shape, embedding.shape) == ((200, 10), (200, 512))
    assert pool["embedding"] is embedding
    part = pool.take(torch.tensor([5, 7]))
    assert torch.equal(part["embedding"], embedding[[5, 7]])
    assert one.passes == 1
    assert part["probs"].shape == (2, 10)
    assert one.passes == 2


def test_an_empty_set_has_the_shape_of_its_signals(data):
    read = scan(classifier(data), data).read(torch.empty(0, dtype=torch.long), ("embedding",))
    assert read["embedding"].shape == (0, 512)
    assert scan(classifier(data), data).map(
        torch.empty(0, dtype=torch.long), ("probs",), lambda s: s["probs"][:, 0]
    ).shape == (0,)


def test_large_signals_are_held_in_files_that_go_with_them(data, tmp_path, monkeypatch):
    module, positions = classifier(data), torch.arange(500)
    in_memory = scan(module, data).read(positions, ("embedding", "probs"))
    files, from_file = [], torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda path, **how: files.append((path, how["size"])) or from_file(path, **how))
    read = scan(module, data, room=Room(tmp_path, 1000)).read(positions, ("embedding", "probs"))
    assert sorted(size for _, size in files) == [500 * 10, 500 * 512]
    assert all(path.startswith(str(tmp_path)) for path, _ in files)
    assert all(torch.equal(read[name], in_memory[name]) for name in read)
    assert not list(tmp_path.iterdir()), "however the process ends, nothing is left behind"


def test_what_fits_nowhere_is_refused_with_the_cure(data, tmp_path, monkeypatch):
    monkeypatch.setattr("deepal.room.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(MemoryError, match="Prefilter"):
        scan(classifier(data), data, room=Room(tmp_path, 1000)).read(torch.arange(500), ("embedding",))


def test_half_precision_is_kept_in_full(data):
    module = classifier(data)
    half = scan(module, data, precision=lambda: torch.autocast("cpu", torch.bfloat16))
    read = half.read(torch.arange(20), ("embedding", "probs"))
    assert read["embedding"].dtype == read["probs"].dtype == torch.float32
    assert torch.allclose(read["probs"].sum(1), torch.ones(20), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_that_a_module_says_in_half_precision_are_probabilities(data, dtype):
    class Half(nn.Module):
        def probs(self, images):
            return torch.softmax(
                8 * images.flatten(1) @ torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)), 1
            ).to(dtype)

        def mc_probs(self, images):
            return self.probs(images).unsqueeze(1).expand(-1, 3, -1)

    read = scan(Half(), data).read(torch.arange(250), ("probs", "mc_probs"))
    pool = Signals(torch.arange(250), scan(Half(), data))
    assert pool["probs"].dtype == torch.float32
    assert torch.equal(pool.map(lambda signals: uncertainty.margin(signals["probs"]), ("probs",)),
                       uncertainty.margin(read["probs"]))  # fmt: skip
    assert float(pool.map(lambda signals: uncertainty.mutual_information(signals["mc_probs"]), ("mc_probs",)).max()) < 1e-6


def test_progress_is_told(data):
    told = []
    scan(classifier(data), data, advance=told.append).read(torch.arange(250), ("probs",))
    assert told == [100, 200, 250]


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_one_value_that_is_not_finite_is_refused_before_it_is_scored(data, wrong):
    """argmax takes the NaN for the predicted class, which least confidence then leaves out: a fine, high, wrong score."""

    class Diverged(nn.Module):
        def probs(self, images):
            probs = torch.full((len(images), 10), 0.1)
            probs[3, 7] = wrong
            return probs

    pool = Signals(torch.arange(250), scan(Diverged(), data))
    with pytest.raises(NonFiniteError, match="probs is NaN or infinite in 1 of"):
        pool.map(lambda signals: signals["probs"].sum(1).nan_to_num(0, 0, 0), ("probs",))


def test_a_score_is_one_number_a_row(data):
    pool = Signals(torch.arange(250), scan(classifier(data), data))
    with pytest.raises(ValueError, match="one number a row"):
        pool.map(lambda signals: signals["probs"].mean(), ("probs",))


def of_draws(data, **options):
    torch.manual_seed(0)
    module = Classifier(MLP, posterior=MCDropout(6))
    module.configure_network(data.task)
    return scan(module, data, seed=3, **options)


def test_a_second_scan_reads_the_same_draws_and_both_parts_of_uncertainty_by_the_way(data):
    read, positions = of_draws(data), torch.tensor([40, 7, 1100, 3, 900])
    draws = read.read(positions, ("mc_probs",))["mc_probs"]
    parts = read.uncertainty
    assert torch.allclose(parts.aleatoric, uncertainty.expected_entropy(draws))
    assert torch.allclose(parts.epistemic, uncertainty.mutual_information(draws))
    again = read.read(positions[[3, 1]], ("mc_probs",))["mc_probs"]
    assert torch.allclose(again, draws[[3, 1]], atol=1e-6)
    assert read.uncertainty is parts  # of the larger pass
    some = read.parts(positions[[3, 1]])
    assert torch.equal(some.aleatoric, parts.aleatoric[[3, 1]])
    assert torch.equal(some.epistemic, parts.epistemic[[3, 1]])
    assert read.passes == 2  # which was known
    others = read.parts(torch.tensor([8, 3]))  # one of which was not
    assert others.positions.tolist() == [8, 3]
    assert torch.allclose(others.epistemic[1], parts.epistemic[3], atol=1e-6)
    assert scan(classifier(data, MLP), data).parts(positions) is None
    scores = read.map(positions, ("mc_probs",), lambda signals: uncertainty.mutual_information(signals["mc_probs"]))
    assert torch.allclose(scores, parts.epistemic)
    other = of_draws(data)
    other.seed = 4
    assert not torch.allclose(other.read(positions, ("mc_probs",))["mc_probs"], draws, atol=1e-3)
    assert of_draws(data).uncertainty is None


def test_a_scan_of_draws_holds_a_batch_of_them_at_a_time(data):
    class NoRoom(Room):
        def of(self, size, like):
            raise AssertionError("scores are kept, and signals are not")

    torch.manual_seed(0)
    module = Classifier(MLP, posterior=MCDropout(6))
    module.configure_network(data.task)
    pool = Signals(torch.arange(1100), Scan(module, data, torch.device("cpu"), room=NoRoom()))
    choice = choose(BALD(), View(pool, pool), 5, torch.Generator().manual_seed(0))
    assert len(choice.rows) == 5
