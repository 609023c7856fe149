import itertools
from collections import Counter

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import Dataset

from deepal.data import (
    AtRandom,
    Augmentation,
    Balanced,
    DatasetImages,
    Digits,
    FromDatasets,
    Given,
    Pool,
    RandomCrop,
    RandomFlip,
    TensorImages,
)
from deepal.data.loading import Share, Shuffled
from deepal.fingerprint import describe

LABELED = list(range(100, 130))


def digits(labeled=30, **options):
    data = Digits(**{"validation": 0, **options})
    data.begin(seed=0, validation_size=options.get("validation", 0))
    chosen = data.pool.index[:labeled]
    data.pool.label(chosen, [i % 10 for i in range(labeled)], cycle=0)
    return data


def test_training_batches_carry_the_answered_labels_not_the_true_ones():
    data = digits(batch_size=16)
    given = dict(zip(data.pool.labeled, data.pool.labels, strict=True))
    seen = {}
    for batch in data.train_dataloader():
        seen |= dict(zip(batch["position"].tolist(), batch["target"].tolist(), strict=True))
    assert seen == given


def test_scan_batches_come_in_order_without_classes():
    data = digits(eval_batch_size=7)
    positions = torch.tensor([5, 3, 900, 4, 77, 1, 0, 8, 9])
    batches = list(data.scan_dataloader(positions))
    assert torch.equal(torch.cat([batch["position"] for batch in batches]), positions)
    assert all(set(batch) == {"input", "position"} for batch in batches)


def test_sides_are_disjoint_and_cover_the_training_images():
    data = digits(validation=50)
    sides = [data.pool.index, data.pool.labeled, data.validation_positions]
    assert sorted(itertools.chain(*sides)) == list(range(1200))
    (validation,) = list(data.val_dataloader())
    assert validation["position"].tolist() == data.validation_positions
    assert torch.cat([batch["position"] for batch in data.test_dataloader()]).sort().values.tolist() == list(range(597))


def test_no_validation_is_allowed():
    assert digits().val_dataloader() == []


def test_images_are_normalised_by_the_training_images():
    data = digits()
    images = data._set.train.data.float() / 255
    assert data.task.mean == pytest.approx([images.mean().item()], abs=1e-6)
    assert data.task.std == pytest.approx([images.std().item()], abs=1e-4)
    batch = data.on_after_batch_transfer(next(iter(data.scan_dataloader(torch.arange(1200)))), 0)
    assert abs(batch["input"].mean()) < 0.1


class Watching(LightningModule):
    """Sees the batches of a fit, and trains nothing."""

    reads_unlabeled = False

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.train_batches, self.val_batches = [], []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)


class Blank(Augmentation):
    def __call__(self, images):
        return torch.zeros_like(images)


def fit(module, data, epochs=1):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", max_epochs=epochs, num_sanity_val_steps=0, **options).fit(module, datamodule=data)
    return module


def test_augmentation_happens_while_training_only():
    data = digits(validation=20, augmentation=[Blank()])
    module = fit(Watching(), data)
    blank = data.task.normalize(torch.zeros(1, 1, 8, 8))
    assert all(torch.equal(batch["input"], blank.expand_as(batch["input"])) for batch in module.train_batches)
    assert all(batch["input"].std() > 0.5 for batch in module.val_batches)
    scanned = data.on_after_batch_transfer(next(iter(data.scan_dataloader(torch.arange(50)))), 0)["input"]
    assert scanned.std() > 0.5


def test_a_module_that_asks_gets_the_unlabeled_stream():
    module = Watching()
    module.reads_unlabeled = True
    data = digits(labeled=40, batch_size=16)
    fit(module, data, epochs=2)
    assert len(module.train_batches) == 6
    for batch in module.train_batches:
        assert set(batch) == {"labeled", "unlabeled"}
        assert set(batch["labeled"]) == {"input", "position", "target"}
        assert set(batch["unlabeled"]) == {"input", "position"}
        assert not set(batch["unlabeled"]["position"].tolist()) & set(data.pool.labeled)
        assert batch["unlabeled"]["input"].dtype == torch.float32


def test_an_epoch_shows_each_row_once_and_epochs_differ():
    sampler = Shuffled(50, 16, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(torch.cat(list(sampler)).tolist())
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]


