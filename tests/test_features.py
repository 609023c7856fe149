"""Features that are not trained are read once, stand for images in all that a run does, and are what strategies compare."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import deepal
from deepal import load_model
from deepal.data import Digits, RandomFlip
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import UnreadableError
from deepal.features import FeatureStore
from deepal.ledger import Ledger
from deepal.modules import Classifier, Ensemble
from deepal.nn import MLP, Frozen, Headed, Network
from deepal.probes import MCDropout
from deepal.ranks import Ranks
from deepal.representation import Backbone, FeatureFile
from deepal.run import RunMismatchError
from deepal.strategies import BADGE, BALD, CoreSet, Margin, Prefilter, Random, TypiClust, WeightedKMeans
from tests.runs import Outcome, digits

read_images = []  # how many, in each forward pass of the network below


class Convolved(Network):
    """Convolution, batch norm, dropout."""

    def __init__(self, input_shape, classes):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AvgPool2d(2), nn.Flatten()
        )  # fmt: skip
        self.head = nn.Linear(72, classes)

    def forward_features(self, images):
        read_images.append(len(images))
        return self.trunk(images)


@pytest.fixture(autouse=True)
def nothing_read():
    read_images.clear()


def plain(**options):
    return Digits(**{"epoch_steps": 10, "validation": 30, **options})


def test_images_are_read_once_for_all_cycles_and_runs_of_a_folder(tmp_path):
    for strategy in (BADGE(), Margin(), TypiClust()):
        digits(tmp_path, module=Classifier(Convolved, frozen=True), strategy=strategy, data=plain()).run()
    rehearsed = 3 * 16
    assert sum(read_images) <= 1200 + 597 + 2 * rehearsed
    assert read_images[-1] <= 16
    store = next((tmp_path / ".features").iterdir())
    assert np.load(store / "train.npy").shape == (1200, 72)


@pytest.mark.parametrize(
    "module",
    [
        lambda: Classifier(Convolved, frozen=True),
        lambda: Classifier(partial(Headed, of=Convolved, hidden=(16,)), frozen=True),
        lambda: Ensemble(Classifier(Convolved, frozen=True), 2),
    ],
)
def test_a_run_of_features_is_the_run_of_images(tmp_path, monkeypatch, module):
    rows = digits(tmp_path / "rows", module=module(), data=plain(), strategy=CoreSet(), budget=30)
    rows.run()
    assert rows.data.serves_features
    monkeypatch.setattr(ActiveDataModule, "is_read_once", False)
    images = digits(tmp_path / "images", module=module(), data=plain(), strategy=CoreSet(), budget=30)
    images.run()
    assert not images.data.serves_features
    asked = [Ledger(each.folder / "ledger.sqlite").asked(0) for each in (rows, images)]
    assert asked[0] == asked[1]
    found = [load_file(each.folder / "model.safetensors") for each in (rows, images)]
    assert set(found[0]) == set(found[1])
    assert all(torch.allclose(each, found[1][name], atol=1e-4) for name, each in found[0].items())


def test_what_is_left_of_a_run_predicts_from_images(tmp_path):
    run = digits(tmp_path, module=Classifier(Convolved, frozen=True), data=plain())
    results = run.run()
    weights = load_file(run.folder / "model.safetensors")
    assert {name.split(".")[1] for name in weights} == {"head", "trunk"}
    model = _loaded(run)
    images, targets = _tested(run)
    probs = model.probs(model.task.normalize(images))
    assert float((probs.argmax(1) == targets).float().mean()) == pytest.approx(results[-1].metrics["test/accuracy"])
    with torch.no_grad():
        for each in model.network.trunk.parameters():
            each.zero_()
    again = load_model(run.folder, model)  # what the features come from is in the file
    assert torch.equal(again.probs(again.task.normalize(images)), probs)


def _loaded(run):
    module = Classifier(Convolved, frozen=True)
    module.configure_network(run.data.task)
    return load_model(run.folder, module)


def _tested(run):
    positions = torch.tensor(run.data.test_positions)
    return run.data._set.test.images(positions), run.data._set.test.targets(positions)


def test_only_the_last_model_holds_what_was_not_trained(tmp_path):
    run = digits(tmp_path, module=Classifier(Convolved, frozen=True), data=plain(), budget=30)
    run.run()
    earlier = sorted((run.folder / "cycles").glob("*/weights.safetensors"))
    names = [{name.split(".")[1] for name in load_file(file)} for file in earlier]
    assert names[-1] == {"head", "trunk"}
    assert all(each == {"head"} for each in names[:-1])


def test_a_head_of_several_layers_is_trained_and_nothing_else():
    module = Classifier(partial(Headed, of=Convolved, hidden=(16, 8)), frozen=True)
    module.configure_network(_task())
    before = {name: each.clone() for name, each in module.network.trunk.state_dict().items()}
    assert {name.split(".")[0] for name, _ in module.network.named_parameters()} == {"layers", "head"}
    assert module.embedding(torch.rand(3, 1, 8, 8)).shape == (3, 8)
    optimizer = module.configure_optimizers()
    module.train()
    module.loss({"input": torch.rand(9, 1, 8, 8), "target": torch.arange(9)}, 9)[0].backward()
    optimizer.step()
    assert all(torch.equal(each, before[name]) for name, each in module.network.trunk.state_dict().items())
    assert all(each.grad is not None for each in module.network.parameters())


def test_copies_of_a_recipe_share_the_network_and_draw_heads_of_their_own():
    from copy import deepcopy

    recipe = Classifier(Convolved, frozen=True)
    first, second = deepcopy(recipe), deepcopy(recipe)
    for module in (first, second):
        module.configure_network(_task())
    assert first.network.trunk is second.network.trunk
    assert not torch.equal(first.network.head.weight, second.network.head.weight)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    head = nn.Linear(72, 10)
    torch.manual_seed(5)
    first.configure_network(_task())
    assert torch.equal(first.network.head.weight, head.weight)  # whoever draws the network first, heads are the same
    torch.set_rng_state(state)


def test_a_posterior_is_one_of_what_is_trained():
    with pytest.raises(ValueError, match="network with dropout, and that of Classifier has none"):
        _drawn(Classifier(Convolved, frozen=True, posterior=MCDropout(4))).mc_probs(torch.rand(2, 1, 8, 8))
    module = _drawn(Classifier(partial(Headed, of=Convolved), frozen=True, posterior=MCDropout(4)))
    images = torch.rand(5, 1, 8, 8)
    rows = module.network.trunk_features(images)
    assert torch.allclose(module.mc_probs(images), module.mc_probs(rows), atol=1e-6)
    assert module.mc_probs(images).std(1).max() > 0


def _drawn(module):
    module.configure_network(_task())
    return module.eval()


def _task():
    data = Digits()
    data.begin(0, 0)
    return data.task


def test_augmented_images_are_read_as_often_as_they_are_seen(tmp_path):
    run = digits(tmp_path, module=Classifier(Convolved, frozen=True), data=plain(augmentation=[RandomFlip()]), budget=30)
    run.run()
    assert not run.data.serves_features
    assert not (tmp_path / ".features").exists()


def test_a_module_that_trains_its_features_reads_images(tmp_path):
    run = digits(tmp_path, module=Classifier(Convolved), data=plain(), budget=30)
    run.run()
    assert not run.data.serves_features

    class Mine(Classifier):
        """It may look at pixels, for all that is known."""

    assert _drawn(Mine(Convolved, frozen=True)).frozen_network is None
    assert isinstance(_drawn(Classifier(Convolved, frozen=True)).frozen_network, Frozen)


# The store


def store_of(tmp_path):
    return FeatureStore(tmp_path / "store", Ranks())


def features(positions):
    return torch.stack([positions.float(), -positions.float()], 1)


def test_whoever_is_killed_has_lost_a_block_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr("deepal.features._BLOCK", 4)
    asked = []

    def read(some):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(some.tolist())
        return features(some)

    positions = [1, 2, 3, 5, 8, 9, 11, 12, 13, 17, 18, 19, 0]
    with pytest.raises(KeyboardInterrupt):
        store_of(tmp_path).rows("train", 20, positions, read)
    assert asked == [[0, 1, 2, 3], [5, 8, 9, 11], [12, 13, 17, 18]]
    rest = []
    rows = store_of(tmp_path).rows("train", 20, positions, lambda some: (rest.append(some.tolist()), features(some))[1])
    assert rest == [[19]]
    assert torch.equal(rows[sorted(positions)], features(torch.tensor(sorted(positions))))
    more = store_of(tmp_path).rows("train", 20, [4, 5], lambda some: (rest.append(some.tolist()), features(some))[1])
    assert rest[1:] == [[4]]
    assert torch.equal(more[4:6], features(torch.tensor([4, 5])))


def test_what_cannot_be_read_is_said_when_all_else_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr("deepal.features._BLOCK", 4)

    def read(some):
        wrong = {position: "no image" for position in some.tolist() if position in (2, 9)}
        if wrong:
            raise UnreadableError(wrong)
        return features(some)

    with pytest.raises(UnreadableError, match="2: no image; 9: no image"):
        store_of(tmp_path).rows("train", 10, range(10), read)
    others = [0, 1, 3, 4, 5, 6, 7, 8]
    rows = store_of(tmp_path).rows("train", 10, others, lambda some: pytest.fail("all of these were read"))
    assert torch.equal(rows[others], features(torch.tensor(others)))


# Embeddings from elsewhere


@pytest.fixture
def pixels(tmp_path):
    data = Digits()
    data.begin(0, 0)
    rows = data._set.train.data.flatten(1).float() / 16
    np.save(tmp_path / "pixels.npy", rows.half().numpy())
    return rows.half().float()


def test_strategies_compare_the_rows_of_a_file(tmp_path, pixels):
    run = digits(
        tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(f"{tmp_path}/pixels.npy"), data=plain(), budget=40
    )
    run.run()
    ledger = Ledger(run.folder / "ledger.sqlite")
    labeled, pool = ledger.asked(-1), torch.tensor(run.data.candidates)
    row_of = {int(position): row for row, position in enumerate(pool)}
    for cycle in (0, 1):
        chosen = deepal.select(CoreSet(), {"embedding": pixels[pool]}, [row_of[each] for each in labeled], query_size=10)
        assert pool[chosen].tolist() == ledger.asked(cycle)
        labeled += ledger.asked(cycle)


def test_nothing_is_trained_that_nobody_asks_for(tmp_path, pixels):
    run = digits(
        tmp_path, strategy=TypiClust(), embedding_from=FeatureFile(f"{tmp_path}/pixels.npy"), data=plain(), test_every=1000
    )  # fmt: skip
    results = run.run()
    assert [bool(each.is_tested) for each in results] == [True, False, False, True]
    assert len(Ledger(run.folder / "ledger.sqlite").fits()) == 2


def test_a_network_says_what_the_file_of_its_features_says(tmp_path):
    by_network = digits(tmp_path, strategy=CoreSet(), embedding_from=Backbone(Convolved), data=plain(), budget=40)
    by_network.run()
    assert sum(read_images) == 1200 - 30
    (store,) = (tmp_path / ".features").iterdir()
    by_file = digits(
        tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(str(store / "train.npy")), data=plain(), budget=40
    )
    by_file.run()
    assert Outcome.of(by_network).queries == Outcome.of(by_file).queries
    assert sum(read_images) == 1200 - 30


def test_another_file_is_refused(tmp_path, pixels):
    file = tmp_path / "pixels.npy"
    run = partial(digits, tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(str(file)), data=plain(), name="one")
    run(budget=30).run()
    np.save(file, (pixels + 1).numpy())
    with pytest.raises(RunMismatchError, match="holds other features than those that the run"):
        run(budget=40).run()
    np.save(file, pixels[:1000].numpy())
    with pytest.raises(ValueError, match=r"holds \[1000, 64\] numbers of torch.float32, and there are 1200"):
        digits(tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(str(file)), data=plain(), name="two").run()
    with pytest.raises(FileNotFoundError, match=r"none\.npy: there is no such file"):
        digits(
            tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(f"{tmp_path}/none.npy"), data=plain(), name="three"
        ).run()


@pytest.mark.parametrize("strategy", [BADGE(), Prefilter(by=Margin(), then=BADGE()), WeightedKMeans(by=Margin()), BALD()])
def test_gradients_of_the_last_layer_are_of_its_own_embedding(tmp_path, pixels, strategy):
    run = digits(tmp_path, strategy=strategy, embedding_from=FeatureFile(f"{tmp_path}/pixels.npy"), data=plain(), budget=30)
    if strategy.of_last_layer:
        with pytest.raises(ValueError, match=r"reads the embedding as the input of the last layer, and embedding_from"):
            run.run()
    elif strategy.joint or "mc_probs" in strategy.needs["pool"]:
        with pytest.raises(ValueError, match="needs mc_probs"):
            run.run()
    else:
        run.run()


def test_random_needs_no_features(tmp_path):
    run = digits(tmp_path, strategy=Random(), module=Classifier(partial(MLP, hidden=())), data=plain(), budget=30)
    run.run()
    assert not (tmp_path / ".features").exists()
