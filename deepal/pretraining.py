"""A backbone that is trained on images alone before the first label (`deepal.modules.self_supervised`): once for all runs
of a folder that would train the same network on the same images, and kept with each of them."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepal import fingerprint, folder, fresh, weights
from deepal.callbacks import ResumableFit, StepProgress
from deepal.data.datamodule import ActiveDataModule
from deepal.modules.self_supervised import Pretext, Pretrained
from deepal.nn import Frozen, Network
from deepal.ranks import Ranks
from deepal.run import Files
from deepal.watching import Watchers, interruptible

_EPOCH = 100  # steps, between which a killed pretraining is taken up
_PATIENCE = 20.0  # seconds, after which those who wait with it hear that it still does
_MACHINE = (
    "accelerator",
    "benchmark",
    "deterministic",
    "devices",
    "num_nodes",
    "plugins",
    "precision",
    "strategy",
    "sync_batchnorm",
)
"""Options of a Trainer that pretraining has too; others are of the fits of cycles."""


class Settings(Protocol):
    """What is read of a learner."""

    data: ActiveDataModule
    pretext: Pretext | None
    trainer: Mapping[str, Any]


class Pretraining:
    """What the networks of all cycles begin with.

    Args:
        settings: of the learner.
        files: of the run.
        ranks: the processes that work together.
        watchers: are told how it goes.
        draw: draws the module of a cycle, from the global generator.
    """

    def __init__(
        self, settings: Settings, files: Files, ranks: Ranks, watchers: Watchers, draw: Callable[[], LightningModule]
    ) -> None:
        self.settings, self.files, self.ranks, self.watchers, self._draw = settings, files, ranks, watchers, draw
        self._weights: Mapping[str, Tensor] | None = None
        self._trunk: Network | None = None  # with these weights, for modules that are trained on its features

    def prepare(self) -> None:
        """Have the weights: the run's own, or those of another run that has trained the same, or train them."""
        pretext, own = self.settings.pretext, self.files.pretrained
        if pretext is None or self._weights is not None:
            return
        found = weights.read(own)
        if not self.ranks.decided(lambda: found is not None):
            module = self._drawn(pretext)
            with ExitStack() as held:
                shared = self.files.shared_pretraining / self._key(pretext, module.network)
                while not self.ranks.decided(lambda: folder.is_taken(held, shared, _PATIENCE)):
                    pass  # all of them know that one waits
                if not self.ranks.decided(lambda: weights.read(shared / own.name) is not None):
                    self._train(pretext, module, shared)
                if self.ranks.first:
                    folder.write_atomically(own, lambda partial: shutil.copy(shared / own.name, partial))
            self.ranks.decided(lambda: None)  # nobody opens a file that is being written
        self._weights = load_file(own) if found is None else found

    def give(self, module: LightningModule) -> None:
        """Have the networks of a module begin with the weights, where there are any yet."""
        if self._weights is not None:
            for network in _networks(module):
                if isinstance(network, Frozen):  # whose trunk is that of other runs too
                    self._trunk = self._trunk or _with(self._weights, deepcopy(network.trunk))
                    network.rest_on(self._trunk)
                else:
                    _with(self._weights, network)

    def refuse_broken(self, module: LightningModule) -> None:
        """Raises ValueError where a module has no network of ours, or several of different kinds, and for images of which
        the task cannot be asked."""
        if self.settings.pretext is None:
            return
        learning = [_below(_learning(network)) for network in _networks(module)]
        shapes = [{name: each.shape for name, each in below.items()} for below in learning]
        if not shapes or any(each != shapes[0] for each in shapes):
            what = "networks of several kinds" if shapes else "no network of deepal.nn by itself"
            raise ValueError(
                f"pretext={self.settings.pretext!r} trains the backbone of all cycles, and {type(module).__name__} has "
                f"{what}; leave pretext out, or take Classifier."
            )
        self.settings.pretext.refuse(self.settings.data.raw(2))

    def _drawn(self, pretext: Pretext) -> Pretrained:
        """A network to train, and its head for the task, drawn with the coins of the task."""
        assert self.settings.data.task
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(pretext.seed)
            network = deepcopy(_learning(next(_networks(self._draw()))))
            return Pretrained(network.requires_grad_(True).train(), pretext, self.settings.data.task)

    def _key(self, pretext: Pretext, network: Network) -> str:
        """A hash of all that the weights come from."""
        data, options = self.settings.data, self.settings.trainer
        images = torch.tensor(data.begun_positions), data.stamps("train", data.begun_positions)
        arithmetic = [options.get(name) for name in ("precision", "sync_batchnorm")], self.ranks.processes
        of = (pretext, data.task, data.identity(), *images, network, arithmetic)
        return fingerprint.digest(fingerprint.describe(of))

    def _train(self, pretext: Pretext, module: Pretrained, shared: Path) -> None:
        """Train a network, and keep its weights in this folder."""
        options = {name: value for name, value in self.settings.trainer.items() if name in _MACHINE}
        resumable = ResumableFit(shared / "fit.ckpt", pretext.seed, of=shared.name, started=lambda epoch: None)
        progress = StepProgress(lambda steps: self.watchers.tell("advance", steps))
        trainer = fresh.make_trainer(
            {**options, "max_steps": pretext.steps}, self.files.path, shared / "curves", [resumable, progress]
        )
        self.watchers.tell("phase", 0, "pretrain", pretext.steps)
        loader = self.settings.data.pretext_dataloader(pretext.batch_size, min(_EPOCH, pretext.steps), pretext.seed)
        with self.ranks.on_its_own(), interruptible():
            trainer.fit(module, loader)
        self.ranks.align(module)
        if not all(each.isfinite().all() for each in _below(module.network).values()):
            raise ValueError(f"pretext={pretext!r} has ended with weights that are not finite; give it a smaller rate.")
        if self.ranks.first:
            kept = {name: each.detach().cpu().contiguous() for name, each in _below(module.network).items()}
            folder.write_atomically(shared / self.files.pretrained.name, lambda partial: save_file(kept, partial))
            (shared / "fit.ckpt").unlink(missing_ok=True)


def _networks(module: nn.Module) -> Iterator[Network]:
    """Networks in a module, those apart that are parts of others."""
    if isinstance(module, Network):
        yield module
        return
    for child in module.children() if isinstance(module, nn.Module) else ():
        yield from _networks(child)


def _learning(network: Network) -> Network:
    """What learns: of a frozen network what gives the features."""
    return network.trunk if isinstance(network, Frozen) else network


def _with(learned: Mapping[str, Tensor], network: Network) -> Network:
    """The network, with these of its weights."""
    network.load_state_dict({**network.state_dict(), **learned})
    return network


def _below(network: Network) -> dict[str, Tensor]:
    """All of its weights but those of the last layer."""
    head = {id(each) for each in network.head.state_dict(keep_vars=True).values()}
    return {name: each for name, each in network.state_dict(keep_vars=True).items() if id(each) not in head}
