"""The loop: a model trains, the pool is read, a strategy chooses, labels arrive, and everything is written down.

    for cycle in 0, 1, 2, ...:                     (cycle c trains on answers of cycles before c only)
        answer what is open; fit; test; choose; ask

A cycle is a function of (config, seed, cycle, labeled positions in order), and the ledger holds all of them: a run that is
killed at any instant goes on, under the same command, as if nothing had happened.
"""

import itertools
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from deepal import fingerprint, fresh, preflight, seeds, weights
from deepal.callbacks import ResumableFit, StepProgress
from deepal.data.datamodule import ActiveDataModule
from deepal.data.initial import Balanced, Initial
from deepal.fingerprint import NEUTRAL
from deepal.ledger import Query, Result
from deepal.oracles import Answer, DatasetOracle, Oracle
from deepal.run import Run
from deepal.scan import Scan
from deepal.signals import NonFiniteError, Signals
from deepal.strategies.base import QueryStrategy, View, choose
from deepal.watching import Watcher, Watchers, interruptible, quiet_lightning


@dataclass(kw_only=True)
class Learner:
    """Deep active learning, from the first labels to the last.

    Args:
        strategy: chooses what to label.
        module: a function that makes a LightningModule, its class for one, called in each cycle; or an instance, copied in
            each cycle with the weights that it has (a `Classifier` has none yet, and draws them anew).
        data: serves the images, and knows which are labeled.
        oracle: answers queries.
        initial: chooses the first labels.
        trainer: options of `lightning.Trainer` for each cycle's fit, `{"max_epochs": 50, "accelerator": "gpu"}`.
            Without a length it is 300 steps.
        query_size: labels a cycle.
        budget: labels in all, the initial ones included. A finished run goes on where it has grown, with the validation set
            that it began with.
        pool_subset: how many images of the pool, drawn anew each cycle, the strategy may see. None: all.
        warm_start: start each fit from the weights of the cycle before, not from scratch.
        seed: every coin of the run is derived from it.
        threads: of torch on the CPU; results are equal for equal numbers of threads only.
        root: the folder of all runs.
        name: of this run's folder in `root`; made of the configuration where none is given, so that the same
            configuration finds its run again.

    >>> from deepal.data import Digits
    >>> from deepal.modules import Classifier
    >>> from deepal.strategies import Margin
    >>> learner = Learner(strategy=Margin(), module=Classifier(), data=Digits(), query_size=10, budget=40)
    >>> results = learner.run()                                                         # doctest: +SKIP
    """

    strategy: QueryStrategy
    module: Callable[[], LightningModule]
    data: ActiveDataModule
    oracle: Oracle = field(default_factory=DatasetOracle)
    initial: Initial = field(default_factory=Balanced)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    query_size: int = 10
    budget: int = field(default=100, metadata=NEUTRAL)
    pool_subset: int | None = None
    warm_start: bool = False
    seed: int = 0
    threads: int = 1
    root: Path = field(default=Path("runs"), metadata=NEUTRAL)
    name: str | None = field(default=None, metadata=NEUTRAL)

    def __post_init__(self) -> None:
        self.trainer = preflight.trainer_options(self.trainer)
        preflight.refuse_bad_settings(self)
        self._watchers = Watchers()

    @property
    def folder(self) -> Path:
        """Where this run is kept."""
        parts = (
            type(self.data).__name__,
            type(self.strategy).__name__,
            f"seed{self.seed}",
            fingerprint.digest(fingerprint.describe(self)),
        )
        return Path(self.root) / (self.name or "-".join(parts).lower())

    def run(self, watch: Sequence[Watcher] = ()) -> list[Result]:
        """Run to the budget, or on from wherever it was left; a finished run is left as it is.

        Args: watch: are told what happens, as it happens; one that fails is dropped and stops nothing.
        Returns what each cycle measured.
        """
        with self._taken_up(watch) as run:
            ledger = run.ledger
            for cycle in itertools.count():
                self._record(run, self.oracle.answer(ledger.unanswered(), self.data, self._seed("oracle")))
                if ledger.unanswered():
                    break  # people take their time: the same call goes on when they have answered
                self.data.pool = run.pool(self._candidates, self.data.classes, cycle)
                if not ledger.asked(cycle) and (ledger.result(cycle) is None or self._next_query_size()):
                    self._cycle(run, cycle)
                if not ledger.asked(cycle):
                    break  # the last cycle trains and measures only
            return ledger.results()

    def ask(self, module: LightningModule | None = None) -> list[int]:
        """Positions to label next, for people who own their loop: those still open, or else what this cycle chooses.

        Args: module: one that they have trained on what is labeled; it is not trained or tested here. None: train one.
        Returns positions in the data set, in the order to ask; none where the budget is spent.
        """
        with self._taken_up() as run:
            if not run.ledger.unanswered():
                cycle = next(cycle for cycle in itertools.count() if not run.ledger.asked(cycle))
                self.data.pool = run.pool(self._candidates, self.data.classes, cycle)
                if self._next_query_size():
                    self._cycle(run, cycle, module)
            return run.ledger.unanswered()

    def tell(self, positions: Sequence[int], labels: Sequence[str | int | None], annotator: str = "user") -> None:
        """Take answers to positions that were asked: names or numbers of classes, None for an abstention.

        Raises ValueError, and takes none, for a class that there is not, a position never asked, or unequal lengths.
        """
        with self._taken_up() as run:
            if len(positions) != len(labels):
                raise ValueError(f"{len(positions)} positions came with {len(labels)} labels; one each is needed.")
            names = [self._class_name(label) for label in labels]
            statuses = ["abstained" if name is None else "labeled" for name in names]
            answers = zip(positions, names, statuses, strict=True)
            self._record(run, [Answer(int(position), name, status, annotator) for position, name, status in answers])

    # A cycle

    def _cycle(self, run: Run, cycle: int, module: LightningModule | None = None) -> None:
        """Fit, test, choose, and write down what was measured and asked, in one transaction.

        Args: module: trained by somebody else, then neither fitted nor tested here.
        """
        trainer, result = self._fresh_trainer(run, cycle), run.ledger.result(cycle)
        metrics: Mapping[str, float] = {}
        seconds: dict[str, float] = {}
        if module is None:
            module, seconds = self._fitted(run, cycle, trainer)
            metrics = result.metrics if result else self._tested(cycle, trainer, module)
        query, reading = self._chosen(run, cycle, trainer, module)
        if new := result is None:
            answers = [answer for _, answer in run.ledger.answers(before=cycle)]
            labels, validation = len(self.data.pool.labeled), len(self.data.validation_positions)
            metrics = {**metrics, **_wrong_share(answers)}
            result = Result(cycle, labels, len(answers), validation, metrics, seconds | reading)
        run.ledger.ask(cycle, trainer.strategy.broadcast(query), result)
        run.ledger.write_results(run.path / "results.csv")
        if new:
            self._watchers.tell("measured", result, run.ledger.results())

    def _fitted(self, run: Run, cycle: int, trainer: Trainer) -> tuple[LightningModule, dict[str, float]]:
        """The module trained on what is labeled, and the seconds that took: from its file where it was trained already."""
        module, file = self._fresh_module(run, cycle), run.weights(cycle)
        notes = weights.notes(file)
        if notes and notes["answers"] == self._answers_hash():
            weights.load_into(module, file)
            run.forget_files_before(cycle)
            return module, notes["seconds"]
        started = time.perf_counter()
        preflight.refuse_untrainable(module)
        if self.data.pool.labeled:
            batches = self.data.epoch_steps or -(-len(self.data.pool.labeled) // self.data.batch_size)
            self._watchers.tell("phase", cycle, "fit", fresh.steps_of(trainer, batches))
            with interruptible():
                trainer.fit(module, datamodule=self.data)
        seconds = {"fit": time.perf_counter() - started}
        weights.save(module, file, {"seconds": seconds, "answers": self._answers_hash()})
        run.forget_files_before(cycle)
        return module, seconds

    def _tested(self, cycle: int, trainer: Trainer, module: LightningModule) -> Mapping[str, float]:
        self._watchers.tell("phase", cycle, "test", None)
        return dict(trainer.test(module, datamodule=self.data, verbose=False)[0])

    def _chosen(self, run: Run, cycle: int, trainer: Trainer, module: LightningModule) -> tuple[Query, dict[str, float]]:
        """The next query, and the seconds that reading and selecting took."""
        query_size = self._next_query_size()
        if not query_size:
            return Query(), {"scan": 0.0, "select": 0.0}
        started = time.perf_counter()
        pool, generator = self.data.pool, torch.Generator().manual_seed(self._seed("select", cycle))
        index = torch.tensor(pool.index)
        if self.pool_subset is not None:
            index = index[torch.randperm(len(index), generator=generator)[: self.pool_subset].sort().values]
        self._watchers.tell("phase", cycle, "scan", len(index))
        scan = self._scan(run, trainer, module)
        known = {"target": torch.tensor(pool.labels), "cycle": torch.tensor(pool.cycles)}
        labeled = Signals(torch.tensor(pool.labeled, dtype=torch.long), scan, known)
        try:
            choice = choose(self.strategy, View(Signals(index, scan), labeled), query_size, generator)
        except NonFiniteError as error:
            raise NonFiniteError(f"cycle {cycle}: {error} The ledger is whole.") from error
        scores = None if choice.scores is None else tuple(choice.scores.tolist())
        seconds = {"scan": scan.seconds, "select": time.perf_counter() - started - scan.seconds}
        return Query(tuple(index[choice.rows].tolist()), scores), seconds

    def _scan(self, run: Run, trainer: Trainer, module: LightningModule) -> Scan:
        device = trainer.strategy.root_device
        return Scan(
            module=module.to(device),
            data=self.data,
            device=device,
            precision=trainer.precision_plugin.forward_context,
            folder=run.path,
            advance=lambda done: self._watchers.tell("advance", done),
        )

    def _next_query_size(self) -> int:
        """How many labels to ask for next: a query's worth, what the budget leaves, or what the pool holds."""
        return max(0, min(self.query_size, self.budget - len(self.data.pool.labeled), len(self.data.pool)))

    # Fresh parts, from the seeds of the cycle

    def _fresh_module(self, run: Run, cycle: int) -> LightningModule:
        torch.manual_seed(self._seed("weights", cycle))
        module = fresh.make_module(self.module)
        if hasattr(module, "configure_network"):
            module.configure_network(self.data.task)
        if self.warm_start and weights.notes(run.weights(cycle - 1)):
            weights.load_into(module, run.weights(cycle - 1))
        return module

    def _fresh_trainer(self, run: Run, cycle: int) -> Trainer:
        seed = self._seed("fit", cycle)
        self.data.begin_cycle(seed)
        resumable = ResumableFit(
            run.fit_state(cycle), seed, of=self._answers_hash(), started=lambda epoch: run.ledger.fit(cycle, epoch)
        )
        progress = StepProgress(lambda steps: self._watchers.tell("advance", steps))
        return fresh.make_trainer(self.trainer, run.path, run.curves(cycle), [resumable, progress])

    def _answers_hash(self) -> str:
        """A hash of what a fit learns from: weights trained on other answers, corrected since, are not this cycle's."""
        return fingerprint.digest([self.data.pool.labeled, self.data.pool.labels])

    def _seed(self, phase: str, *keys: int) -> int:
        return seeds.derive(self.seed, phase, *keys)

    # Before the first epoch

    @contextmanager
    def _taken_up(self, watch: Sequence[Watcher] = ()) -> Iterator[Run]:
        """Hold the run folder, begin the run in it or go on with it, and leave the process as it was found."""
        self._watchers = Watchers(watch)
        threads = torch.get_num_threads()
        with Run.held(self.folder) as run, isolate_rng(), quiet_lightning():
            try:
                torch.set_num_threads(self.threads)
                self._begin(run)
                self._watchers.tell("begin", run.path, self.budget, run.ledger.results())
                yield run
                run.export()
            finally:
                self._watchers.tell("end", run.path, run.ledger.results())
                torch.set_num_threads(threads)

    def _begin(self, run: Run) -> None:
        """Refuse what cannot work before anything trains; then ask the first labels, or go on with a run that has."""
        config, manifest = fingerprint.describe(self), run.ledger.manifest()
        run.refuse_another_config(config)
        wanted = self.data.validation
        validation = manifest.get("validation", round(wanted * self.budget) if wanted < 1 else int(wanted))
        self.data.begin(self._seed("data"), validation)
        self._candidates, images = self.data.pool.index, self.data.fingerprint()
        run.refuse_other_images(images)
        preflight.refuse_bad_needs(self.strategy, preflight.refuse_broken_module(lambda: self._fresh_module(run, 0)))
        trainer = preflight.refuse_broken_trainer(lambda: fresh.make_trainer(self.trainer, run.path))
        preflight.refuse_callbacks(trainer, validation, self.data.epoch_steps)
        if not manifest:
            first = self.initial.positions(self.data.pool, self.data, torch.Generator().manual_seed(self._seed("initial")))
            self.data.pool.require_free(first)
            preflight.refuse_bad_settings(self, first=len(first), pool=len(self.data.pool))
            run.clear()
            run.ledger.declare({"config": config, "data": images, "validation": validation}, Query(tuple(first)))
        run.ledger.session(preflight.environment(trainer, self.threads))

    def _record(self, run: Run, answers: Sequence[Answer]) -> None:
        """Write answers down, or none of them where one is not of a class that there is."""
        for answer in answers:
            self._class_name(answer.label)
        run.ledger.answer(answers)

    def _class_name(self, label: str | int | None) -> str | None:
        classes = self.data.classes
        if label is None or (isinstance(label, str) and label in classes):
            return label
        if not isinstance(label, str | bool) and hasattr(label, "__index__") and 0 <= operator.index(label) < len(classes):
            return classes[operator.index(label)]
        raise ValueError(f"{label!r} is no class of {type(self.data).__name__}; its classes are {', '.join(classes)}.")


def _wrong_share(answers: Sequence[Answer]) -> dict[str, float]:
    """The share of labels that are wrong, where a simulation knows."""
    known = [answer.wrong for answer in answers if answer.wrong is not None]
    return {"labels/wrong": sum(known) / len(known)} if known else {}