def test_an_epoch_of_so_many_steps_goes_over_the_set_again_and_again():
    sampler = Shuffled(20, 8, seed=0, steps=10)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 10
    counts = Counter(torch.cat(batches).tolist())
    assert set(counts.values()) <= {3, 4}
    assert all(len(set(batch.tolist())) == len(batch) for batch in batches)


@pytest.mark.parametrize("size", [20, 70, 300])
def test_full_batches_hold_as_many_rows_however_few_there_are(size):
    """As the released code of BatchBALD has it: `randperm(steps * batch_size) % size`."""
    sampler = Shuffled(size, 64, seed=0, steps=79, full=True)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [64] * 79
    counts = Counter(torch.cat(batches).tolist())
    assert set(counts) == set(range(size))
    assert max(counts.values()) - min(counts.values()) <= 1
    shares = [list(Shuffled(size, 64, seed=0, steps=79, share=Share(rank, 2), full=True)) for rank in (0, 1)]
    assert {len(batch) for share in shares for batch in share} == {64}
    counts = Counter(torch.cat([torch.cat(share) for share in shares]).tolist())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_full_batches_of_more_rows_than_an_epoch_has_room_for_are_a_part_of_all():
    sampler, seen = Shuffled(100, 8, seed=0, steps=5, full=True), Counter()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        batches = torch.cat(list(sampler)).tolist()
        assert len(set(batches)) == 40
        seen.update(batches)
    assert set(seen) == set(range(100))


def test_a_data_module_trains_on_full_batches_where_it_is_told_to():
    data = digits(batch_size=32, epoch_steps=5, full_batches=True)
    assert [len(batch["input"]) for batch in data.train_dataloader()] == [32] * 5
    with pytest.raises(ValueError, match=r"full_batches=True needs data\.epoch_steps"):
        Digits(full_batches=True)


def test_a_set_without_rows_has_no_batches():
    for full in (False, True):
        assert list(Shuffled(0, 8, seed=0, steps=3, full=full)) == []


@pytest.mark.parametrize(("size", "expected"), [(17, [8, 9]), (16, [8, 8]), (18, [8, 8, 2]), (1, [1]), (5, [5])])
def test_a_single_last_row_is_joined_to_the_batch_before(size, expected):
    """Batch norm cannot train on one image, and some cycle has a labeled set of that size."""
    sampler = Shuffled(size, 8, seed=0)
    assert [len(batch) for batch in sampler] == expected
    assert len(sampler) == len(expected)


def test_loaders_leave_the_global_random_state_alone():
    data = digits()
    before = torch.get_rng_state()
    list(data.train_dataloader()), list(data.scan_dataloader(torch.arange(9))), list(data.test_dataloader())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("part", ["pool", "validation"])
def test_a_part_of_an_imbalanced_pool_is_as_imbalanced(part):
    """Of images that are thinned class by class in one order the rare ones all come first."""
    data = Digits(imbalance=10, validation=0, pool_size=200 if part == "pool" else None)
    data.begin(0, 200 if part == "validation" else 0)
    some = data.pool.index if part == "pool" else data.validation_positions
    counts = Counter(data.true_label(position) for position in some)
    assert len(some) == 200
    assert counts["0"] / 200 > 0.2
    assert counts["9"] / 200 < 0.05


def test_an_imbalanced_pool_and_a_smaller_one():
    data = Digits(imbalance=10, validation=0)
    data.begin(0, 0)
    counts = [Counter(data.true_label(position) for position in data.pool.index)[name] for name in data.classes]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] / counts[-1] == pytest.approx(10, rel=0.05)
    small = Digits(pool_size=100, validation=0)
    small.begin(0, 20)
    assert len(small.pool) == 100
    assert len(small.validation_positions) == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"epoch_steps": 0},
        {"validation": -1},
        {"validation": 1.5},
        {"imbalance": 0.5},
        {"pool_size": 9999},
    ],
)
def test_options_that_cannot_be_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Digits(**wrong).begin(0, 10)


