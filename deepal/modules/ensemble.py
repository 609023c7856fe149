"""Several networks, or heads, that vote: ensembles, committees, and cheaper ones that share a part of the training.

They predict the average of their members' probabilities, never of logits, and say each member's as `mc_probs`: so all
strategies can be compared with one and the same predictor, and what asking gains is told apart from what voting gains.
"""

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from deepal.functional import gradients
from deepal.modules.classifier import Classifier
from deepal.modules.measured import Measured, refuse_plain_ddp
from deepal.modules.recipe import Recipe, classifier_of
from deepal.nn import Network, Trunk
from deepal.nn.together import BY_NUMBER, Side, Stack
from deepal.task import Task


class Voting(Measured):
    """What has several opinions of an image, and predicts their average. It says `mc_probs`, `probs`, `logits` (the
    logarithm of the average), `embedding` and `logit_gradient`."""

    of_its_own: tuple[str, ...] = ()
    """Options of its classifier that it does not take from there."""

    def __init__(self, of: Recipe) -> None:
        recipe = classifier_of(of, type(self).__name__)
        if recipe.posterior is not None:
            raise ValueError(f"{type(self).__name__} is a posterior itself; leave the posterior out of its classifier.")
        super().__init__(recipe.metrics)
        self.of = recipe

    def _draw(self, task: Task, backbone: Callable[[Sequence[int], int], Network] | None = None) -> Network:
        """A network as the classifier draws it, or of another backbone."""
        recipe = deepcopy(self.of)
        if backbone:
            recipe.backbone, recipe.trunk = backbone, Trunk()
        recipe.draw_network(task)
        return recipe.network

    @abstractmethod
    def opinions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each, (B, K, C), and what they are made of, (B, D)."""

    def mc_probs(self, images: Tensor) -> Tensor:
        """Class probabilities of each member, (B, K, C), in fp32."""
        return self.say(images, ("mc_probs",))["mc_probs"]

    def probs(self, images: Tensor) -> Tensor:
        return self.say(images, ("probs",))["probs"]

    def logits(self, images: Tensor) -> Tensor:
        """The logarithm of the average of the probabilities, (B, C)."""
        return self.say(images, ("logits",))["logits"]

    def embedding(self, images: Tensor) -> Tensor:
        """The inputs of all last linear layers side by side, (B, D)."""
        return self.say(images, ("embedding",))["embedding"]

    def logit_gradient(self, images: Tensor) -> Tensor:
        """Gradient of the cross-entropy to the predicted class by `logits`, (B, C)."""
        return self.say(images, ("logit_gradient",))["logit_gradient"]

    def say(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Several signals by name, from one forward pass of all members."""
        logits, embedding = self.opinions(images)
        mc_probs = torch.softmax(logits.float(), -1)
        probs = mc_probs.mean(1)
        averaged = torch.logsumexp(torch.log_softmax(logits.float(), -1), 1) - math.log(logits.shape[1])
        said = {"mc_probs": mc_probs, "probs": probs, "logits": averaged, "embedding": embedding}
        if "logit_gradient" in names:
            said["logit_gradient"] = gradients.logit_gradient(averaged)
        return {name: said[name] for name in names}

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)

    def configure_optimizers(self) -> Any:
        return self.optimized_by(self.of.optimizer, self.of.scheduler)


class Ensemble(Voting):
    """A deep ensemble: independent networks, each with an initialisation and an order of the training images of its own
    (Lakshminarayanan et al., 2017; Beluch et al., 2018), trained in one fit.

    Fully connected networks are one stack of matrices, where the optimizer looks at each number by itself (SGD, Adam and
    their like); others are computed one after another. The weights come out the same, but for rounding and the coins of
    dropout.

    Args: of: a classifier, each member is like it; members: how many.
    """

    in_blocks = True

    def __init__(self, of: Recipe = Classifier, members: int = 5) -> None:
        super().__init__(of)
        if members < 1:
            raise ValueError(f"{type(self).__name__}(members={members}) must be at least 1.")
        self.members = self.orders = members

    def configure_network(self, task: Task) -> None:
        """Draw the networks, from the global generator."""
        super().configure_network(task)
        networks = self._networks(task)
        optimizer = type(self.of.optimizer([nn.Parameter(torch.zeros(1))]))
        stacks = type(self) is Ensemble and not self.of.frozen and optimizer in BY_NUMBER
        together = stacks and all(map(Stack.holds, networks))
        self.networks = Stack(networks) if together else Side(networks)

    def _networks(self, task: Task) -> list[Network]:
        return [self._draw(task) for _ in range(self.orders)]

    def on_fit_start(self) -> None:
        if self.trainer.gradient_clip_val and self.trainer.gradient_clip_algorithm != "value":
            raise ValueError(
                f"trainer.gradient_clip_val clips all gradients by one norm, and the members of {type(self).__name__} are "
                f"to be independent; take trainer.gradient_clip_algorithm=value, or leave it out."
            )

    def opinions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each member, (B, M, C), and their embeddings side by side, (B, D)."""
        return self.networks.read(images)

    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """The sum of the members' losses, each on its part of the batch; what each has right."""
        own, targets = (batch[name].unflatten(0, (self.orders, -1)) for name in ("input", "target"))
        logits = self.networks.logits(own)
        loss = self.orders * functional.cross_entropy(logits.flatten(0, 1), targets.flatten())  # the sum of their means
        loss = loss + self.of.penalty(self.networks.hidden_weights(), images)
        return loss, logits.argmax(-1) == targets


