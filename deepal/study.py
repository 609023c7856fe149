"""A study: strategies x seeds x data sets x modules, each a run in a folder of its own, paired over seeds.

For one seed all strategies start from the same labels and the same weights in each cycle, because seeds are derived from
the seed of the run and from nothing else. A run is named by the hash of its configuration: what is done is never done
again, and seeds or strategies that are added later are the only ones that run.
"""

import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from deepal import leases, preflight, records
from deepal.data.datamodule import ActiveDataModule
from deepal.data.initial import Balanced, Everything, Initial
from deepal.learner import Learner
from deepal.lockstep import carry_out_together
from deepal.modules import Adapter
from deepal.modules.self_supervised import Pretext
from deepal.oracles import DatasetOracle, Oracle
from deepal.probes import Probe
from deepal.records import Record
from deepal.representation import Representation
from deepal.strategies import QueryStrategy, Random
from deepal.workers import FAILURE, StudyError, carry_out, new_session, supervise

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Study:
    """Runs of every strategy with every seed, data set and module.

    Args:
        strategies: to compare. `Random` among them is what the others are held against; `Random(replica=1)` beside it is an
            A/A control, which shows what such a comparison calls a difference where there is none.
        modules: as `Learner.module`, each.
        data: as `Learner.data`; one, or several.
        seeds: how many, from 0, or which.
        ceiling: also train on the whole training set, once a seed, data set and module.
        name: of the study's folder in `root`, which holds the folders of its runs.
        root: the folder of all studies and runs.

    The others are those of every `Learner`.

    >>> from deepal.data import Digits
    >>> from deepal.modules import Classifier
    >>> from deepal.strategies import Margin
    >>> study = Study(strategies=[Random(), Margin()], modules=[Classifier()], data=[Digits()], seeds=5, budget=100)
    >>> len(study.runs)
    10
    >>> results = study.run(workers=2)                                                  # doctest: +SKIP
    """

    strategies: list[QueryStrategy]
    modules: list[Callable[[], LightningModule] | Adapter]
    data: ActiveDataModule | list[ActiveDataModule]
    seeds: int | list[int] = 5
    ceiling: bool = False
    oracle: Oracle = field(default_factory=DatasetOracle)
    initial: Initial = field(default_factory=Balanced)
    probes: list[Probe] = field(default_factory=list)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    query_size: int = 10
    budget: int = 100
    embedding_from: Representation | None = None
    pretext: Pretext | None = None
    pool_subset: int | None = None
    test_every: int | None = None
    warm_start: bool = False
    stacked: bool = False
    threads: int = 1
    root: Path = Path("runs")
    name: str = "study"

    def __post_init__(self) -> None:
        self.runs: dict[Path, Learner] = {}
        seeds = list(range(self.seeds)) if type(self.seeds) is int else self.seeds
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
            raise ValueError(f"seeds={self.seeds!r} must be a number of seeds, or a list of whole numbers.")
        sets = self.data if isinstance(self.data, list) else [self.data]
        if not seeds:
            raise ValueError(f"seeds={self.seeds!r} must be one at least.")
        for what, given in {"strategies": self.strategies, "modules": self.modules, "data": sets}.items():
            if not isinstance(given, list) or not given:
                raise ValueError(f"{what}={given!r} must be a list of one at least.")
        preflight.refuse_bad_name(self.name)
        if self.oracle.asks_people:
            raise ValueError(
                f"oracle={self.oracle!r} asks people, and a study would ask them for the same images many times; take an "
                f"oracle that simulates, or `deepal run`."
            )
        for seed, data, module in product(seeds, sets, self.modules):  # what is finished at any time can be compared
            for strategy in self.strategies:
                self._add(strategy, module, data, seed, self.initial)
        for seed, data, module in product(seeds if self.ceiling else (), sets, self.modules):
            self._add(Random(), module, data, seed, Everything())

    def _add(self, strategy: QueryStrategy, module: Any, data: ActiveDataModule, seed: int, initial: Initial) -> None:
        """Add a run. Raises ValueError where it is there already, and where it is one of several processes."""
        learner = Learner(
            strategy=strategy, module=module, data=data, oracle=self.oracle, initial=initial, probes=self.probes,
            trainer=self.trainer, query_size=self.query_size, budget=self.budget, embedding_from=self.embedding_from,
            pretext=self.pretext, pool_subset=self.pool_subset, test_every=self.test_every, warm_start=self.warm_start,
            stacked=self.stacked, seed=seed, threads=self.threads, root=self.folder,
        )  # fmt: skip
        if (learner.trainer.get("devices", 1), learner.trainer.get("num_nodes", 1)) != (1, 1):
            raise ValueError(
                "trainer.devices and trainer.num_nodes must be 1: the runs of a study are for one process each; take as "
                "many workers."
            )
        folder = learner.folder
        if folder in self.runs:
            raise ValueError(
                f"{strategy!r} with seed {seed} on {data.title} is listed twice; list it once, or Random(replica=1) "
                f"beside Random() for a control."
            )
        self.runs[folder] = learner

    @property
    def folder(self) -> Path:
        """Where the study is kept."""
        return Path(self.root) / self.name

    def run(self, workers: int = 1) -> list[Record]:
        """Carry out what has not been carried out, and return the records of all runs that are finished then.

        Any number of machines may do this at once over one folder: a run is done by one worker at a time, and by another
        one if that is killed.

        Args: workers: processes on this machine; 1 is this process itself. Runs are the same for any number of them. Where
            there are several GPUs each worker has one.
        Raises StudyError, when all that can be done is done, where runs have failed. Those in the hands of other machines
        are left to them, and are missing from what is returned.
        """
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1.")
        session = new_session()
        if self.stacked:
            if workers > 1:
                raise ValueError(f"workers={workers} must be 1: stacked=True carries all runs out in one process.")
            carry_out_together(self, session)
        elif workers == 1:
            carry_out(self, session)
        else:
            supervise(self, session, workers)
        self._refuse_unfinished(session)
        return self.records()

    def records(self) -> list[Record]:
        """The records of the runs that are finished."""
        return list(self.finished().values())

    def finished(self, besides: Container[Path] = ()) -> dict[Path, Record]:
        """The records of the runs that are finished, by folder. Args: besides: folders that are not looked into."""
        found = {folder: records.finished(folder, self.budget) for folder in self.runs if folder not in besides}
        return {folder: record for folder, record in found.items() if record is not None}

    def is_finished(self, folder: Path) -> bool:
        """Whether the run in this folder has come to the study's budget."""
        return records.finished(folder, self.budget) is not None

    def failure(self, folder: Path, session: str) -> str | None:
        """Why a run has failed in this session; None where it has not."""
        file = folder / FAILURE.format(session)
        return file.read_text(encoding="utf-8") if file.exists() else None

    def left(self, session: str) -> list[Path]:
        """The folders of the runs that are neither finished nor have failed in this session."""
        return [each for each in self.runs if self.is_left(each, session)]

    def is_left(self, folder: Path, session: str) -> bool:
        """Whether the run in this folder is one of those."""
        return not self.is_finished(folder) and self.failure(folder, session) is None

    def _refuse_unfinished(self, session: str) -> None:
        missing = [each for each in self.runs if not self.is_finished(each)]
        failed = [(each, why) for each in missing if (why := self.failure(each, session)) is not None]
        if failed:
            listed = "\n  ".join(f"{each.name}: {why.strip().splitlines()[-1]}" for each, why in failed[:5])
            raise StudyError(
                f"{len(failed)} of {len(self.runs)} runs of the study in {self.folder} have failed:\n  {listed}\n"
                f"The whole story is in {FAILURE.format(session)} of each; the same command does them again, and no others."
            )
        if missing:
            hosts = {leases.last_holder(each).get("host", "another process") for each in missing}
            log.warning(
                "%d of %d runs are being done by %s; give the same command again when they have been.",
                len(missing), len(self.runs), ", ".join(sorted(hosts)),
            )  # fmt: skip
