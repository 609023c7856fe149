"""A cycle, as all processes of a run carry it out together: fit, test, choose. Its seeds are derived from the run's."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepal import fitting, folder, fresh, preflight, seeds, stacked, weights
from deepal.bookkeeping import Books, Turn
from deepal.callbacks import ResumableFit, StepProgress
from deepal.choosing import Choosing
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import Part, UnreadableError
from deepal.data.loading import Share
from deepal.data.pool import Pool
from deepal.entries import PSEUDO, PSEUDO_ACCURACY, WRONG, Forgetting, Predictions, Query, Result
from deepal.features import Features
from deepal.judging import Judging
from deepal.meter import Meter
from deepal.modules.self_supervised import Pretext
from deepal.oracles import Answer
from deepal.pretraining import Pretraining
from deepal.probes import Probe
from deepal.ranks import Ranks
from deepal.recorders import Recorder, Surroundings, recorders_of
from deepal.representation import Representation
from deepal.room import Room
from deepal.run import Files
from deepal.scan import Scan
from deepal.signals import Score, said_by_data
from deepal.stopping import StoppingRule
from deepal.strategies.base import QueryStrategy
from deepal.watching import Watchers, interruptible


class Settings(Protocol):
    """What is read of a learner."""

    strategy: QueryStrategy
    module: Callable[[], LightningModule]
    data: ActiveDataModule
    probes: list[Probe]
    trainer: Mapping[str, Any]
    embedding_from: Representation | None
    pretext: Pretext | None
    query_size: int
    budget: int
    stop: list[StoppingRule]
    pool_subset: int | None
    warm_start: bool
    stacked: bool
    seed: int


@dataclass
class Begun:
    """A cycle whose fit is to come, or has been.

    Args:
        trainer: of the cycle.
        meter: measures what it costs.
        module: to train, or trained; None where nobody wants one.
        waits_for_fit: whether it is to be trained.
        is_given: whether somebody else has trained it.
    """

    trainer: Trainer
    meter: Meter
    module: LightningModule | None
    waits_for_fit: bool = False
    is_given: bool = False


class Cycle:
    """Carries out the cycles of a run, one turn after another.

    Args:
        settings: of the learner.
        files: of the run.
        ranks: the processes that work together.
        books: of the run, in the first of them.
        watchers: are told how it goes.
    """

    def __init__(
        self, settings: Settings, files: Files, ranks: Ranks, books: Books | None = None, watchers: Watchers | None = None
    ) -> None:
        self.settings, self.data, self.files, self.ranks = settings, settings.data, files, ranks
        self.books, self.watchers = books, watchers or Watchers()
        self._looked_at: set[tuple[Part, int]] = set()
        self._recorded: Mapping[str, Tensor] = {}  # in the fit of this cycle, by position
        self.choosing, self.judging = Choosing(settings, files, ranks, self.watchers), Judging(settings, ranks)
        self.pretraining = Pretraining(settings, files, ranks, self.watchers, self._drawn_module)
        self.features = Features(
            settings, files, ranks, self.watchers, lambda trainer, reader, part: self._scan(0, trainer, reader, part=part)
        )

    def carry_out(self, turn: Turn, module: LightningModule | None = None) -> None:
        """Fit, test, choose, and write down what was measured and asked, in one transaction.

        Args: module: trained by somebody else, then neither fitted nor tested here.
        Raises UnreadableError, in every process, where images that it needs cannot be read.
        """
        begun = self.begin(turn, module)
        if begun.waits_for_fit:
            self.fit(turn, begun)
        self.finish(turn, begun)

    def begin(self, turn: Turn, module: LightningModule | None = None) -> Begun:
        """All that comes before the fit. Raises UnreadableError as `carry_out` does."""
        self._follow(turn)
        trainer = self._fresh_trainer(turn.cycle)
        meter = Meter(trainer.strategy.root_device)
        with meter.phase("pretrain") if self.settings.pretext else nullcontext():
            self.pretraining.prepare()
        self.features.serve(trainer, lambda: module or self.fresh_module(turn.cycle), meter)
        self._look()
        seen, _ = self.choosing.seen(turn)
        self._begin_to_record(turn.cycle, torch.tensor(turn.pool.index, dtype=torch.long)[seen], trainer)
        if module is not None:
            return Begun(trainer, meter, module, is_given=True)
        if not self._needs_fit(turn):
            return Begun(trainer, meter, None)
        module = self.fresh_module(turn.cycle)
        if not turn.fitted:
            preflight.refuse_untrainable(module, tested=bool(self.data.test_positions))
            return Begun(trainer, meter, module, waits_for_fit=True)
        weights.load_into(module, self.files.weights(turn.cycle))
        meter.seconds.update(turn.fitted)
        self._recorded = load_file(self.files.recorded(turn.cycle)) if recorders_of(trainer) else {}
        return Begun(trainer, meter, module)

    def finish(self, turn: Turn, begun: Begun) -> None:
        """All that comes after the fit. Raises UnreadableError as `carry_out` does."""
        trainer, meter, module = begun.trainer, begun.meter, begun.module
        metrics: Mapping[str, float] = {}
        if module is not None and not begun.is_given:
            metrics = self._tested(turn, trainer, module, meter)
        compared: Mapping[str, Predictions] = {}
        if module is not None and self.settings.stop and not turn.measured:
            with meter.phase("stop"):
                judged, compared = self.judging.measure(turn, trainer, module, self._scan(turn.cycle, trainer, module))
            metrics = {**metrics, **judged}
            if self.ranks.decided(lambda: self.books and self.books.reason_to_stop(self._result(turn, metrics, meter))):
                if not turn.tests and not begun.is_given:  # the last model of a run is tested
                    metrics = {**metrics, **self._tested(replace(turn, tests=True), trainer, module, meter)}
                turn = replace(turn, query_size=0)
        if not turn.query_size and module is not None and not begun.is_given and self.ranks.first:
            weights.complete(module, self.files.weights(turn.cycle))  # it may be the last
        query = Query()
        if turn.query_size:
            reader = module or self.fresh_module(turn.cycle)
            with meter.phase("read") if self.settings.embedding_from else nullcontext():
                at_hand = self._at_hand(trainer, self.data.candidates)
            scan = self._scan(turn.cycle, trainer, reader, at_hand)
            query = self.choosing.query(turn, reader, scan, is_fitted=module is not None, meter=meter)
        query = replace(query, predictions={**query.predictions, **compared})
        contents = self.ranks.together(self.data.newly_read())
        self.data.recall(contents)
        query = self.ranks.decided(lambda: query)
        if self.books:
            self.books.remember_contents(contents)
            self.books.write(turn, query, self._result(turn, metrics, meter), self._forgetting(turn))
            self.files.forget_before(turn.cycle)  # not earlier: a cycle that is done again may start from the last one

    def rehearse(self, trainer: Trainer, module: LightningModule) -> None:
        """Choose of a few images with the untrained module, and judge it by them, so that what cannot be read of it is
        refused.

        Raises UnreadableError where one of the images cannot be read.
        """
        self.data.pool = Pool(self.data.candidates)
        self._begin_to_record(0, torch.tensor(self.data.candidates), trainer)
        some = self.data.candidates[:16]
        self.choosing.rehearse(some, self._scan(0, trainer, module, self._at_hand(trainer, some)))
        self.judging.rehearse(some, self._scan(0, trainer, module))

    def _follow(self, turn: Turn) -> None:
        """Have the data as the first process has it."""
        if turn.grown and not self.ranks.first:
            self.data.begin(self._seed("data"), 0, turn.grown)
        self.data.set_aside(turn.unreadable)
        self.data.pool = turn.pool
        self.data.share = Share(self.ranks.rank, self.ranks.processes)

    def _look(self) -> None:
        """Read what is trained and measured on once, before a fit waits for it. Raises UnreadableError where that fails."""
        for part, positions in self.data.needed().items():
            new = [position for position in positions if (part, position) not in self._looked_at]
            if reasons := self.ranks.together(self.data.unreadable(new, part)):
                raise UnreadableError(reasons, part)
            self._looked_at.update((part, position) for position in new)

    def _needs_fit(self, turn: Turn) -> bool:
        """Whether anybody wants the model of this cycle: a test, the strategy, or the next fit."""
        at_hand = {"embedding"} if self.settings.embedding_from is not None else set()
        asks = any(set(names) - said_by_data(of) - at_hand for of, names in self.settings.strategy.needs.items())
        return turn.tests or asks or self.settings.warm_start or bool(self.settings.stop)

    def fit(self, turn: Turn, begun: Begun) -> None:
        """Train the module on what is labeled."""
        assert begun.module
        with begun.meter.phase("fit"):
            if self.data.pool.labeled:
                batches = self.data.batches_an_epoch(len(self.data.pool.trained[0]))
                self.watchers.tell("phase", turn.cycle, "fit", fresh.steps_of(begun.trainer, batches))
                with self.ranks.on_its_own(), interruptible():
                    if self.settings.stacked:
                        for error in stacked.fit_together([self.in_stack(turn, begun)]).values():
                            raise error
                    else:
                        fitting.fit(begun.trainer, begun.module, self.data, self.settings.trainer)
                self.ranks.align(begun.module)
        self.keep(turn, begun)

    def in_stack(self, turn: Turn, begun: Begun) -> stacked.Fit:
        """The fit as a part of a stack, where it starts now."""
        self._started(turn.cycle, 0)
        return stacked.Fit(begun.module, self.data, begun.trainer)

    def keep(self, turn: Turn, begun: Begun) -> None:
        """Keep what was trained: the fit has ended then."""
        assert begun.module
        recorders, meter = recorders_of(begun.trainer), begun.meter
        self._recorded = _signals_of(recorders)
        if recorders:
            meter.seconds["record"] = sum(each.seconds for each in recorders)
            meter.seconds["fit"] -= meter.seconds["record"]
        if self.ranks.first:
            if recorders:  # before the weights, which say that the fit has ended
                folder.write_atomically(
                    self.files.recorded(turn.cycle), lambda partial: save_file(dict(self._recorded), partial)
                )
            notes = {"seconds": meter.seconds, "answers": self.data.pool.digest()}
            weights.save(begun.module, self.files.weights(turn.cycle), notes, whole=not turn.query_size)

    def _tested(self, turn: Turn, trainer: Trainer, module: LightningModule, meter: Meter) -> Mapping[str, float]:
        if turn.measured:
            return turn.measured.metrics
        if not self.data.test_positions or not turn.tests:
            return {}
        self.watchers.tell("phase", turn.cycle, "test", None)
        with meter.phase("test"), self.ranks.on_its_own(), interruptible():
            metrics = dict(trainer.test(module, datamodule=self.data, verbose=False)[0])
        preflight.refuse_unsynced(self.ranks.each(metrics))
        return metrics

    def _begin_to_record(self, cycle: int, pool: Tensor, trainer: Trainer) -> None:
        """Tell the recorders of a fit what they may know of it, and what the strategy may see of the pool. What they say
        until it has taken place is that they do not know."""

        def read(module: LightningModule, positions: Tensor, names: tuple[str, ...], score: Score) -> Tensor:
            return replace(self._scan(cycle, trainer, module), advance=lambda done: None).map(positions, names, score)

        around = Surroundings(self.data.sizes()["train"], pool, self._seed("record", cycle), read, self.ranks.each)
        for each in recorders_of(trainer):
            each.begin(around)
        self._recorded = _signals_of(recorders_of(trainer))

    def _at_hand(self, trainer: Trainer, positions: Sequence[int]) -> dict[str, Tensor]:
        """Signals (N, ...) by position that nobody has to read, of these training images at least."""
        return {**self._recorded, **self.features.embeddings(trainer, positions)}

    def _scan(
        self,
        cycle: int,
        trainer: Trainer,
        module: nn.Module,
        at_hand: Mapping[str, Tensor] | None = None,
        part: Part = "train",
    ) -> Scan:
        device = trainer.strategy.root_device
        self.data.trainer = trainer  # which hooks of other people ask
        return Scan(
            module=module.to(device),
            data=self.data,
            device=device,
            probes=self.settings.probes,
            seed=self._seed("scan", cycle),
            ranks=self.ranks,
            precision=trainer.precision_plugin.forward_context,
            room=Room(self.files.path),
            part=part,
            at_hand=at_hand or {},
            advance=lambda done: self.watchers.tell("advance", done),
        )

    def _forgetting(self, turn: Turn) -> list[Forgetting]:
        """How the labeled images fared that were shown in the fit, where that was recorded."""
        names = ("forgetting", "shown", "learned")
        if not all(name in self._recorded for name in names):
            return []
        labeled = torch.tensor(turn.pool.labeled, dtype=torch.long)
        labeled = labeled[self._recorded["shown"][labeled] > 0]
        columns = [labeled.tolist(), *(self._recorded[name][labeled].tolist() for name in names)]
        return [Forgetting(*row) for row in zip(*columns, strict=True)]

    def _result(self, turn: Turn, metrics: Mapping[str, float], meter: Meter) -> Result:
        assert self.books
        answers = [answer for _, answer in self.books.ledger.answers(before=turn.cycle)]
        labels, validation = len(turn.pool.labeled), len(self.data.validation_positions)
        metrics = {**metrics, **_wrong_share(answers), **self._of_pseudo_labels(turn.pool)}
        return Result(
            turn.cycle, labels, len(answers), validation, metrics, meter.seconds, turn.pool.digest(), meter.peak_memory()
        )

    def _of_pseudo_labels(self, pool: Pool) -> dict[str, float]:
        """How many pseudo-labels the model was trained on, and how many of these are right, where that is known."""
        if not pool.pseudo_labeled:
            return {}
        accuracy = self.data.accuracy(pool.pseudo_labeled, pool.pseudo_labels)
        known = {} if accuracy is None else {PSEUDO_ACCURACY: accuracy}
        return {PSEUDO: float(len(pool.pseudo_labeled)), **known}

    # Fresh parts, from the seeds of the cycle

    def fresh_module(self, cycle: int) -> LightningModule:
        torch.manual_seed(self._seed("weights", cycle))
        module = self._drawn_module()
        self.pretraining.give(module)
        if self.settings.warm_start and weights.notes(self.files.weights(cycle - 1)):
            weights.load_into(module, self.files.weights(cycle - 1))
        return module

    def _drawn_module(self) -> LightningModule:
        """A module, its network drawn from the global generator."""
        module: Any = fresh.make_module(self.settings.module)
        if hasattr(module, "configure_network"):
            if self.data.task is None:
                raise ValueError(
                    f"{type(module).__name__} is told by the data what images and classes there are, and "
                    f"ActiveDataModule.over says nothing of yours; give a module of your own, by Adapter."
                )
            module.configure_network(self.data.task)
        return module

    def _fresh_trainer(self, cycle: int) -> Trainer:
        seed = self._seed("fit", cycle)
        self.data.begin_cycle(seed)
        resumable = ResumableFit(
            self.files.fit_state(cycle),
            seed,
            of=self.data.pool.digest(),
            started=lambda epoch: self._started(cycle, epoch),
        )
        progress = StepProgress(lambda steps: self.watchers.tell("advance", steps))
        return fresh.make_trainer(self.settings.trainer, self.files.path, self.files.curves(cycle), [resumable, progress])

    def _started(self, cycle: int, epoch: int) -> None:
        if self.books:
            self.books.ledger.fit(cycle, epoch)

    def _seed(self, phase: str, *keys: int) -> int:
        return seeds.derive(self.settings.seed, phase, *keys)


def _signals_of(recorders: Sequence[Recorder]) -> dict[str, Tensor]:
    return {name: signal for each in recorders for name, signal in each.recorded().items()}


def _wrong_share(answers: Sequence[Answer]) -> dict[str, float]:
    """The share of labels that are wrong, where a simulation knows."""
    known = [answer.wrong for answer in answers if answer.wrong is not None]
    return {WRONG: sum(known) / len(known)} if known else {}
