"""The loop: a model trains, the pool is read, a strategy chooses, labels arrive, and everything is written down.

    for cycle in 0, 1, 2, ...:                     (cycle c trains on answers of cycles before c only)
        answer what is open; fit; test; choose; ask

A cycle is a function of (config, seed, cycle, labeled positions in order), and the ledger holds all of them: a run that is
killed at any instant goes on, under the same command, as if nothing had happened.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from deepal import environment, fingerprint, fresh, preflight, seeds, trainer_options
from deepal.bookkeeping import Books
from deepal.cycle import Cycle
from deepal.data.datamodule import ActiveDataModule
from deepal.data.images import UnreadableError
from deepal.data.initial import Balanced, Initial
from deepal.entries import Result
from deepal.fingerprint import NEUTRAL
from deepal.modules import Adapter
from deepal.modules.self_supervised import Pretext
from deepal.oracles import Answer, DatasetOracle, Oracle
from deepal.probes import Probe
from deepal.ranks import Ranks
from deepal.recorders import recorders_of
from deepal.representation import Representation
from deepal.run import Files, Run
from deepal.stopping import StoppingRule
from deepal.strategies.base import QueryStrategy
from deepal.watching import Watcher, Watchers, quiet, quiet_lightning

log = logging.getLogger(__name__)


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
        probes: say of the module what it cannot say itself.
        trainer: options of `lightning.Trainer` for each cycle's fit, `{"max_epochs": 50, "accelerator": "gpu"}`.
            Without a length it is 300 steps.
        query_size: labels a cycle.
        budget: labels in all, the initial ones included. A finished run goes on where it has grown, with the validation set
            that it began with.
        embedding_from: where the embeddings that strategies read come from, if not from the module: `FeatureFile(path)`, or
            `Backbone(network)`, which is not trained. Strategies that read no embedding choose as they do without.
        stop: rules by which the run ends before its budget: `[StablePredictions()]`, of `deepal.stopping`. The reason is
            written down. A run that has stopped goes on where they have changed, as it does where the budget has grown.
        pretext: what the backbone is trained on before the first label, without any: `SimCLR()` or `Rotation()`. Each cycle
            begins with these weights, but for the last layer. Runs beside each other that would train the same share them.
        pool_subset: how many images of the pool, drawn anew each cycle, the strategy may see. None: all.
        test_every: test the model where so many labels more have come, and in the first and the last cycle. None: in every
            cycle. A model that is neither tested nor read is not trained either: random sampling is cheap then.
        warm_start: start each fit from the weights of the cycle before, not from scratch.
        stacked: train heads on frozen features as products of stacks of them (`deepal.stacked`), which for many runs of a
            study is one training; weights differ from those of `stacked=False` by rounding.
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
    module: Callable[[], LightningModule] | Adapter
    data: ActiveDataModule
    oracle: Oracle = field(default_factory=DatasetOracle)
    initial: Initial = field(default_factory=Balanced)
    probes: list[Probe] = field(default_factory=list)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    query_size: int = 10
    budget: int = field(default=100, metadata=NEUTRAL)
    embedding_from: Representation | None = None
    stop: list[StoppingRule] = field(default_factory=list, metadata=NEUTRAL)
    pretext: Pretext | None = None
    pool_subset: int | None = None
    test_every: int | None = None
    warm_start: bool = False
    stacked: bool = False
    seed: int = 0
    threads: int = 1
    root: Path = field(default=Path("runs"), metadata=NEUTRAL)
    name: str | None = field(default=None, metadata=NEUTRAL)

    def __post_init__(self) -> None:
        self.trainer = trainer_options.checked(self.trainer)
        preflight.refuse_bad_settings(self)

    @property
    def folder(self) -> Path:
        """Where this run is kept."""
        parts = (
            self.data.title,
            type(self.strategy).__name__,
            f"seed{self.seed}",
            fingerprint.digest(fingerprint.describe(self)),
        )
        return Path(self.root) / (self.name or "-".join(parts).lower())

    def run(self, watch: Sequence[Watcher] = ()) -> list[Result]:
        """Run to the budget, or on from wherever it was left; a finished run is left as it is. Where people answer, it ends
        when they have to be waited for, and the same call goes on when they have answered.

        Args: watch: are told what happens, as it happens; one that fails is dropped and stops nothing.
        Returns what each cycle measured.
        Raises ValueError before the first epoch for what cannot work: a RunMismatchError where the folder holds another
        run, a LedgerError where its ledger cannot be read; FolderHeldError where another process holds the folder; and
        NonFiniteError, in any cycle, where a signal or a score is no number.
        """
        with self.taken_up(watch) as (cycle, books, ranks), ranks.unbroken():
            while turn := ranks.decided(lambda: books.turn() if books else None):
                try:
                    cycle.carry_out(turn)
                except UnreadableError as error:
                    if books:
                        books.set_aside(error)  # and the same cycle again, without them
            return ranks.decided(lambda: books.ledger.results() if books else [])

    def ask(self, module: LightningModule | None = None) -> list[int]:
        """Positions to label next, for people who own their loop: those still open, or else what this cycle chooses.

        Args: module: one that they have trained on what is labeled; it is not trained or tested here. None: train one.
        Returns positions in the data set, in the order to ask; none where the budget is spent.
        """
        if module is not None:
            preflight.refuse_to_train_next(self.strategy)
        with self.taken_up(alone="ask") as (cycle, books, _):
            assert books
            while not books.ledger.unanswered() and (turn := books.next_turn()) and turn.query_size:
                try:
                    cycle.carry_out(turn, module)
                except UnreadableError as error:
                    books.set_aside(error)
            return books.ledger.unanswered()

    def tell(self, positions: Sequence[int], labels: Sequence[Any], annotator: str = "user") -> None:
        """Take answers to positions that were asked: names or numbers of classes, None for an abstention.

        Raises ValueError, and takes none, for a class that there is not, a position never asked, or unequal lengths.
        """
        with self.taken_up(alone="tell") as (_, books, _):
            assert books
            if len(positions) != len(labels):
                raise ValueError(f"{len(positions)} positions came with {len(labels)} labels; one each is needed.")
            if len(set(positions)) != len(positions):
                raise ValueError(f"positions must be distinct, and {list(positions)} has some more than once.")
            names = [None if label is None else self.data.label(label) for label in labels]
            answered = zip(positions, names, strict=True)
            books.take(
                [
                    Answer(int(position), name, "abstained" if name is None else "labeled", annotator)
                    for position, name in answered
                ]
            )

    # Before the first epoch

    @contextmanager
    def taken_up(
        self, watch: Sequence[Watcher] = (), alone: str | None = None
    ) -> Iterator[tuple[Cycle, Books | None, Ranks]]:
        """Begin the run in its folder or go on with it, and leave the process as it was found. The first process holds the
        folder and keeps the books; the others come to it.

        Args: watch: watchers; alone: a method that one process alone can do.
        """
        threads = torch.get_num_threads()
        with isolate_rng(), quiet_lightning(), fresh.gpus_looked_for_once(), ExitStack() as held:
            folder = self.folder
            trainer = trainer_options.refuse_broken(lambda: fresh.make_trainer(self.trainer, folder))
            ranks = Ranks(trainer)
            if alone:
                preflight.refuse_several_processes(alone, ranks.processes)
            try:
                torch.set_num_threads(self.threads)
                if not ranks.first:
                    held.enter_context(quiet(logging.ERROR, "deepal"))  # one voice is enough
                    yield self._come(ranks), None, ranks
                    return
                run = held.enter_context(Run.held(self.folder))
                books = Books(run, self, Watchers(watch))
                self._begin(books, trainer, ranks.processes)
                ranks.meet()
                ranks.decided(lambda: (run.files, books.remembered()))
                books.watchers.tell("begin", run.path, self.budget, run.ledger.results())
                books.tell_again()
                try:
                    yield Cycle(self, run.files, ranks, books, books.watchers), books, ranks
                    run.export(self.budget)
                finally:
                    books.watchers.tell("end", run.path, run.ledger.results())
            finally:
                torch.set_num_threads(threads)

    def _come(self, ranks: Ranks) -> Cycle:
        """Meet the first process, and lay the data out as it has."""
        ranks.meet()
        files, remembered = ranks.decided(lambda: (Files(self.folder), None))
        self.data.begin(seeds.derive(self.seed, "data"), 0, remembered)
        return Cycle(self, files, ranks)

    def _begin(self, books: Books, trainer: Trainer, processes: int) -> None:
        """Refuse what cannot work before anything trains; then ask the first labels, or go on with a run that has."""
        config = fingerprint.describe(self)
        books.lay_out(config)
        preflight.refuse_one_class(self.data)
        alone = Cycle(self, books.run.files, Ranks())
        module: Any = preflight.refuse_broken_module(lambda: alone.fresh_module(0))
        elsewhere = self.embedding_from is not None
        alone.features.refuse_broken()
        books.read(lambda: alone.pretraining.refuse_broken(module))
        if hasattr(module, "refuse"):
            books.read(lambda: module.refuse(self.data.raw(2)))
        grouped = self.data.has_groups
        recorders, batches = recorders_of(trainer), self.data.batches_an_epoch(self.budget)
        preflight.refuse_bad_needs(self.strategy, module, self.probes, recorders, grouped, elsewhere)
        trainer_options.refuse_callbacks(trainer, len(self.data.validation_positions), self.data.epoch_steps)
        trainer_options.refuse_automatic(trainer, module)
        preflight.refuse_short_records(recorders, fresh.steps_of(trainer, batches), batches, self.query_size)
        if self.stacked:
            preflight.refuse_unstackable(module, self.trainer, self.data, processes)
        preflight.refuse_blind_rules(self.stop, module, len(self.data.validation_positions))
        preflight.refuse_too_few(self.data, processes)
        if books.is_new:
            preflight.refuse_simulation(self.oracle, self.initial, self.data)
            first = books.first_query()
            labels = len(first.positions) + len(books.to_import())
            if self.initial.heeds_budget:
                preflight.refuse_bad_settings(self, first=labels, pool=len(self.data.candidates))
                if self.budget > len(self.data.candidates):
                    log.warning(
                        "budget=%d is more than the %d images that can be labeled: the run ends with the last of them.",
                        self.budget, len(self.data.candidates),
                    )  # fmt: skip
            books.declare(config, first)
        books.take_in(environment.describe(trainer.strategy.root_device, self.threads, processes))
        books.read(lambda: alone.rehearse(trainer, module))
