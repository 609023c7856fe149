"""The loop: a model trains, the pool is read, a strategy chooses, labels arrive, and everything is written down.

    for cycle in 0, 1, 2, ...:                     (cycle c trains on answers of cycles before c only)
        answer what is open; fit; test; choose; ask

A cycle is a function of (config, seed, cycle, labeled positions in order), and the ledger holds all of them: a run that is
killed at any instant goes on, under the same command, as if nothing had happened.
"""

import itertools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng

from deepal import callbacks, fingerprint, folder, seeds, weights
from deepal.data.datamodule import ActiveDataModule
from deepal.data.initial import Balanced, Initial
from deepal.data.pool import Pool
from deepal.fingerprint import NEUTRAL
from deepal.ledger import Ledger, Query, Result
from deepal.oracles import Answer, DatasetOracle, Oracle
from deepal.preflight import environment, refuse_bad_needs, refuse_bad_sizes, refuse_blind_callbacks, trainer_options
from deepal.scan import Scan
from deepal.signals import NonFiniteError, Signals
from deepal.strategies.base import QueryStrategy, View, choose
from deepal.watching import Watcher, Watchers, interruptible, quiet_lightning

log = logging.getLogger(__name__)


class RunMismatchError(ValueError):
    """The run folder holds a run of another configuration or another data set."""


