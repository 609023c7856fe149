"""Features that are not trained are read once, stand for images in all that a run does, and are what strategies compare."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import deepal
from deepal import Learner, load_model
from deepal.data import AtRandom, Digits, ImageFolder, Manifest, RandomFlip
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import UnreadableError
from deepal.features import FeatureStore
from deepal.ledger import Ledger
from deepal.modules import Classifier, Ensemble
from deepal.nn import MLP, Frozen, Headed, Network, Timm
from deepal.probes import MCDropout
from deepal.ranks import Ranks
from deepal.representation import Backbone, FeatureFile
from deepal.run import RunMismatchError
from deepal.strategies import BADGE, BALD, CoreSet, Margin, PerGroup, Prefilter, Random, TypiClust, WeightedKMeans
from deepal.task import Task
from tests import own
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


def rows_of(tmp_path, size, positions, read, stamps=None):
    stamps = torch.ones(len(positions), dtype=torch.int64) if stamps is None else torch.tensor(stamps)
    return store_of(tmp_path).rows("train", size, positions, stamps, read)


def features(positions):
    return torch.stack([positions.float(), -positions.float()], 1)


def test_a_row_that_was_being_written_is_read_again(tmp_path, monkeypatch):
    """Though its image is again what it was before."""
    rows_of(tmp_path, 4, [1], features)
    flushes, flush = [], np.memmap.flush

    def interrupted(rows):
        flush(rows)
        flushes.append(1)
        if len(flushes) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(np.memmap, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows_of(tmp_path, 4, [1], lambda some: features(some) + 7, stamps=[2])
    monkeypatch.undo()
    assert torch.equal(rows_of(tmp_path, 4, [1], features)[1:2], features(torch.tensor([1])))


@pytest.mark.parametrize("length", [None, 0, 140])
@pytest.mark.parametrize("name", ["train.npy", "train-stamps.npy"])
def test_files_that_are_cut_off_or_gone_are_read_again(tmp_path, name, length):
    rows_of(tmp_path, 4, [0, 1], features)
    (file,) = tmp_path.rglob(name)
    file.write_bytes(file.read_bytes()[:length]) if length is not None else file.unlink()
    assert torch.equal(rows_of(tmp_path, 4, [1, 2], features)[1:3], features(torch.tensor([1, 2])))
    assert torch.equal(rows_of(tmp_path, 4, [0, 2], features)[[0, 2]], features(torch.tensor([0, 2])))


def test_two_runs_may_read_a_part_each(tmp_path):
    """Who finds that a part is being read begins with another."""
    store, seen = store_of(tmp_path), []

    def read(some):
        seen.extend(store.is_being_read(part) for part in ("train", "test"))
        return features(some)

    store.rows("train", 4, [0, 1], torch.ones(2, dtype=torch.int64), read)
    assert seen == [True, False]
    assert not store.is_being_read("train")


def test_rows_of_features_come_more_at_a_time_than_images(tmp_path):
    data = plain(eval_batch_size=16)
    data.begin(0, 0)
    assert len(next(iter(data.scan_dataloader(torch.arange(1000))))["position"]) == 16
    data.serve({"train": torch.zeros(1797, 5)})
    assert len(next(iter(data.scan_dataloader(torch.arange(1000))))["position"]) == 1000


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
        rows_of(tmp_path, 20, positions, read)
    assert asked == [[0, 1, 2, 3], [5, 8, 9, 11], [12, 13, 17, 18]]
    rest = []
    rows = rows_of(tmp_path, 20, positions, lambda some: (rest.append(some.tolist()), features(some))[1])
    assert rest == [[19]]
    assert torch.equal(rows[sorted(positions)], features(torch.tensor(sorted(positions))))
    more = rows_of(tmp_path, 20, [4, 5], lambda some: (rest.append(some.tolist()), features(some))[1])
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
        rows_of(tmp_path, 10, list(range(10)), read)
    others = [0, 1, 3, 4, 5, 6, 7, 8]
    rows = rows_of(tmp_path, 10, others, lambda some: pytest.fail("all of these were read"))
    assert torch.equal(rows[others], features(torch.tensor(others)))


def test_an_image_that_is_another_one_now_is_read_again(tmp_path):
    rows_of(tmp_path, 4, [0, 1, 2, 3], features, [5, 6, 7, 8])
    again = []
    rows = rows_of(tmp_path, 4, [3, 1, 0], lambda some: (again.append(some.tolist()), -features(some))[1], [9, 6, 10])
    assert again == [[0, 3]]
    assert torch.equal(rows, features(torch.arange(4)) * torch.tensor([[-1], [1], [1], [-1]]))


def test_more_images_are_read_and_the_others_kept(tmp_path):
    rows_of(tmp_path, 3, [0, 1, 2], features)
    more = []
    rows = rows_of(tmp_path, 5, [4, 1], lambda some: (more.append(some.tolist()), features(some))[1])
    assert more == [[4]]
    assert torch.equal(rows[[0, 1, 2, 4]], features(torch.tensor([0, 1, 2, 4])))
    assert len(rows_of(tmp_path, 3, [2], lambda some: pytest.fail("it was read"))) == 5  # for whoever knows of fewer


def test_images_that_fail_one_after_another_are_all_said_with_their_part(tmp_path):
    failing = [3, 1]

    def read(some):
        if failing and failing[0] in some:
            raise UnreadableError({failing.pop(0): "timed out"})
        return features(some)

    with pytest.raises(UnreadableError) as caught:
        store_of(tmp_path).rows("test", 5, [0, 1, 2, 3], torch.ones(4, dtype=torch.int64), read)
    assert (caught.value.part, sorted(caught.value.reasons)) == ("test", [1, 3])


def folder_of(tmp_path):
    return ImageFolder(root=str(tmp_path / "images"), image_size=8, channels=1, epoch_steps=5, validation=0)


def pictures(tmp_path, count):
    """Gray pictures of two classes, so many in all; those that are there already stay as they are."""
    coin = np.random.default_rng(0)
    for number in range(count):
        pixels = coin.integers(0, 255, (8, 8), dtype=np.uint8)
        file = tmp_path / "images" / "ab"[number % 2] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            Image.fromarray(pixels).save(file)


def stored(tmp_path):
    (store,) = (tmp_path / "runs" / ".features").iterdir()
    return np.load(store / "train.npy")


def test_files_that_change_are_read_anew_and_broken_ones_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(Task, "normalize", lambda task, images: images.float() / 255 if images.ndim == 4 else images)
    monkeypatch.setattr("deepal.features.fingerprint.digest", lambda of: "one")  # whatever the mean of all pixels is
    pictures(tmp_path, 60)
    made = {"strategy": Random(), "root": tmp_path / "runs", "trainer": {"max_steps": 5}, "query_size": 5}
    run = partial(Learner, module=Classifier(Convolved, frozen=True), **made)
    first = run(data=folder_of(tmp_path), name="first", budget=30)
    first.run()
    known = stored(tmp_path)
    position, broken = first.data.candidates[3], first.data.candidates[7]
    Image.new("L", (8, 8), 99).save(first.data.path(position))
    first.data.path(broken).write_bytes(b"broken")
    second = run(data=folder_of(tmp_path), name="second", budget=30)
    second.run()
    changed = (stored(tmp_path) != known).any(1)
    assert changed.nonzero()[0].tolist() == [position]
    assert first.data.name(broken) in (second.folder / "quarantine.csv").read_text()
    read_images.clear()
    pictures(tmp_path, 62)
    run(data=folder_of(tmp_path), name="second", budget=35).run()  # a run knows images by the positions that they had
    assert sum(read_images) <= 16 + 2  # the rehearsal, and what is new
    assert len(stored(tmp_path)) == 62


def test_a_file_of_features_grows_with_the_images_or_the_run_is_refused_before_they_are_written_down(tmp_path):
    pictures(tmp_path, 60)
    rows = np.random.default_rng(0).normal(size=(61, 3)).astype(np.float32)
    np.save(tmp_path / "f.npy", rows[:60])

    def run(budget):
        Learner(
            module=Classifier(Convolved), strategy=CoreSet(), root=tmp_path / "runs", name="one", query_size=5,
            embedding_from=FeatureFile(str(tmp_path / "f.npy")), trainer={"max_steps": 5}, data=folder_of(tmp_path),
            budget=budget,
        ).run()  # fmt: skip

    run(15)
    pictures(tmp_path, 61)
    with pytest.raises(ValueError, match=r"holds \[60, 3\] numbers"):
        run(20)
    np.save(tmp_path / "f.npy", rows)  # which begins as it did
    run(20)
    np.save(tmp_path / "f.npy", -rows)
    with pytest.raises(RunMismatchError, match="holds other features"):
        run(25)


def test_features_are_known_by_all_weights_that_they_come_from():
    class Layered(Network):
        """Its trunk is called as what `Headed` trains."""

        def __init__(self, input_shape, classes):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
            self.head = nn.Linear(5, classes)

        def forward_features(self, images):
            return self.layers(images)

    first, second = (Frozen(Layered((1, 8, 8), 3)) for _ in range(2))
    assert first.digest() != second.digest()
    headed = Headed((1, 8, 8), 3, of=Convolved)
    before = Frozen(headed).digest()
    with torch.no_grad():
        headed.layers[0].weight.zero_()
        headed.head.weight.zero_()
    assert Frozen(headed).digest() == before
    with torch.no_grad():
        headed.of.trunk[0].weight.zero_()
    assert Frozen(headed).digest() != before


def test_features_are_read_in_full_precision_whatever_the_fit_is_in(tmp_path):
    steps = {"max_steps": 10}
    for name, options in (("half", {"precision": "bf16-mixed", **steps}), ("full", steps)):
        digits(tmp_path / name, module=Classifier(Convolved, frozen=True), data=plain(), budget=30, trainer=options).run()
    half, full = (np.load(next((tmp_path / each / ".features").glob("*/train.npy"))) for each in ("half", "full"))
    assert np.array_equal(half, full)


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


def test_groups_and_classes_are_known_without_a_model(tmp_path):
    scans, names = own.scans(80)
    paths = own.png_folder(tmp_path / "images", scans, names)
    rows = [{"path": path, "label": path[0], "group": f"video {i // 4}"} for i, path in enumerate(paths)]
    own.write_manifest(tmp_path / "manifest.csv", rows)
    data = Manifest(manifest=str(tmp_path / "manifest.csv"), root=str(tmp_path / "images"), image_size=28, epoch_steps=2)
    run = digits(
        tmp_path, strategy=PerGroup(Random()), data=data, initial=AtRandom(10), budget=30, query_size=5, test_every=1000,
        trainer={"max_steps": 2},
    )  # fmt: skip
    results = run.run()
    assert [bool(each.is_tested) for each in results] == [True, False, False, False, True]
    assert [cycle for cycle, _ in Ledger(run.folder / "ledger.sqlite").fits()] == [0, 4]


def test_a_network_says_what_the_file_of_its_features_says(tmp_path):
    by_network = digits(tmp_path, strategy=CoreSet(), embedding_from=Backbone(Convolved), data=plain(), budget=40)
    by_network.run()
    assert sum(read_images) == 1200 - 30 + 2  # of which two are of no image, to see whether it reads such
    (store,) = (tmp_path / ".features").iterdir()
    by_file = digits(
        tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(str(store / "train.npy")), data=plain(), budget=40
    )
    by_file.run()
    assert Outcome.of(by_network).queries == Outcome.of(by_file).queries
    assert sum(read_images) == 1200 - 30 + 2


class OfOneSize(Convolved):
    """As a vision transformer is."""

    def forward_features(self, images):
        assert images.shape[2] == 224, f"Input height ({images.shape[2]}) doesn't match model (224)."


@pytest.mark.parametrize("network", [OfOneSize, partial(Convolved, nam=3), lambda shape, classes: nn.Flatten()])
def test_a_network_that_cannot_read_these_images_is_refused_before_a_run_has_begun(tmp_path, network):
    run = partial(digits, tmp_path, strategy=CoreSet(), data=plain(), budget=30, name="one")
    with pytest.raises(ValueError, match=r"embedding_from: the network cannot be made for images of shape \[1, 8, 8\]"):
        run(embedding_from=Backbone(network)).run()
    run(embedding_from=Backbone(Convolved)).run()
    with pytest.raises(ValueError, match="takes what makes a network"):
        Backbone("resnet18")


def test_a_frozen_network_that_cannot_read_these_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be made for these images .*doesn't match model"):
        digits(tmp_path, module=Classifier(partial(Timm, name="vit_tiny_patch16_224"), frozen=True), data=plain()).run()


def test_rows_that_are_not_finite_are_refused_before_a_run_has_begun(tmp_path, pixels):
    pixels[77, 3] = torch.nan
    np.save(tmp_path / "nan.npy", pixels.numpy())
    run = partial(
        digits, tmp_path, strategy=CoreSet(), embedding_from=FeatureFile(tmp_path / "nan.npy"), data=plain(), budget=30
    )
    with pytest.raises(ValueError, match="row 77 is NaN or infinite"):
        run(name="one").run()
    np.save(tmp_path / "nan.npy", pixels.nan_to_num().numpy())
    run(name="one").run()


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