class Pairs(Dataset):
    """Items as people have them: (array, class)."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return torch.full((3, 8, 8), i % 256, dtype=torch.uint8).permute(1, 2, 0).numpy(), i % 4


def test_any_data_set_from_python():
    data = FromDatasets(train=Pairs(60), test=Pairs(20), classes=["a", "b", "c", "d"], num_workers=1, validation=0)
    data.begin(0, 5)
    assert data.task.input_shape == (3, 8, 8)
    assert data.true_label(6) == "c"
    assert data.task.mean == pytest.approx([sum(range(60)) / 60 / 255] * 3, abs=1e-6)
    (batch,) = list(data.scan_dataloader(torch.tensor([7, 2])))
    assert batch["input"][:, 0, 0, 0].tolist() == [7, 2]


def test_images_that_were_written_to_are_others():
    images = TensorImages(torch.zeros(4, 1, 2, 2), [0, 1, 0, 1])
    before = images.fingerprint()
    assert images.fingerprint() == before == TensorImages(torch.zeros(4, 1, 2, 2), [0, 0, 0, 0]).fingerprint()
    images.data[0] = 1
    assert images.fingerprint() != before


def test_a_data_set_of_theirs_is_known_again_by_its_images():
    sets = [FromDatasets(train=Pairs(size), test=Pairs(20), classes=["a"], validation=0) for size in (60, 60, 61)]
    for each in sets:
        each.begin(0, 5)
    assert sets[0].fingerprint() == sets[1].fingerprint() != sets[2].fingerprint()
    assert describe(sets[0]) == describe(sets[2])


def test_an_empty_data_set_is_refused():
    data = FromDatasets(train=Pairs(0), test=Pairs(2), classes=["a"])
    with pytest.raises(FileNotFoundError, match="train"):
        data.begin(0, 0)


def test_images_alone_are_read_by_their_own_method():
    class Hidden(Pairs):
        def __getitem__(self, i):
            raise AssertionError("reads the class along with the image")

        def image(self, i):
            return torch.zeros(1, 2, 2)

        def target(self, i):
            return 3

    images = DatasetImages(Hidden(5))
    assert images.images([0, 1]).shape == (2, 1, 2, 2)
    assert images.targets(torch.tensor([4])).tolist() == [3]


def test_each_image_of_a_batch_is_augmented_for_itself():
    torch.manual_seed(0)
    images = torch.arange(36.0).view(1, 1, 6, 6).repeat(64, 1, 1, 1)
    cropped, flipped = RandomCrop(2)(images), RandomFlip()(images)
    assert 15 < len(cropped.flatten(1).unique(dim=0)) <= 25
    assert len(flipped.flatten(1).unique(dim=0)) == 2
    padded = torch.nn.functional.pad(images[0, 0], (2,) * 4)
    windows = {tuple(padded[i : i + 6, j : j + 6].flatten().tolist()) for i in range(5) for j in range(5)}
    assert {tuple(each.flatten().tolist()) for each in cropped} <= windows
    assert RandomCrop(1)(images.byte()).dtype == RandomFlip()(images.byte()).dtype == torch.uint8


class Names:
    classes = ("a", "b", "c")

    def true_label(self, position):
        return self.classes[position % 3]


class Nameless:
    classes = ()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_balanced_start_has_as_many_of_each_class():
    chosen = Balanced(4).positions(Pool(range(100)), Names(), generator())
    assert Counter(Names().true_label(position) for position in chosen) == {"a": 4, "b": 4, "c": 4}
    assert chosen != Balanced(4).positions(Pool(range(100)), Names(), generator(1))


def test_a_class_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"'c': 0.*lower per_class"):
        Balanced(2).positions(Pool([0, 1, 3, 4, 6, 7]), Names(), generator())
    with pytest.raises(ValueError, match=r"does not say which classes there are; give it classes=\[...\]"):
        Balanced(2).positions(Pool(range(9)), Nameless(), generator())


def test_random_and_given_starts():
    pool = Pool(range(50))
    assert len(set(AtRandom(7).positions(pool, Names(), generator()))) == 7
    assert AtRandom(0).positions(pool, Names(), generator()) == []
    assert Given((9, 3)).positions(pool, Names(), generator()) == [9, 3]
    with pytest.raises(ValueError, match="51"):
        AtRandom(51).positions(pool, Names(), generator())
    for wrong, says in (((3, 3), "more than once"), ((77,), "not in the pool")):
        with pytest.raises(ValueError, match=says):
            Given(wrong).positions(pool, Names(), generator())


def test_a_class_without_a_name_is_refused():
    data = FromDatasets(train=Pairs(60), test=Pairs(20), classes=["a", "b"], validation=0)
    data.begin(0, 0)
    with pytest.raises(ValueError, match="class number 3, and there are names for 2: a, b"):
        data.true_label(3)