@dataclass(kw_only=True)
class Learner:
    """Deep active learning, from the first labels to the last.

    Args:
        strategy: chooses what to label.
        module: a LightningModule, or a function that makes one; each cycle trains a fresh one.
        data: serves the images, and knows which are labeled.
        oracle: answers queries.
        initial: chooses the first labels.
        trainer: options of `lightning.Trainer` for each cycle's fit, `{"max_epochs": 50, "accelerator": "gpu"}`.
            Without a length it is 500 steps.
        query_size: labels a cycle.
        budget: labels in all, the initial ones included. A finished run goes on where it has grown.
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
        self.trainer = trainer_options(self.trainer)
        refuse_bad_sizes(self)
        self._watchers = Watchers()

    @property
    def folder(self) -> Path:
        """Where this run is kept."""
        parts = (type(self.data).__name__, type(self.strategy).__name__, f"seed{self.seed}", self._digest())
        return Path(self.root) / (self.name or "-".join(parts).lower())

    def run(self, watch: Sequence[Watcher] = ()) -> list[Result]:
        """Run to the budget, or on from wherever it was left; a finished run is left as it is.

        Args: watch: are told what happens, as it happens; one that fails is dropped and stops nothing.
        Returns what each cycle measured.
        """
        with self._opened(watch) as ledger:
            for cycle in itertools.count():
                ledger.answer(self.oracle.answer(ledger.unanswered(), self.data, self._seed("oracle")))
                if ledger.unanswered():
                    break  # people take their time: the same call goes on when they have answered
                self._recall(ledger, cycle)
                if not ledger.asked(cycle) and (ledger.result(cycle) is None or self._query_size()):
                    self._cycle(ledger, cycle)
                if not ledger.asked(cycle):
                    break  # the last cycle trains and measures only
            return ledger.results()

    def ask(self, module: LightningModule | None = None) -> list[int]:
        """Positions to label next, for people who own their loop: those still open, or else what this cycle chooses.

        Args: module: one that they have trained on what is labeled; it is not trained or tested here. None: train one.
        Returns positions in the data set, in the order to ask; none where the budget is spent.
        """
        with self._opened() as ledger:
            if not ledger.unanswered():
                cycle = next(cycle for cycle in itertools.count() if not ledger.asked(cycle))
                self._recall(ledger, cycle)
                if self._query_size():
                    self._cycle(ledger, cycle, module)
            return ledger.unanswered()

    def tell(self, positions: Sequence[int], labels: Sequence[str | int | None], annotator: str = "user") -> None:
        """Take answers to positions that were asked: names or numbers of classes, None for an abstention.

        Raises ValueError, and takes none, for a class that there is not, a position never asked, or unequal lengths.
        """
        with self._opened() as ledger:
            if len(positions) != len(labels):
                raise ValueError(f"{len(positions)} positions came with {len(labels)} labels; one each is needed.")
            names = [self._class_name(label) for label in labels]
            ledger.answer(
                [
                    Answer(int(position), name, "abstained" if name is None else "labeled", annotator)
                    for position, name in zip(positions, names, strict=True)
                ]
            )

    # A cycle

    def _cycle(self, ledger: Ledger, cycle: int, module: LightningModule | None = None) -> None:
        """Fit, test, choose, and write down what was measured and asked, in one transaction."""
        trainer = self._fresh_trainer(ledger, cycle)
        result = ledger.result(cycle)
        if module is not None:
            metrics, seconds = {}, {}
        else:
            module, seconds = self._fitted(cycle, trainer)
            metrics = result.metrics if result else self._test(cycle, trainer, module)
        query, reading = self._choose(cycle, trainer, module)
        if new := result is None:
            labels, validation = len(self.data.pool.labeled), len(self.data.validation_positions)
            result = Result(cycle, labels, self._asked, validation, metrics, {**seconds, **reading})
        ledger.ask(cycle, trainer.strategy.broadcast(query), result)
        ledger.write_results(self._path / "results.csv")
        if new:
            self._watchers.tell("measured", result, ledger.results())

    def _fitted(self, cycle: int, trainer: Trainer) -> tuple[LightningModule, dict[str, float]]:
        """The module trained on what is labeled, and the seconds that took: from its file where it was trained already."""
        module = self._fresh_module(cycle)
        file = self._weights(cycle)
        if file.exists():
            return module, weights.load_into(module, file)["seconds"]
        started = time.perf_counter()
        if self.data.pool.labeled:
            self._watchers.tell("phase", cycle, "fit", _steps(trainer, self.data))
            with interruptible():
                trainer.fit(module, datamodule=self.data)
        seconds = {"fit": time.perf_counter() - started}
        weights.save(module, file, {"seconds": seconds, "classes": self.data.classes})
        shutil.rmtree(self._weights(cycle - 1).parent, ignore_errors=True)  # the weights of one cycle are kept
        return module, seconds

    def _test(self, cycle: int, trainer: Trainer, module: LightningModule) -> Mapping[str, float]:
        self._watchers.tell("phase", cycle, "test", None)
        return dict(trainer.test(module, datamodule=self.data, verbose=False)[0])

    def _choose(self, cycle: int, trainer: Trainer, module: LightningModule) -> tuple[Query, dict[str, float]]:
        """The next query, and the seconds that reading and selecting took."""
        query_size = self._query_size()
        if not query_size:
            return Query(), {"scan": 0.0, "select": 0.0}
        started = time.perf_counter()
        pool, generator = self.data.pool, torch.Generator().manual_seed(self._seed("select", cycle))
        index = torch.tensor(pool.index)
        if self.pool_subset is not None:
            index = index[torch.randperm(len(index), generator=generator)[: self.pool_subset].sort().values]
        scan = self._scan(cycle, trainer, module, len(index))
        with closing(scan):
            known = {"target": torch.tensor(pool.labels), "cycle": torch.tensor(pool.cycles)}
            labeled = Signals(torch.tensor(pool.labeled, dtype=torch.long), scan, known)
            try:
                choice = choose(self.strategy, View(Signals(index, scan), labeled), query_size, generator)
            except NonFiniteError as error:
                raise NonFiniteError(f"cycle {cycle}: {error} The ledger is whole.") from error
        scores = None if choice.scores is None else tuple(choice.scores.tolist())
        seconds = {"scan": scan.seconds, "select": time.perf_counter() - started - scan.seconds}
        return Query(tuple(index[choice.rows].tolist()), scores), seconds

    def _scan(self, cycle: int, trainer: Trainer, module: LightningModule, size: int) -> Scan:
        device = trainer.strategy.root_device
        self._watchers.tell("phase", cycle, "scan", size)
        return Scan(
            module=module.to(device),
            data=self.data,
            device=device,
            precision=trainer.precision_plugin.forward_context,
            folder=self._path,
            advance=lambda done: self._watchers.tell("advance", done),
        )

    def _query_size(self) -> int:
        """How many labels to ask for next: a query's worth, what the budget leaves, or what the pool holds."""
        return max(0, min(self.query_size, self.budget - len(self.data.pool.labeled), len(self.data.pool)))

    # Fresh parts: everything that a cycle trains with is made in that cycle, from its seed

    def _fresh_module(self, cycle: int) -> LightningModule:
        torch.manual_seed(self._seed("weights", cycle))
        module = make_module(self.module)
        if hasattr(module, "configure_network"):
            module.configure_network(self.data.task)
        if self.warm_start and self._weights(cycle - 1).exists():
            weights.load_into(module, self._weights(cycle - 1))
        return module

    def _fresh_trainer(self, ledger: Ledger, cycle: int) -> Trainer:
        path = self._weights(cycle).parent
        path.mkdir(parents=True, exist_ok=True)
        self.data.begin_cycle(self._seed("fit", cycle))
        resumable = callbacks.ResumableFit(
            path / "fit.ckpt", self._seed("fit", cycle), started=lambda epoch: ledger.fit(cycle, epoch)
        )
        progress = callbacks.StepProgress(lambda steps: self._watchers.tell("advance", steps))
        taken_up = len(list((self._path / "curves").glob(f"{cycle:03d}*")))
        curves = self._path / "curves" / (f"{cycle:03d}-{taken_up}" if taken_up else f"{cycle:03d}")
        return make_trainer(self.trainer, path, curves, [resumable, progress])

    def _seed(self, phase: str, *keys: int) -> int:
        return seeds.derive(self.seed, phase, *keys)

    # The run folder and what it remembers

    @contextmanager
    def _opened(self, watch: Sequence[Watcher] = ()) -> Iterator[Ledger]:
        """Hold the run folder, find or begin the run in it, and leave the process as it was found."""
        threads = torch.get_num_threads()
        with (
            folder.held(self.folder) as self._path,
            closing(Ledger(self._path / "ledger.sqlite")) as ledger,
            isolate_rng(),
            quiet_lightning(),
        ):
            torch.set_num_threads(self.threads)
            self._watchers = Watchers(watch)
            try:
                self._take_up(ledger)
                self._watchers.tell("begin", self._path, self.budget, ledger.results())
                yield ledger
                self._write_exports(ledger)
            finally:
                self._watchers.tell("end", self._path, ledger.results())
                torch.set_num_threads(threads)

    def _take_up(self, ledger: Ledger) -> None:
        """Refuse what cannot work before anything trains, and then begin the run, or go on with it."""
        manifest = ledger.manifest()
        if manifest:
            self._refuse_another_config(manifest)
        self.data.begin(self._seed("data"), manifest.get("validation", self._validation_size()))
        self._candidates = self.data.pool.index
        if manifest and manifest["data"] != self.data.fingerprint():
            raise RunMismatchError(
                f"the images of {type(self.data).__name__} are not those that the run in {self._path} began with; "
                f"give it its data set again, or start another run with --name."
            )
        refuse_bad_needs(self.strategy, self._fresh_module(0))
        trainer = make_trainer(self.trainer, self._path, None, [])
        refuse_blind_callbacks(trainer, len(self.data.validation_positions))
        if not manifest:
            generator = torch.Generator().manual_seed(self._seed("initial"))
            first = self.initial.positions(self.data.pool, self.data, generator)
            self.data.pool.require_free(first)
            refuse_bad_sizes(self, first=len(first), pool=len(self.data.pool))
            manifest = {
                "config": fingerprint.describe(self),
                "data": self.data.fingerprint(),
                "validation": len(self.data.validation_positions),
            }
            ledger.declare(manifest, Query(tuple(first)))
        ledger.session(environment(trainer, self.threads))

    def _refuse_another_config(self, manifest: Mapping[str, Any]) -> None:
        changed = fingerprint.differences(manifest["config"], fingerprint.describe(self))
        if changed:
            raise RunMismatchError(
                f"the run in {self._path} was begun with another configuration, and goes on with its own only:\n  "
                + "\n  ".join(changed)
                + "\nUndo these changes, or start another run with --name."
            )

    def _recall(self, ledger: Ledger, cycle: int) -> None:
        """Derive from the ledger what was labeled before this cycle. What was asked and gave no label is set aside."""
        pool = self.data.pool = Pool(self._candidates)
        answers = ledger.answers(before=cycle)
        number = {name: i for i, name in enumerate(self.data.classes)}
        for of_cycle, group in itertools.groupby(answers, key=lambda each: each[0]):
            labeled = [answer for _, answer in group if answer.status == "labeled"]
            pool.label([each.position for each in labeled], [number[str(each.label)] for each in labeled], of_cycle)
        pool.set_aside([answer.position for _, answer in answers if answer.status != "labeled"])
        self._asked = len(answers)

    def _write_exports(self, ledger: Ledger) -> None:
        """What people look for in the folder: the tables, and the last model."""
        ledger.write_results(self._path / "results.csv")
        ledger.write_labels(self._path / "labels.csv")
        last = self._weights(len(ledger.results()) - 1)
        if last.exists():
            folder.write_atomically(self._path / "model.safetensors", lambda partial: shutil.copy(last, partial))

    def _weights(self, cycle: int) -> Path:
        """The file of a cycle's trained weights: it is there once the fit has ended."""
        return self._path / "cycles" / f"{cycle:03d}" / "weights.safetensors"

    def _validation_size(self) -> int:
        wanted = self.data.validation
        return round(wanted * self.budget) if wanted < 1 else int(wanted)

    def _digest(self) -> str:
        return fingerprint.digest(fingerprint.describe(self))

    def _class_name(self, label: str | int | None) -> str | None:
        classes = self.data.classes
        if label is None or label in classes:
            return label  # type: ignore[return-value]  # in classes, so a name
        if isinstance(label, int) and 0 <= label < len(classes):
            return classes[label]
        raise ValueError(f"{label!r} is no class of {type(self.data).__name__}; its classes are {', '.join(classes)}.")


def make_module(module: Callable[[], LightningModule]) -> LightningModule:
    """A fresh module: a copy of an instance, or made by a function. Copied first, because the parts that such a function
    was given are built once and would carry their weights from cycle to cycle."""
    fresh = deepcopy(module)
    return fresh if isinstance(fresh, LightningModule) else fresh()


def make_trainer(options: Mapping[str, Any], path: Path, curves: Path | None, ours: Sequence[Any]) -> Trainer:
    """A fresh Trainer with our callbacks before copies of the user's: one that has fitted once does not fit again."""
    theirs = deepcopy(options.get("callbacks") or [])
    return Trainer(
        **{
            **options,
            "callbacks": [*ours, *(theirs if isinstance(theirs, list) else [theirs])],
            "logger": CSVLogger(curves.parent, name=None, version=curves.name) if curves else False,
            "default_root_dir": path,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
    )


def _steps(trainer: Trainer, data: ActiveDataModule) -> int | None:
    """How many steps a fit will take at most, where that can be said."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return None
    batches = data.epoch_steps or -(-len(data.pool.labeled) // data.batch_size)
    return trainer.max_epochs * batches
