"""MC dropout: every way of computing the draws gives what multiplying by the masks gives, and nothing else is touched."""

from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional

from deepal.data import Digits
from deepal.functional import uncertainty
from deepal.modules import Adapter, Classifier
from deepal.nn import MLP, BatchBALDCNN, GalCNN, Network, ResNet18
from deepal.probes import Laplace, MCDropout, thinned
from deepal.probes.dropout import Masks, NotByRowsError, _Draws
from deepal.probes.thinned import Thinned
from deepal.strategies import BALD, EPIG, BatchBALD, Prefilter, Random, Stochastic
from deepal.task import Task
from tests.modules.test_adapter import ADAPTED, Tagger, over
from tests.runs import Outcome, digits

IMAGES = torch.randn(13, 1, 20, 20, generator=torch.Generator().manual_seed(0))


class Layers(Network):
    """A chain of any layers."""

    def __init__(self, layers, width, classes=4):
        super().__init__()
        self.features, self.head = nn.Sequential(*layers), nn.Linear(width, classes)

    def forward_features(self, images):
        return self.features(images)

    def chain(self):
        return [*self.features, self.head]


def classifier(backbone, **options):
    torch.manual_seed(0)
    made = Classifier(backbone, **options)
    made.configure_network(Task((1, 20, 20), tuple("abcd"), (0.0,), (1.0,)))
    return made.eval()


def coins(seed=1):
    return torch.Generator().manual_seed(seed)


def read(posterior, module, images=IMAGES, seed=1):
    with torch.inference_mode():
        return posterior.start(module, coins(seed))(images)


def by_hand(module, masks, images=IMAGES):
    """Each draw by itself: every dropout layer multiplies by its mask, and by 1 / (1 - p)."""
    drawn = []
    dropouts = [each for each in module.network.modules() if isinstance(each, nn.Dropout | nn.Dropout2d)]
    for k in range(masks.draws):
        hooks = []
        for number, layer in enumerate(dropouts):

            def multiplied(layer, inputs, output, number=number, k=k):
                (x,) = inputs
                units = torch.Size([*x.shape[1:2], 1, 1]) if isinstance(layer, nn.Dropout2d) else x.shape[1:]
                scale = 1 / (1 - layer.p) if layer.p < 1 else 0.0
                return x * masks.of(number, layer.p, units, x.device)[k] * scale

            hooks.append(layer.register_forward_hook(multiplied))
        with torch.no_grad():
            drawn.append(module.probs(images))
        for hook in hooks:
            hook.remove()
    return torch.stack(drawn, 1)


def masks_of(posterior, seed=1):
    from deepal.functional import noise

    return Masks(noise.seed_of(coins(seed)), posterior.draws)


CHAINS = {
    "in front": lambda shape, classes: Layers([nn.Flatten(), nn.Dropout(0.3), nn.Linear(400, 9), nn.Tanh()], 9, classes),
    "twice": lambda shape, classes: Layers(
        [nn.Flatten(), nn.Linear(400, 9), nn.Dropout(0.3), nn.ReLU(), nn.Dropout(0.4)], 9, classes
    ),
    "mostly dropped": lambda shape, classes: Layers(
        [nn.Flatten(), nn.Linear(400, 30), nn.ReLU(), nn.Dropout(0.9)], 30, classes
    ),
    "channels to the end": lambda shape, classes: Layers(
        [
            nn.Conv2d(1, 6, 3),
            nn.Dropout2d(0.4),
            nn.AvgPool2d(3),
            nn.Conv2d(6, 5, 3),
            nn.ELU(),
            nn.Dropout2d(0.5),
            nn.Flatten(),
        ],
        80,
        classes,
    ),
    "pixels": lambda shape, classes: Layers(
        [nn.Conv2d(1, 6, 3), nn.Dropout(0.4), nn.MaxPool2d(3), nn.Flatten(), nn.Dropout(0.5)], 216, classes
    ),
    "all and nothing": lambda shape, classes: Layers(
        [nn.Flatten(), nn.Linear(400, 9), nn.Dropout(0.0), nn.Linear(9, 8), nn.Dropout(1.0)], 8, classes
    ),
    "sigmoid": lambda shape, classes: Layers(
        [nn.Flatten(), nn.Dropout(0.3), nn.Linear(400, 9), nn.Sigmoid(), nn.Dropout(0.5)], 9, classes
    ),
}
THINNED = {"in front", "twice", "mostly dropped", "channels to the end", "all and nothing"}