class Committee(Ensemble):
    """Query by committee in its old sense: different kinds of network, each with an order of its own (Seung et al., 1992).

    Args: backbones: of the members; of: how each of them is trained.
    """

    in_blocks = True
    of_its_own = ("backbone",)

    def __init__(self, backbones: Sequence[Callable[[Sequence[int], int], Network]], of: Recipe = Classifier) -> None:
        if not backbones:
            raise ValueError("Committee(backbones=[]) must have a member.")
        for each in backbones:
            if not callable(each) or isinstance(each, nn.Module):
                raise ValueError(
                    f"Committee(backbones=[...]) takes what makes networks, [MLP, GalCNN] or functions of (input shape, "
                    f"number of classes), and was given {each!r}."
                )
        super().__init__(of, len(backbones))
        self.backbones = list(backbones)

    def _networks(self, task: Task) -> list[Network]:
        return [self._draw(task, backbone) for backbone in self.backbones]


class SharedBackbone(Ensemble):
    """An ensemble whose members share the beginning: one network is trained for a part of the fit, and copies of it go on,
    each in an order and with the dropout of its own (the diversity encouraging ensemble of Beluch et al., 2018).

    Args: of, members: as for Ensemble; shared: the part of the fit's steps that they share.
    """

    def __init__(self, of: Recipe = Classifier, members: int = 5, shared: float = 0.3) -> None:
        super().__init__(of, members)
        if not 0 < shared < 1:
            raise ValueError(f"SharedBackbone(shared={shared}) must be above 0 and below 1: a part of the fit.")
        self.shared = shared
        self.register_buffer("parted", torch.tensor(False))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        _refuse_monitors(self)
        refuse_plain_ddp(self, "trains one of its networks alone at first")
        self.parted.fill_(False)  # of a fit before, whose weights are gone on from

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        steps = _length(self, least=2)
        if not self.parted and self.trainer.global_step >= min(math.ceil(self.shared * steps), steps - 1):
            self._part()
        return super().training_step(batch, batch_idx)

    def _part(self) -> None:
        """Make all networks equal to the first, with what the optimizer knows of it."""
        first, *others = self.networks
        for network in others:
            network.load_state_dict(first.state_dict())
            for optimizer in self.trainer.optimizers:
                for of_first, own in zip(first.parameters(), network.parameters(), strict=True):
                    if of_first in optimizer.state:
                        optimizer.state[own] = deepcopy(optimizer.state[of_first])
        self.parted.fill_(True)

    def on_train_end(self) -> None:
        _refuse_early_end(self)

    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """The loss of the first network on its part of the batch alone, and later that of all on theirs."""
        if self.parted:
            return super().loss(batch, images)
        own, targets = (batch[name][: len(batch[name]) // self.members] for name in ("input", "target"))
        logits = self.networks[0](own)
        loss = functional.cross_entropy(logits, targets) + self.of.penalty(self.networks[0].hidden_weights(), images)
        return loss, logits.argmax(-1) == targets

    def opinions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As of every ensemble, which has one member as long as all is shared."""
        return (self.networks if self.parted else self.networks[:1]).read(images)


class Snapshot(Voting):
    """The ensemble of one training: its learning rate falls to nothing and starts anew, several times, and each time the
    network is kept (Huang et al., 2017). It takes the whole of a fit, so nothing may stop that early.

    Args: of: the classifier, without a schedule; cycles: how often, and how many members there are.
    """

    of_its_own = ("scheduler",)

    def __init__(self, of: Recipe = Classifier, cycles: int = 5) -> None:
        super().__init__(of)
        if cycles < 1:
            raise ValueError(f"Snapshot(cycles={cycles}) must be at least 1.")
        if self.of.scheduler is not None:
            raise ValueError("Snapshot has a schedule of its own; leave the scheduler out of its classifier.")
        self.cycles = cycles
        self.register_buffer("kept", torch.tensor(0))

    def configure_network(self, task: Task) -> None:
        """Draw the network, from the global generator."""
        super().configure_network(task)
        self.network = self._draw(task)
        self.snapshots = Side([deepcopy(self.network) for _ in range(self.cycles)]).requires_grad_(False)

    def on_fit_start(self) -> None:
        _refuse_monitors(self)
        self.kept.zero_()  # of a fit before, whose weights are gone on from

    def configure_optimizers(self) -> Any:
        optimizer = self.of.optimizer([each for each in self.network.parameters() if each.requires_grad])
        schedule = LambdaLR(optimizer, partial(_cyclic, self._restarts()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        if self.trainer.global_step >= self._restarts()[int(self.kept) + 1]:
            self._keep()
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        _refuse_early_end(self)
        self._keep()

    def _restarts(self) -> list[int]:
        """The steps at which the learning rate starts anew, and the end."""
        steps = _length(self, least=self.cycles)
        return [round(number * steps / self.cycles) for number in range(self.cycles + 1)]

    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """Of the network that is trained."""
        logits = self.network(batch["input"])
        loss = functional.cross_entropy(logits, batch["target"]) + self.of.penalty(self.network.hidden_weights(), images)
        return loss, logits.argmax(-1) == batch["target"]

    def opinions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of the networks that were kept, and of the one that is trained, before all are."""
        members = [*self.snapshots[: int(self.kept)], *([self.network] if self.kept < self.cycles else [])]
        return Side(members).read(images)

    def _keep(self) -> None:
        self.snapshots[int(self.kept)].load_state_dict(self.network.state_dict())
        self.kept += 1


class SplitHead(Voting):
    """One trunk with several last layers (Lee et al., 2015; Beluch et al., 2018). The trunk gets the average of what its
    heads want, so that it learns at the rate of one network.

    Args: of: the classifier; heads: how many.
    """

    in_blocks = True

    def __init__(self, of: Recipe = Classifier, heads: int = 5) -> None:
        super().__init__(of)
        if heads < 1:
            raise ValueError(f"SplitHead(heads={heads}) must be at least 1.")
        self.heads = heads

    def configure_network(self, task: Task) -> None:
        """Draw the trunk and the heads, from the global generator."""
        super().configure_network(task)
        drawn = [self._draw(task) for _ in range(self.heads)]
        self.last = nn.ModuleList([network.head for network in drawn])
        self.network = drawn[0]
        self.network.head = nn.Identity()  # type: ignore[assignment]  # `forward` ends in the embedding

    def loss(self, batch: dict[str, Tensor], images: int) -> tuple[Tensor, Tensor]:
        """The mean of the heads' losses on the same batch."""
        embedding = self.network(batch["input"])
        logits = torch.stack([head(embedding) for head in self.last])
        targets = batch["target"].expand(self.heads, -1)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss = loss + self.of.penalty(self.network.hidden_weights(), images)
        return loss, logits.argmax(-1) == targets

    def opinions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each head, (B, M, C), and what all of them read, (B, D)."""
        embedding = self.network(images)
        return torch.stack([head(embedding) for head in self.last], 1), embedding


def _cyclic(restarts: Sequence[int], step: int) -> float:
    """A cosine from 1 to nearly 0 between one restart and the next."""
    cycle = min(bisect_right(restarts, step), len(restarts) - 1) - 1
    begin, end = restarts[cycle], restarts[cycle + 1]
    return (1 + math.cos(math.pi * min((step - begin) / (end - begin), 1))) / 2


def _refuse_monitors(module: Voting) -> None:
    """Raises ValueError for callbacks that end a fit early, or put back the weights of an epoch before."""
    for callback in module.trainer.callbacks:
        if getattr(callback, "monitor", None):
            raise ValueError(
                f"{type(module).__name__} divides a fit into parts, of which {type(callback).__name__} would cut some off "
                f"or put them back; leave it out."
            )


def _refuse_early_end(module: Voting) -> None:
    """Raises ValueError where a fit ends before all of its parts are done, by whatever stopped it."""
    done, steps = module.trainer.global_step, _length(module, least=1)
    if done < steps:
        raise ValueError(
            f"{type(module).__name__} divides a fit into parts, and this one was stopped after {done} of {steps} steps; "
            f"leave out what stopped it, and give it as many as it is to have (trainer.max_epochs or trainer.max_steps)."
        )


def _length(module: Voting, least: int) -> int:
    """Optimizer steps of the fit; `least` where there is none. Raises ValueError where it has no end, or is shorter."""
    trainer = module._trainer
    steps = least if trainer is None else trainer.estimated_stepping_batches
    if steps < least:
        raise ValueError(f"{type(module).__name__} needs a fit of {least} steps at least, and this has {steps}.")
    if not math.isfinite(steps):
        raise ValueError(
            f"{type(module).__name__} divides a fit into parts; give it trainer.max_epochs or trainer.max_steps."
        )
    return int(steps)
