"""One pass of a module over images, that leaves no trace: signals by position, and scores that never keep signals."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from deepal import seeds
from deepal.data.images import Part, UnreadableError
from deepal.data.loading import Damaged, Share
from deepal.functional import uncertainty
from deepal.nn.network import in_eval
from deepal.probes import Probe
from deepal.ranks import Ranks
from deepal.room import Room
from deepal.signals import Score, voice_of


class Scannable(Protocol):
    """A data module that serves any positions under the test transform."""

    @property
    def candidates(self) -> Sequence[int]: ...

    def scan_dataloader(self, positions: Tensor, share: Share, part: Part) -> Any: ...

    def scanned(self, batch: Any, device: torch.device) -> Any: ...


@dataclass
class Scan:
    """Reads signals of a module: a `signals.Source`. Several processes read a share of the batches each, and all of them
    have all rows in the end, so they must ask for the same, in the same order.

    Modes, buffers and the random states are afterwards as they were before. Signals come to the CPU.

    Args:
        module: says each signal by a method of that name, or several at once by `say(images, names)`.
        data: serves the images.
        device: where the module is.
        probes: say what the module cannot.
        seed: of the probes' coins, the same in every pass.
        ranks: the processes that read together.
        precision: the context that a forward pass runs in, for mixed precision.
        room: where signals are held.
        part: of the data that is read.
        at_hand: signals (N, ...) by position, which nobody has to read.
        advance: told how many images have been read, batch by batch.
    """

    module: nn.Module
    data: Scannable
    device: torch.device
    probes: Sequence[Probe] = ()
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    precision: Callable[[], AbstractContextManager] = nullcontext
    room: Room = field(default_factory=Room)
    part: Part = "train"
    at_hand: Mapping[str, Tensor] = field(default_factory=dict)
    advance: Callable[[int], None] = lambda done: None
    seconds: float = field(default=0.0, init=False)
    """Time spent in passes so far."""
    passes: int = field(default=0, init=False)
    uncertainty: "Uncertainty | None" = field(default=None, init=False)
    """Of the images of the largest pass that has read `mc_probs`."""

    def read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Signals of `positions` (n,), a row each, in that order: {name: (n, ...)}.

        Raises UnreadableError, when all was read, where images could not be.
        """
        at_hand = {name: self._rows_at_hand(name, positions) for name in names if name in self.at_hand}
        if names := tuple(name for name in names if name not in at_hand):
            return {**at_hand, **self._read(positions, names)}
        return at_hand

    def _rows_at_hand(self, name: str, positions: Tensor) -> Tensor:
        rows = self.at_hand[name]
        if torch.equal(positions, torch.arange(len(rows))):
            return rows
        kept = self.room.of(len(positions), {name: rows[:1]})[name]
        for some in torch.arange(len(positions)).split(_ROWS):
            kept[some] = rows[positions[some]].to(kept.dtype)
        return kept

    def _read(self, positions: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}

        def keep(rows: Tensor, said: dict[str, Tensor]) -> None:
            if not kept:
                kept.update(self.room.of(len(positions), said))
            for name, values in said.items():
                kept[name][rows] = values.to("cpu", kept[name].dtype)

        self._pass(positions, names, keep)
        for each in kept.values():
            self.ranks.add_up(each)
        return kept

    def map(self, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
        """`score` of each position's signals, (n,) or (n, k), in fp32; the signals of a batch are gone with the batch.

        Raises UnreadableError, when all was read, where images could not be.
        """
        scores = torch.zeros(len(positions))

        def put(rows: Tensor, found: Tensor) -> None:
            nonlocal scores
            if found.ndim > scores.ndim:
                scores = torch.zeros(len(positions), found.shape[1])
            scores[rows] = found.to("cpu", torch.float32)

        if self.at_hand.keys() >= set(names):
            for rows in torch.arange(len(positions)).split(_ROWS):
                put(rows, score({name: self.at_hand[name][positions[rows]] for name in names}))
            return scores

        def keep(rows: Tensor, said: dict[str, Tensor]) -> None:
            at_hand = {name: self.at_hand[name][positions[rows]].to(self.device) for name in names if name in self.at_hand}
            put(rows, score({**said, **at_hand}))

        self._pass(positions, tuple(name for name in names if name not in self.at_hand), keep)
        self.ranks.add_up(scores)
        return scores

    def parts(self, positions: Tensor) -> "Uncertainty | None":
        """Both parts of the uncertainty of these images, from a pass that has read them, or another one; None where nobody
        says `mc_probs`."""
        if not self._says("mc_probs"):
            return None
        if self.uncertainty is None or not torch.isin(positions, self.uncertainty.positions).all():
            return self._pass(positions, ("mc_probs",), lambda rows, said: None)
        return self.uncertainty.of(positions)

    def _says(self, name: str) -> bool:
        """Whether the module, or a probe, says this signal."""
        return any(probe.says == name for probe in self._probes()) or callable(getattr(voice_of(self.module), name, None))

    def _pass(
        self, positions: Tensor, names: tuple[str, ...], keep: Callable[[Tensor, dict[str, Tensor]], None]
    ) -> "Uncertainty | None":
        """Read these images, and hand what is said of each batch to `keep`. Returns their uncertainty, where `mc_probs` is
        among what is read."""
        started, done = time.perf_counter(), 0
        parts = torch.zeros(2, len(positions) if "mc_probs" in names else 0)
        ordered, row_of = positions.sort()
        unreadable: dict[int, str] = {}
        with _untouched(self.module, self.device), torch.inference_mode():
            say = self._speaker(names)
            wanted, loader = self._batches(positions)
            for batch in loader:
                if isinstance(batch, Damaged):
                    unreadable |= batch.reasons
                    batch = batch.batch
                if batch is None:
                    continue
                there = batch["position"]
                images = self.data.scanned(batch, self.device)["input"]
                with self.precision():
                    said = say(images)
                rows = row_of[torch.searchsorted(ordered, there)] if wanted else row_of[:0]
                said = {name: each[: len(rows)] for name, each in said.items()}
                keep(rows, said)
                if "mc_probs" in said:
                    parts[:, rows] = _parts(said["mc_probs"]).cpu()
                done += len(rows)
                self.advance(min(done * self.ranks.processes, len(positions)))
        self.ranks.add_up(parts)
        found = Uncertainty(positions, *parts) if "mc_probs" in names else None
        if found and (self.uncertainty is None or len(positions) >= len(self.uncertainty.positions)):
            self.uncertainty = found
        self.passes += 1
        self.seconds += time.perf_counter() - started
        if unreadable := self.ranks.together(unreadable):
            raise UnreadableError(unreadable)
        return found

    def _batches(self, positions: Tensor) -> tuple[bool, Any]:
        """This process's batches; where it has none, an image that tells the shape of what is said, and is not wanted."""
        loader = self.data.scan_dataloader(positions, Share(self.ranks.rank, self.ranks.processes), self.part)
        if len(loader):
            return True, loader
        return False, self.data.scan_dataloader(torch.tensor(self.data.candidates[:1]), Share(), "train")

    def _speaker(self, names: Sequence[str]) -> Callable[[Any], dict[str, Tensor]]:
        """A function that says these signals of images: what a probe says with coins of its own, the rest by the module."""
        readers: dict[str, Callable[[Any], Tensor]] = {}
        for probe in self._probes():
            if probe.says in names:
                generator = torch.Generator().manual_seed(seeds.derive(self.seed, "probe", probe.says))
                readers[probe.says] = probe.start(voice_of(self.module), generator)
        theirs = [name for name in names if name not in readers]

        def say(images: Any) -> dict[str, Tensor]:
            said = _say(self.module, images, theirs) if theirs else {}
            return {**said, **{name: read(images) for name, read in readers.items()}}

        return say

    def _probes(self) -> list[Probe]:
        """Those that were given, and the module's own posterior."""
        posterior = getattr(voice_of(self.module), "posterior", None)
        return [*([posterior] if isinstance(posterior, Probe) else []), *self.probes]


_ROWS = 8192  # copied at a time


@dataclass(frozen=True)
class Uncertainty:
    """What the draws of a posterior say of some images, of which several sites are averaged.

    Args:
        positions: (n,) of the images.
        aleatoric: (n,) expected entropy, in nats: of the data.
        epistemic: (n,) mutual information, in nats: of the model.
    """

    positions: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    def of(self, positions: Tensor) -> "Uncertainty":
        """That of these images, which are some of those."""
        ordered, rows = self.positions.sort()
        rows = rows[torch.searchsorted(ordered, positions)]
        return Uncertainty(positions, self.aleatoric[rows], self.epistemic[rows])


def _parts(mc_probs: Tensor) -> Tensor:
    """Expected entropy and mutual information, (2, B)."""
    parts = torch.stack([uncertainty.expected_entropy(mc_probs), uncertainty.mutual_information(mc_probs)])
    return parts.flatten(2).mean(2) if parts.ndim > 2 else parts


def _say(module: nn.Module, images: Any, names: Sequence[str]) -> dict[str, Tensor]:
    voice = voice_of(module)
    if hasattr(voice, "say"):
        return voice.say(images, names)
    return {name: getattr(voice, name)(images) for name in names}


@contextmanager
def _untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """`module` in eval mode; modes, buffers and the random state are put back as they were."""
    buffers = {each: each.clone() for each in module.buffers()}
    with isolate_rng(include_cuda=device.type == "cuda"), in_eval(module):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)
