"""A LightningModule that knows nothing of deepal: two optimizers, batches of its own, any number of labels an image."""

from functools import partial

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from deepal import Learner
from deepal.data import ActiveDataModule, AtRandom, Digits
from deepal.entries import INITIAL
from deepal.functional import gradients, mixing, uncertainty
from deepal.ledger import Ledger
from deepal.modules import Adapter
from deepal.signals import Signals
from deepal.strategies import BADGE, CoreSet, Entropy, LeastConfidence, Margin, Random
from deepal.strategies.base import View, choose
from deepal.weights import load_model
from tests.runs import Outcome

COUNT, LABELS = 240, 5


class Scans(Dataset):
    """Digits with five labels each: the bits of the number, and whether it is odd... as dictionaries of their own."""

    def __init__(self, first, count, noisy=False):
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.images = torch.tensor(digits.images[first : first + count], dtype=torch.float32) / 16
        numbers = torch.tensor(digits.target[first : first + count])
        self.tags = torch.stack([(numbers >> bit) % 2 for bit in range(4)] + [(numbers == 0).long()], 1).float()
        self.noisy = noisy

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        noise = 0.2 * torch.rand(8, 8) if self.noisy else 0
        return {"picture": self.images[index] + noise, "tags": self.tags[index], "meta": f"scan {index}"}


class Theirs(LightningDataModule):
    def setup(self, stage):
        self.train, self.val, self.test = Scans(0, COUNT, noisy=True), Scans(300, 40), Scans(400, 60)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=16, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=32, collate_fn=self.collate)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=32, collate_fn=self.collate)

    def collate(self, items):
        assert all(isinstance(item["meta"], str) for item in items)
        return {name: torch.stack([item[name] for item in items]) for name in ("picture", "tags")}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "picture": batch["picture"] * 2 - 1}


class Tagger(LightningModule):
    """Two optimizers, stepped by hand; a sigmoid a label."""

    def __init__(self, width=32):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.BatchNorm1d(width))
        self.fc = nn.Linear(width, LABELS)
        self.seen = []

    def forward(self, picture):
        return self.fc(self.net(picture))

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["tags"])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(self(batch["picture"]), batch["tags"])
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def validation_step(self, batch, batch_idx):
        assert batch["picture"].min() < 0

    def test_step(self, batch, batch_idx):
        hits = ((self(batch["picture"]) > 0) == (batch["tags"] > 0.5)).float().mean()
        self.log("test/accuracy", hits, on_epoch=True, sync_dist=True)

    def configure_optimizers(self):
        return [torch.optim.Adam(self.net.parameters(), 0.01), torch.optim.SGD(self.fc.parameters(), 0.1)]


ADAPTED = Adapter(Tagger, head="fc", inputs="picture", activation="sigmoid")


def over(**changes):
    return ActiveDataModule.over(
        Theirs(), **{"scan_dataset": Scans(0, COUNT), "target": "tags", "epoch_steps": 5, **changes}
    )


def learner(root, **changes):
    made = {
        "strategy": Margin(), "module": ADAPTED, "data": over(), "initial": AtRandom(20), "query_size": 10, "budget": 40,
        "trainer": {"max_steps": 60}, "root": root, "name": "run",
    }  # fmt: skip
    return Learner(**{**made, **changes})


@pytest.mark.parametrize("strategy", [Margin(), Margin(reduce="max"), Entropy(), BADGE(), CoreSet(), Random()], ids=repr)
def test_a_plain_module_runs_every_kind_of_strategy(tmp_path, strategy):
    run = learner(tmp_path, strategy=strategy)
    results = run.run()
    assert [each.labels for each in results] == [20, 30, 40]
    assert results[-1].metrics["test/accuracy"] > 0.6
    book = Ledger(run.folder / "ledger.sqlite")
    asked = [position for cycle in (INITIAL, 0, 1) for position in book.asked(cycle)]
    assert len(set(asked)) == 40
    truth = Scans(0, COUNT).tags.tolist()
    assert all(answer.label == str(truth[answer.position]) for _, answer in book.answers(before=2))
    again = learner(tmp_path / "again", strategy=strategy)
    again.run()
    assert Outcome.of(again) == Outcome.of(run)