@pytest.mark.parametrize(
    "backbone", [MLP, GalCNN, BatchBALDCNN, *CHAINS.values()], ids=["MLP", "Gal", "BatchBALD", *CHAINS]
)
def test_all_ways_of_computing_draws_agree_with_multiplying_by_masks(backbone, request):
    module, posterior = classifier(backbone), MCDropout(5)
    expected = by_hand(module, masks_of(posterior))
    assert torch.allclose(read(posterior, module), expected, atol=1e-5)
    draws = _Draws(module, masks_of(posterior), True)
    with torch.inference_mode():
        assert torch.allclose(draws(IMAGES), expected, atol=1e-5)
        assert draws._read == draws.together
        assert torch.allclose(draws.one_by_one(IMAGES), expected, atol=1e-5)
    name = request.node.callspec.id
    assert (Thinned.of(module.chain(), masks_of(posterior).of) is not None) == (name in THINNED or name not in CHAINS)
    assert expected.isfinite().all()


def test_each_layer_and_each_draw_tosses_its_own_coins():
    masks = Masks(5, 20)
    layers = torch.stack([masks.of(number, 0.5, torch.Size([50]), torch.device("cpu")) for number in range(3)])
    for one, other in ((layers[0], layers[1]), (layers[1], layers[2]), (layers[0, :-1], layers[0, 1:])):
        assert 0.42 < (one == other).float().mean() < 0.58  # of 950 pairs at least


@given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.floats(0, 1))
@settings(max_examples=20)
def test_thinned_chains_agree_for_any_rates(seed, first, second):
    layers = [
        nn.Flatten(),
        nn.Linear(400, 12),
        nn.Dropout(first),
        nn.ReLU(),
        nn.Linear(12, 10),
        nn.ReLU(),
        nn.Dropout(second),
    ]
    module, posterior = classifier(lambda shape, classes: Layers(layers, 10, classes)), MCDropout(4)
    assert torch.allclose(read(posterior, module, seed=seed), by_hand(module, masks_of(posterior, seed)), atol=1e-5)