def test_training_reads_the_answers_and_the_scan_no_label():
    data = over()
    data.begin(0, 0)
    chosen = data.pool.index[:6]
    answers = [[1 - int(tag) for tag in tags] for tags in Scans(0, COUNT).tags[chosen].int().tolist()]  # all wrong
    data.pool.label(chosen, answers, cycle=0)
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["tags"].tolist()) == sorted([float(tag) for tag in row] for row in answers)
    (scanned,) = data.scan_dataloader(torch.tensor([3, 5]))
    assert scanned["position"].tolist() == [3, 5]
    assert not scanned["input"]["tags"].any()
    assert torch.equal(scanned["input"]["picture"], Scans(0, COUNT).images[[3, 5]])  # without augmentation
    assert torch.equal(
        data.scanned(scanned, torch.device("cpu"))["input"]["picture"], Scans(0, COUNT).images[[3, 5]] * 2 - 1
    )


def test_it_is_their_module_and_its_weights_load_without_us(tmp_path):
    run = learner(tmp_path)
    run.run()
    plain = load_model(run.folder, Tagger())
    assert type(plain) is Tagger
    assert isinstance(ADAPTED(), Tagger)
    assert set(ADAPTED().state_dict()) == set(Tagger().state_dict())


def test_what_it_says_is_what_its_last_layer_computes():
    torch.manual_seed(0)
    adapted = ADAPTED().eval()
    module = adapted.deepal_voice
    batch = {"picture": torch.rand(7, 8, 8), "tags": torch.zeros(7, LABELS)}
    with torch.no_grad():
        embedding = module.net(batch["picture"])
        logits = module.fc(embedding)
    said = module.say(batch, ("probs", "logits", "embedding", "logit_gradient"))
    assert torch.equal(said["embedding"], embedding)
    assert torch.equal(said["logits"], logits)
    assert torch.allclose(said["probs"][..., 1], logits.sigmoid())
    assert torch.allclose(said["probs"].sum(-1), torch.ones(7, LABELS))
    # BADGE's factors are the gradient of the loss to what is predicted, by the weights of the head
    for row in range(7):
        module.zero_grad()
        out = module.fc(embedding[row])
        functional.binary_cross_entropy_with_logits(out, (out > 0).float().detach(), reduction="sum").backward()
        outer = gradients.gradient_embedding(said["logit_gradient"][row : row + 1], embedding[row : row + 1]).view(
            LABELS, -1
        )
        assert torch.allclose(module.fc.weight.grad, outer, atol=1e-6)
    assert not module.fc._forward_hooks


def test_softmax_and_the_last_layer_by_itself():
    class Plain(LightningModule):
        def __init__(self):
            super().__init__()
            self.auxiliary = nn.Linear(3, 3)  # never runs
            self.body, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, images):
            return self.out(self.body(images).relu())

    module = Adapter(Plain)().deepal_voice
    images = torch.rand(5, 4)
    assert torch.allclose(module.probs(images), module(images).softmax(1))
    assert module.embedding(images).shape == (5, 6)
    assert torch.allclose(module.logit_gradient(images), gradients.logit_gradient(module(images)))
    assert torch.allclose(module.flip_distance(images), mixing.flip_distance(module(images), module.out.weight))
    assert not hasattr(Adapter(Plain, activation="sigmoid")().deepal_voice, "flip_distance")


class Segmenter(LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.classify = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.frozen_weight = None

    def forward(self, images):
        return self.classify(self.body(images).relu())

    def training_step(self, batch, batch_idx):
        return self(batch["input"]).mean()

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("reduce", "of"), [("mean", torch.mean), ("max", torch.amax), ("sum", torch.sum)])
def test_acquisitions_on_pixels_equal_a_loop_over_pixels(reduce, of):
    torch.manual_seed(0)
    module = Adapter(Segmenter, head="classify")().eval().deepal_voice
    with torch.no_grad():
        probs = module.probs(torch.rand(12, 1, 5, 7))
    assert probs.shape == (12, 5, 7, 4)
    for strategy, score in (
        (Entropy(reduce=reduce), uncertainty.entropy),
        (Margin(reduce=reduce), uncertainty.margin),
        (LeastConfidence(reduce=reduce), uncertainty.least_confidence),
    ):
        pool = Signals.of({"probs": probs})
        choice = choose(strategy, View(pool, pool.take(torch.tensor([], dtype=torch.long))), 12, torch.Generator())
        for row, value in zip(choice.rows, choice.scores, strict=True):
            pixels = torch.stack([score(probs[row, y, x][None])[0] for y in range(5) for x in range(7)])
            assert value == pytest.approx(float(of(pixels, 0)), rel=1e-5)


@pytest.mark.parametrize("strategy", [CoreSet(), BADGE()], ids=repr)
def test_what_has_no_meaning_for_pixels_is_refused_by_name_before_anything_trains(tmp_path, strategy):
    module = Adapter(Segmenter, head="classify")
    run = Learner(strategy=strategy, module=module, data=Digits(), query_size=5, budget=30, root=tmp_path, name="run")
    with pytest.raises(ValueError, match=rf"{type(strategy).__name__}.*one a site.*8, 8"):
        run.run()
    assert Ledger(tmp_path / "run" / "ledger.sqlite").fits() == []
    run = Learner(
        strategy=Entropy(), module=module, data=Digits(), query_size=5, budget=25, root=tmp_path, trainer={"max_steps": 2}
    )
    assert len(run.run()) == 2


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        (Adapter(Tagger, head="net.2"), r"head='net.2'.*net.1, fc"),
        (Adapter(partial(Tagger, 8), head="nowhere"), "net.1, fc"),
        (Adapter(LightningModule), "no linear layer"),
    ],
)
def test_a_head_that_is_none_is_refused(adapter, says):
    with pytest.raises(ValueError, match=says):
        adapter()


def test_a_head_that_runs_twice_is_refused():
    class Twice(LightningModule):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, images):
            return self.fc(self.fc(images))

    with pytest.raises(ValueError, match="head fc of Twice ran 2 times"):
        Adapter(Twice, head="fc")().deepal_voice.probs(torch.rand(2, 4))


# What cannot be read by position


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def wrong(loader):
    class Wrong(Theirs):
        def train_dataloader(self):
            return loader(self)

    return Wrong()


@pytest.mark.parametrize(
    ("datamodule", "says"),
    [
        (wrong(lambda self: DataLoader(Stream())), "Stream, which is iterable"),
        (
            wrong(lambda self: DataLoader(self.train, sampler=WeightedRandomSampler([1.0] * COUNT, 5))),
            "WeightedRandomSampler",
        ),
        (wrong(lambda self: [DataLoader(self.train)] * 2), "gives list"),
    ],
)
def test_data_that_cannot_be_asked_by_position_is_refused_by_name(datamodule, says):
    with pytest.raises(ValueError, match=says):
        ActiveDataModule.over(datamodule, target="tags").begin(0, 0)


def test_a_scan_data_set_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"scan_dataset has 100 items and .* 240"):
        over(scan_dataset=Scans(0, 100)).begin(0, 0)