@given(
    st.integers(0, 2**31), st.floats(0.05, 0.95), st.floats(0, 0.95), st.booleans(), st.booleans(),
    st.sampled_from([{}, {"stride": 2}, {"padding": (2, 1)}, {"dilation": (1, 2)}, {"stride": (1, 2), "padding": 1}]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_convolutions_summed_from_what_their_channels_add_agree(seed, first, second, bias, deeper, how):
    layers = [
        nn.Conv2d(1, 6, 3), nn.Dropout2d(first), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6, 5, (3, 2), bias=bias, **how), nn.Dropout2d(second), nn.ReLU(), nn.AvgPool2d(2),
        *([nn.Conv2d(5, 3, 1), nn.Dropout2d(second)] if deeper else []), nn.Flatten(),
    ]  # fmt: skip
    width = nn.Sequential(*layers)(IMAGES[:1]).shape[1]
    module, masks = classifier(lambda shape, classes: Layers(layers, width, classes)), masks_of(MCDropout(4), seed)
    channels = enumerate([6, 5, 3] if deeper else [6, 5])
    kept = [masks.of(number, second, torch.Size([width, 1, 1]), IMAGES.device) for number, width in channels][1:]
    assume(all(each.flatten(1).any(1).all() for each in kept))  # else a convolution says nothing
    with (
        mock.patch.object(thinned._Summed, "pays", return_value=True),
        mock.patch.multiple(thinned, _SUMMANDS=6000, _SUMS=9000),  # 13 images by threes and fours
        torch.inference_mode(),
    ):
        found = torch.softmax(Thinned.of(module.chain(), masks.of)(IMAGES, 4), -1)
    assert torch.allclose(found, by_hand(module, masks), atol=1e-5)


def test_padding_by_name_is_read_like_any_other():
    layers = [nn.Conv2d(1, 6, 5, padding="same"), nn.Dropout2d(), nn.Conv2d(6, 5, 5, padding="same"), nn.Dropout2d(0.2),
              nn.AvgPool2d(5), nn.Flatten()]  # fmt: skip
    module, posterior = classifier(lambda shape, classes: Layers(layers, 80, classes)), MCDropout(100)
    assert torch.allclose(read(posterior, module), by_hand(module, masks_of(posterior)), atol=1e-5)


class Recurrent(LightningModule):
    """Rows of pixels one after another, time first, and a dictionary for a batch, or images."""

    def __init__(self, named):
        super().__init__()
        self.named, self.read, self.head = named, nn.GRU(20, 6), nn.Linear(6, 4)

    def probs(self, batch):
        images = batch["image"] if self.named else batch
        read, _ = self.read(images.squeeze(1).transpose(0, 1))
        return torch.softmax(self.head(functional.dropout(read, training=self.training)[-1]), -1)


@pytest.mark.parametrize("named", [False, True])
def test_masks_that_belong_to_places_in_a_batch_are_refused(named):
    images = IMAGES[:5]  # of which twenty rows are a multiple
    with torch.inference_mode(), pytest.raises(NotByRowsError, match="where in a batch an image lies"):
        MCDropout(6).start(Recurrent(named).eval(), coins())({"image": images} if named else images)


def test_dropout_by_torchs_own_name_is_switched_on(monkeypatch):
    class Bare(LightningModule):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(400, 4)

        def probs(self, images):
            return torch.softmax(self.head(torch.dropout(images.flatten(1), p=0.5, train=self.training)), -1)

    with torch.inference_mode():
        assert MCDropout(5).start(Bare().eval(), coins())(IMAGES).std(1).max() > 1e-3


def test_draws_of_each_images_own_are_refused_where_they_are_read_together(tmp_path):
    own = MCDropout(5, consistent=False)
    for strategy in (BatchBALD(), Stochastic(EPIG()), Prefilter(BALD(), BatchBALD())):
        with pytest.raises(ValueError, match="take consistent=True"):
            digits(tmp_path, strategy=strategy, module=lambda: Classifier(posterior=own)).run()
    with pytest.raises(ValueError, match="says mc_probs, and so does Classifier by itself"):
        digits(tmp_path, strategy=BALD(), module=lambda: Classifier(posterior=own), probes=[MCDropout(5)]).run()
    digits(tmp_path, strategy=BALD(), module=lambda: Classifier(posterior=own), budget=30).run()


def test_it_sums_where_kernels_are_large_and_draws_many():
    module = classifier(BatchBALDCNN)
    for draws, way in ((100, thinned._Summed), (10, thinned._Shared)):
        chain = Thinned.of(module.chain(), masks_of(MCDropout(draws)).of)
        with torch.inference_mode():
            chain(IMAGES, draws)
        assert type(chain._first) is way


@pytest.mark.parametrize(
    ("backbone", "trunk"),
    [(GalCNN, lambda net: net.features[2]), (partial(ResNet18, dropout=0.5), lambda net: net.trunk.layer4[1].conv2)],
    ids=["thinned", "together"],
)
def test_what_comes_before_the_first_dropout_is_computed_once_an_image(backbone, trunk):
    module = classifier(backbone)
    rows = []
    trunk(module.network).register_forward_hook(lambda layer, inputs, output: rows.append(len(output)))
    draws = MCDropout(20).start(module, coins())
    with torch.inference_mode():
        draws(IMAGES)  # a few images are read in more than one way, to choose one
        rows.clear()
        draws(IMAGES)
    assert sum(rows) == len(IMAGES)


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_a_draw_takes_what_is_less_work_what_it_keeps_or_what_it_drops(rate):
    module = classifier(partial(MLP, hidden=(400, 300), dropout=rate))
    chain = Thinned.of(module.chain(), masks_of(MCDropout(10)).of)
    with torch.inference_mode():
        chain(IMAGES, 10)
    assert chain._first.subtracts == (rate < 0.5)
    assert all(0.05 < len(used) / 400 < 0.15 for used in chain._first.used)


class Normed(Network):
    """With batch norm before the first dropout, as a chain and not."""

    def __init__(self, shape, classes, chained):
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 8), nn.ReLU()
        )
        self.head, self.chained = nn.Linear(8, classes), chained

    def forward_features(self, images):
        return self.features(images)

    def chain(self):
        return [*self.features, self.head] if self.chained else None


@pytest.mark.parametrize("posterior", [MCDropout(5), MCDropout(5, consistent=False), Laplace(5)], ids=repr)
@pytest.mark.parametrize("chained", [True, False])
def test_a_module_left_in_train_mode_is_read_in_eval_mode_and_no_buffer_moves(chained, posterior):
    module = classifier(partial(Normed, chained=chained), posterior=posterior)
    module.network.features[2].running_mean.uniform_()
    expected, before = read(posterior, module), {name: each.clone() for name, each in module.state_dict().items()}
    module.train()
    module.network.features[6].eval()
    modes = [each.training for each in module.modules()]
    assert torch.allclose(read(posterior, module), expected)
    assert [each.training for each in module.modules()] == modes
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


@pytest.mark.parametrize("backbone", [GalCNN, CHAINS["pixels"]], ids=["thinned", "together"])
def test_a_draw_is_the_same_network_for_all_images_in_whatever_batches(backbone):
    module, posterior = classifier(backbone), MCDropout(5)
    whole = read(posterior, module)
    with torch.inference_mode():
        say = posterior.start(module, coins())
        parts = torch.cat([say(some) for some in IMAGES.split(3)])
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.equal(whole, read(posterior, module))
    assert not torch.allclose(whole, read(posterior, module, seed=2), atol=1e-3)
    equal = read(posterior, module, IMAGES[:1].expand(4, -1, -1, -1))
    assert torch.allclose(equal, equal[:1].expand(4, -1, -1), atol=1e-6)


def test_masks_of_their_own_belong_to_the_content_of_images():
    module, posterior = classifier(GalCNN), MCDropout(40, consistent=False)
    whole = read(posterior, module)
    order = torch.randperm(13, generator=coins())
    assert torch.allclose(read(posterior, module, IMAGES[order]), whole[order], atol=1e-6)
    assert torch.allclose(read(posterior, module, IMAGES[:2]), whole[:2], atol=1e-6)
    almost = IMAGES[:1] + 1e-5 * torch.arange(2).view(2, 1, 1, 1)  # nearly the same image: another number
    first, second = read(posterior, module, almost)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.allclose(first.mean(0), second.mean(0), atol=0.05)


def test_draws_follow_the_law_of_dropout():
    """Means over many draws against torch's own dropout, which tosses coins of its own."""
    module = classifier(GalCNN)
    ours = read(MCDropout(4000), module, IMAGES[:3])
    with torch.no_grad():
        for each in module.modules():
            each.train(isinstance(each, nn.Dropout))
        theirs = torch.stack([module.probs(IMAGES[:3]) for _ in range(4000)], 1)
    error = (ours.var(1) / 4000 + theirs.var(1) / 4000).sqrt()
    assert ((ours.mean(1) - theirs.mean(1)).abs() < 4.5 * error).all()
    assert torch.allclose(ours.std(1), theirs.std(1), rtol=0.15)


class Functional(LightningModule):
    """Somebody's: functional dropout, batch norm, a residual, one dropout of channels."""

    def __init__(self, residual=False, p=0.5):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.residual, self.p = residual, p

    def forward(self, images):
        maps = functional.relu(self.norm(self.conv(images)))
        dropped = functional.dropout2d(maps, self.p, training=self.training)
        maps = maps + dropped if self.residual else dropped
        return self.fc(functional.dropout(maps.mean((2, 3)), 0.25, training=self.training))

    def probs(self, images):
        return torch.softmax(self(images), -1)


def by_batch_of_one_draw(module, posterior):
    return _Draws(module, masks_of(posterior), True).one_by_one(IMAGES)


@pytest.mark.parametrize("residual", [False, True])
def test_functional_dropout_is_switched_on_and_batch_norm_is_not(residual):
    torch.manual_seed(0)
    module, posterior = Functional(residual).eval(), MCDropout(6)
    module.norm.running_mean.uniform_()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    drawn = read(posterior, module)
    assert drawn.std(1).max() > 0.01
    with torch.inference_mode():
        assert torch.allclose(drawn, by_batch_of_one_draw(module, posterior), atol=1e-6)
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert not any(each.training for each in module.modules())
    # the first draw, computed by hand: batch norm by its running statistics
    masks = masks_of(posterior)
    with torch.no_grad():
        maps = functional.relu(module.norm(module.conv(IMAGES)))
        dropped = 2 * maps * masks.of(0, 0.5, torch.Size([8, 1, 1]), maps.device)[0]
        pooled = (maps + dropped if residual else dropped).mean((2, 3))
        pooled = pooled * masks.of(1, 0.25, torch.Size([8]), maps.device)[0] / 0.75
        assert torch.allclose(drawn[:, 0], torch.softmax(module.fc(pooled), -1), atol=1e-5)