def test_tuples_with_class_numbers_keep_their_kind():
    class Pairs(Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            return torch.full((3,), float(index)), index % 3

    class Data(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(Pairs(), batch_size=4)

    data = ActiveDataModule.over(Data(), classes=["a", "b", "c"])
    data.begin(0, 0)
    assert data.true_label(4) == "b"
    assert data.test_dataloader() == [] == data.val_dataloader()
    data.pool.label([4, 5], [data.target("c"), data.target("a")], cycle=0)
    images, targets = next(iter(data.train_dataloader()))
    assert dict(zip(images[:, 0].tolist(), targets.tolist(), strict=True)) == {4: 2, 5: 0}
    with pytest.raises(ValueError, match=r"'d' is no class of Data"):
        data.label("d")


def test_it_is_configured_from_files_too(tmp_path):
    from deepal import cli

    text = """
strategy: {class_path: deepal.strategies.Entropy}
module:
  class_path: deepal.modules.Adapter
  init_args:
    module: {class_path: tests.modules.test_adapter.Segmenter}
    head: classify
query_size: 5
budget: 25
"""
    (tmp_path / "config.yaml").write_text(text)
    arguments = [
        "--config",
        str(tmp_path / "config.yaml"),
        "--allow-import",
        "tests.modules.test_adapter",
        "--trainer.max_steps",
        "3",
    ]
    cli.run([*arguments, "--root", str(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(Ledger(folder / "ledger.sqlite").results()) == 2


# What a reviewer found


def test_their_own_names_stay_theirs():
    class Named(LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding, self.logits = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, images):
            return self.logits(self.embedding(images).relu())

        def probs(self, images):
            return "theirs"

    module, images = Adapter(Named)(), torch.rand(5, 4)
    assert module.probs(images) == "theirs"
    assert isinstance(module.embedding, nn.Linear)
    assert torch.allclose(module.deepal_voice.probs(images), module(images).softmax(1))
    assert module.deepal_voice.embedding(images).shape == (5, 6)


def test_a_compiled_part_is_read_too():
    class Compiled(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(nn.Sequential(nn.Linear(4, 3)), backend="eager")

        def forward(self, images):
            return self.net(images)

    module, images = Adapter(Compiled)(), torch.rand(5, 4)
    assert torch.allclose(module.deepal_voice.logits(images), module(images))


def test_the_folder_of_a_run_over_their_data_is_always_the_same(tmp_path):
    run = learner(tmp_path, name=None, trainer={"max_steps": 2}, budget=25)
    before = run.folder
    run.run()
    assert run.folder == before
    run.run()
    assert load_model(run.folder, Tagger())


def test_another_batch_size_of_theirs_is_another_data_set(tmp_path):
    learner(tmp_path, trainer={"max_steps": 2}, budget=25).run()

    class Smaller(Theirs):
        def train_dataloader(self):
            return DataLoader(self.train, batch_size=4, collate_fn=self.collate)

    Smaller.__name__ = "Theirs"
    data = ActiveDataModule.over(Smaller(), scan_dataset=Scans(0, COUNT), target="tags", epoch_steps=5)
    with pytest.raises(ValueError, match="images are not those"):
        learner(tmp_path, trainer={"max_steps": 2}, budget=25, data=data).run()


class Broken(Scans):
    def __getitem__(self, index):
        if index == 3:
            raise OSError("item 3 is broken")
        return super().__getitem__(index)


def test_a_broken_validation_item_of_theirs_is_set_aside_and_no_training_item(tmp_path):
    class Data(Theirs):
        def setup(self, stage):
            super().setup(stage)
            self.val = Broken(300, COUNT + 100)  # more than there are training items

    run = learner(tmp_path, data=ActiveDataModule.over(Data(), target="tags", epoch_steps=5), trainer={"max_steps": 10})
    run.run()
    assert 3 not in run.data.validation_positions
    assert len(run.data.validation_positions) == COUNT + 99
    assert 3 in run.data.candidates
    (broken,) = Ledger(run.folder / "ledger.sqlite").quarantine()
    assert (broken["part"], broken["position"]) == ("val", 3)


def test_their_hooks_may_ask_the_trainer(tmp_path):
    class Data(Theirs):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            assert self.trainer.training in (True, False)
            return super().on_after_batch_transfer(batch, dataloader_idx)

    data = ActiveDataModule.over(Data(), scan_dataset=Scans(0, COUNT), target="tags", epoch_steps=5)
    assert len(learner(tmp_path, data=data, trainer={"max_steps": 5}, budget=25).run()) == 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: over(target="tag").begin(0, 0), r"target='tag' is no place .* 'picture', 'tags', 'meta'"),
        (lambda root: over(target=1).begin(0, 0), "target=1 is no place"),
        (lambda root: ActiveDataModule.over(Theirs), "takes an instance"),
        (lambda root: Learner(strategy=Margin(), module=ADAPTED, data=Theirs(), root=root), "ActiveDataModule.over"),
        (lambda root: Adapter(Tagger, activation="sigmiod"), "softmax, sigmoid"),
        (lambda root: learner(root, module=Adapter(Tagger, head="fc", inputs="img")).run(), r"inputs='img'.*'picture'"),
        (lambda root: learner(root, module=Tagger).run(), r"Margin\(\) needs probs, .*Adapter\(Tagger, head=\.\.\.\)"),
    ],
)
def test_typical_mistakes_are_named_with_the_cure(tmp_path, make, says):
    with pytest.raises(ValueError, match=says):
        make(tmp_path)