def test_alpha_dropout_keeps_mean_and_variance():
    class Selu(Functional):
        def probs(self, images):
            return functional.alpha_dropout(images.flatten(1), 0.3)

    values = torch.randn(1, 50_000)
    drawn = MCDropout(2).start(Selu(), coins())(values)
    assert abs(float(drawn.mean() - values.mean())) < 0.02
    assert abs(float(drawn.var() - 1)) < 0.03


def test_networks_without_dropout_are_refused():
    undropped = lambda shape, classes: Layers([nn.Flatten()], 400, classes)  # noqa: E731
    for backbone, says in [
        (undropped, "has none"),
        (ResNet18, r"\(p=0\)"),
        (lambda shape, classes: MLP(shape, classes, dropout=0), r"\(p=0\)"),
    ]:
        with pytest.raises(ValueError, match=f"of Classifier {says}|drops nothing {says}"):
            read(MCDropout(3), classifier(backbone), IMAGES[:2])
    with pytest.raises(ValueError, match=r"MCDropout\(draws=0\)"):
        MCDropout(0)
    with pytest.raises(ValueError, match="take consistent=True"):
        MCDropout(2, consistent=False).start(Functional(), coins())({"input": IMAGES})


def test_a_run_whose_network_has_no_dropout_is_refused_before_it_trains(tmp_path):
    made = {"module": lambda: Classifier(lambda shape, classes: MLP(shape, classes, dropout=0), posterior=MCDropout(3))}
    for strategy in (BALD(), Random()):  # the test reads the posterior too
        run = digits(tmp_path, strategy=strategy, **made)
        with pytest.raises(ValueError, match=r"drops nothing \(p=0\)"):
            run.run()
        assert not list(run.folder.glob("*.safetensors"))


def test_one_draw_is_no_disagreement_and_none_dropped_is_the_network_itself():
    module = classifier(GalCNN)
    assert not uncertainty.mutual_information(read(MCDropout(1), module)).any()
    for each in module.modules():
        if isinstance(each, nn.Dropout):
            each.p = 1e-12
    with torch.inference_mode():
        assert torch.allclose(read(MCDropout(3), module).mean(1), module.probs(IMAGES), atol=1e-5)


def test_a_posterior_is_an_argument_and_the_test_averages_its_probabilities():
    module = classifier(GalCNN, posterior=MCDropout(5))
    with torch.inference_mode():
        drawn = module.mc_probs(IMAGES)
        assert torch.equal(drawn, module.mc_probs(IMAGES))
        assert torch.allclose(module.predictor()(IMAGES), drawn.mean(1))
        assert torch.equal(
            classifier(GalCNN, posterior=MCDropout(5, at_test=False)).predictor()(IMAGES), module.probs(IMAGES)
        )
        assert torch.equal(classifier(GalCNN).predictor()(IMAGES), module.probs(IMAGES))
    assert not hasattr(classifier(GalCNN), "mc_probs")
    assert all(each.p == p for each, p in zip(_dropouts(module), (0.25, 0.5), strict=True))  # as they were


def _dropouts(module):
    return [each for each in module.modules() if isinstance(each, nn.Dropout)]


def test_a_subclass_that_predicts_otherwise_is_read_as_it_predicts():
    class Colder(Classifier):
        def probs(self, images):
            return torch.softmax(5 * self.logits(images), -1)

    torch.manual_seed(0)
    module = Colder(GalCNN)
    module.configure_network(Task((1, 20, 20), tuple("abcd"), (0.0,), (1.0,)))
    module.eval()
    assert torch.allclose(read(MCDropout(4), module), by_hand(module, masks_of(MCDropout(4))), atol=1e-5)


class Plain(LightningModule):
    """Somebody's classifier, that knows nothing of deepal."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch["input"]), batch["target"])

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch["input"]).argmax(1) == batch["target"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.003)


class DroppedTagger(Tagger):
    """Two optimizers, batches that are dictionaries, a sigmoid a label; and dropout."""

    def __init__(self):
        super().__init__()
        self.net.append(nn.Dropout(0.5))


@pytest.mark.parametrize("strategy", [BALD(), BatchBALD(num_samples=100, keep=50)], ids=repr)
def test_bald_runs_on_a_plain_module_and_no_class_is_written(tmp_path, strategy):
    made = {"strategy": strategy, "module": Adapter(Plain), "probes": [MCDropout(8)], "data": Digits(epoch_steps=10)}
    runs = [digits(tmp_path / str(turn), **made) for turn in range(2)]
    for run in runs:
        assert [each.labels for each in run.run()] == [20, 30, 40, 50]
    assert Outcome.of(runs[0]) == Outcome.of(runs[1])


def test_bald_runs_on_a_module_with_two_optimizers_and_many_labels_an_image(tmp_path):
    from deepal import Learner
    from deepal.data import AtRandom
    from deepal.ledger import Ledger

    module = Adapter(DroppedTagger, head="fc", inputs="picture", activation=ADAPTED.activation)
    run = Learner(
        strategy=BALD(reduce="max"), module=module, data=over(), initial=AtRandom(20), query_size=10, budget=40,
        trainer={"max_steps": 30}, probes=[MCDropout(8)], root=tmp_path,
    )  # fmt: skip
    assert [each.labels for each in run.run()] == [20, 30, 40]
    scores = Ledger(run.folder / "ledger.sqlite").scores(1)
    assert max(scores) > 0
    with pytest.raises(ValueError, match="several sites a sample"):
        Learner(
            strategy=BatchBALD(), module=module, data=over(), initial=AtRandom(20), query_size=10, budget=40,
            probes=[MCDropout(8)], root=tmp_path / "other",
        ).run()  # fmt: skip


class Odd(MLP):
    """Says that it is a chain, and is more."""

    def forward_features(self, images):
        return 2 * super().forward_features(images)


class Cosine(nn.Linear):
    """A last layer of another kind."""

    def forward(self, embedding):
        return functional.linear(functional.normalize(embedding), functional.normalize(self.weight))


def with_cosine(shape, classes):
    made = MLP(shape, classes)
    made.head = Cosine(128, classes)
    return made


ODD = {
    "more than a chain": Odd,
    "another last layer": with_cosine,
    "dropout inside of a layer": lambda shape, classes: Layers(
        [nn.Flatten(), nn.Sequential(nn.Linear(400, 9), nn.Dropout(0.5)), nn.Linear(9, 8), nn.Dropout(0.3)], 8, classes
    ),
    "few channels, of which some draw keeps none": lambda shape, classes: Layers(
        [nn.Conv2d(1, 2, 3), nn.Dropout2d(0.8), nn.Conv2d(2, 2, 3), nn.Dropout2d(0.8), nn.Flatten()], 512, classes
    ),
}


@pytest.mark.parametrize("backbone", ODD.values(), ids=ODD)
def test_what_cannot_be_thinned_is_read_in_another_way(backbone):
    module, posterior = classifier(backbone), MCDropout(12)
    draws = posterior.start(module, coins())
    with torch.inference_mode():
        assert torch.allclose(draws(IMAGES), by_hand(module, masks_of(posterior)), atol=1e-5)
        assert draws._read != draws.thin


def test_one_image_first_decides_nothing():
    torch.manual_seed(0)
    draws = MCDropout(6).start(Functional(residual=True).eval(), coins())
    with torch.inference_mode():
        assert torch.allclose(torch.cat([draws(IMAGES[:1]), draws(IMAGES[1:])]), draws(IMAGES), atol=1e-6)


@pytest.mark.parametrize("batch_first", [True, False])
def test_tokens_share_their_images_masks_and_images_have_to_come_first(batch_first):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(20, 2, 16, dropout=0.5, batch_first=batch_first)

        def probs(self, images):
            tokens = images.squeeze(1) if batch_first else images.squeeze(1).transpose(0, 1)
            return torch.softmax(self.layer(tokens).mean(1 if batch_first else 0), -1)

    torch.manual_seed(0)
    draws = MCDropout(6).start(Tokens().eval(), coins())
    with torch.inference_mode():
        if not batch_first:
            with pytest.raises(NotByRowsError, match="let images come first"):
                draws(IMAGES)
            return
        whole = draws(IMAGES)
        assert torch.allclose(whole, torch.cat([draws(some) for some in IMAGES.split(4)]), atol=1e-5)
        same = draws(IMAGES[:1].expand(3, -1, -1, -1))
        assert torch.allclose(same, same[:1].expand(3, -1, -1), atol=1e-6)
