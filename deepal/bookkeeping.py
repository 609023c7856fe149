"""What the first process of a run does alone: it keeps the ledger, asks the oracle, and says what comes next."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from deepal import fingerprint, preflight, seeds, tables, weights
from deepal.data.datamodule import ActiveDataModule, Remembered
from deepal.data.images import Part, UnreadableError
from deepal.data.initial import Initial
from deepal.data.pool import Pool
from deepal.entries import COMPARED, OF_POOL, Forgetting, Predictions, Query, Result
from deepal.oracles import Answer, Oracle, Question
from deepal.oracles.base import IMPORTED, unanswered
from deepal.representation import Representation
from deepal.run import Run
from deepal.stopping import StoppingRule, first_reason
from deepal.task import Task
from deepal.watching import Watchers

log = logging.getLogger(__name__)
T = TypeVar("T")
_FEW = 50


class Settings(Protocol):
    """What is read of a learner."""

    data: ActiveDataModule
    oracle: Oracle
    initial: Initial
    embedding_from: Representation | None
    query_size: int
    budget: int
    stop: list[StoppingRule]
    test_every: int | None
    seed: int


@dataclass(frozen=True)
class Turn:
    """What every process has to know to do a cycle together.

    Args:
        cycle: its number.
        pool: what is labeled, and what can be asked.
        query_size: how many to ask; 0 in the last cycle, which trains and measures only.
        unreadable: (part, position) of the images that cannot be read.
        tests: whether the model of this cycle is tested.
        fitted: the seconds that its fit took, where that has been done already.
        measured: what was measured already.
        grown: what is known of the images, where there are more than before.
        artifacts: the hash of what the strategy has computed once, when it has.
        compared: what the last model predicted, where rules for stopping compare this one with it.
    """

    cycle: int
    pool: Pool
    query_size: int
    unreadable: Sequence[tuple[Part, int]]
    tests: bool
    fitted: Mapping[str, float] | None
    measured: Result | None
    grown: Remembered | None
    artifacts: str | None
    compared: Predictions


class Books:
    """The books of a run.

    Args: run: held by this process; settings: of the learner; watchers: are told what is asked and answered.
    """

    def __init__(self, run: Run, settings: Settings, watchers: Watchers) -> None:
        self.run, self.ledger, self.settings, self.watchers = run, run.ledger, settings, watchers
        self.data = settings.data
        self._measured: set[str] = set()  # by this process: hashes of labels
        self._found: list[tuple[Part, dict[int, tuple[str, str]]]] = []  # unreadable, before there is a run to write it to

    # Taking up a run

    @property
    def is_new(self) -> bool:
        return not self.ledger.manifest()

    def lay_out(self, config: Mapping[str, Any]) -> None:
        """Lay the data out as this run has it. Raises RunMismatchError, and RowsChangedError, where it is another."""
        self.run.refuse_another_config(config)
        self.data.begin(self._seed("data"), self.validation_size, self._remembered_by_name())
        self.run.refuse_other_images(self.data.fingerprint())
        self.run.refuse_other_embeddings(self._embeddings())

    @property
    def validation_size(self) -> int:
        """How many validation images a new run draws."""
        wanted = self.data.validation
        return round(wanted * self.settings.budget) if wanted < 1 else int(wanted)

    def remembered(self) -> Remembered | None:
        """What the run knows of its images; None before it has begun."""
        if self.is_new:
            return None
        manifest, keys = self.ledger.manifest(), self.ledger.image_keys()
        return Remembered(
            begun_with=manifest["images"],
            validation=manifest["validation"],
            keys=np.frombuffer(keys, np.uint64).reshape(-1, 2) if keys else None,
            task=Task.from_json(manifest["task"]) if manifest["task"] else None,
            contents=self.ledger.contents(),
            unreadable=self.ledger.unreadable(),
        )

    def _remembered_by_name(self) -> Remembered | None:
        remembered = self.remembered()
        return replace(remembered, names=self.ledger.image_names) if remembered else None

    def first_query(self) -> Query:
        """The first labels of a new run: images that can be read."""
        while True:
            generator = torch.Generator().manual_seed(self._seed("initial"))
            pool = Pool(self.data.candidates)
            pool.set_aside(self.to_import())
            positions = self.settings.initial.positions(pool, self.data, generator)
            pool.require_free(positions)
            if not (reasons := self.data.unreadable(positions)):
                return self._query(positions)
            self.set_aside(UnreadableError(reasons))
            if set(reasons) & set(getattr(self.settings.initial, "at", ())):
                names = ", ".join(map(self.data.name, reasons))
                raise ValueError(f"initial={self.settings.initial!r} gives images that cannot be read: {names}.")

    def declare(self, config: Mapping[str, Any], first: Query) -> None:
        """Write down what a new run is made of, and ask its first labels."""
        self.run.files.clear()
        task = self.data.task
        manifest = {
            "config": config, "data": self.data.fingerprint(), "validation": self.validation_size,
            "images": self.data.begun_with, "embeddings": self._embeddings(), "task": asdict(task) if task else None,
            "title": {
                "strategy": fingerprint.title(config["strategy"]),
                "module": fingerprint.title(config["module"]),
                "data": self.data.title,
            },
        }  # fmt: skip
        keys = _bytes(self.data.keys())
        self.ledger.declare(manifest, first, keys, self._names(0, len(keys) // 16), self._found)

    def take_in(self, environment: Mapping[str, Any]) -> None:
        """Record that a process has taken up the run, the images that have come to it since, and labels that exist."""
        self._refuse_too_many_unreadable()
        if 0 < len(self.data.test_positions) < _FEW:
            log.warning("accuracy is measured on %d images, and says little.", len(self.data.test_positions))
        self._warn_of_late_rules()
        self.ledger.session(environment)
        self._record_growth()

    def _warn_of_late_rules(self) -> None:
        """Say it where cycles were measured before the rules for stopping were given."""
        metrics = [each.metrics for each in self.ledger.results()]
        late = [
            rule for rule in self.settings.stop
            if (rule.validated and any(rule.validated not in each for each in metrics))
            or (rule.reads_pool and any(not any(name.startswith(OF_POOL) for name in each) for each in metrics[1:]))
        ]  # fmt: skip
        if late:
            log.warning(
                "some of the %d cycles of this run were measured without %s, which does not know of them.",
                len(metrics), ", ".join(map(repr, late)),
            )  # fmt: skip

    # Cycles

    def turn(self) -> Turn | None:
        """Take what the oracle answers, and say what comes next; None where the run is over, or waits."""
        self.remember_contents(self.data.newly_read())
        oracle, questions = self.settings.oracle, self._take_answers()
        turn = None if oracle.waits(questions) else self.next_turn()
        if unanswered(questions) and not (turn and turn.query_size):  # the last model learns from all that was asked
            self.watchers.tell("waits", oracle.request(questions, self.data))
            return None
        return turn

    def next_turn(self) -> Turn | None:
        """What comes next, as things are; None where the run is over, for a reason that is written down."""
        grown = self._grown()
        cycle = self.ledger.next_cycle()
        pool = self.run.pool(self.data.candidates, self.data.target, cycle)
        query_size, result = self._query_size(pool), self.ledger.result(cycle)
        reason = self.reason_to_stop(result) if result is not None else None
        if result is not None and result.answers != pool.digest():  # late or corrected answers: that was another model's
            if (reason or not query_size) and pool.digest() in self._measured:
                return None  # an oracle that cannot make up its mind
            cycle, result = cycle + 1, None
        if result is not None and (reason or not query_size):
            if query_size:
                self.watchers.tell("stops", reason)
            spent = "the budget is spent" if len(pool) else "there is nothing left to ask"
            self.ledger.stop(cycle, reason if reason and query_size else spent)
            return None
        notes = weights.notes(self.run.files.weights(cycle))
        fitted = notes["seconds"] if notes and notes["answers"] == pool.digest() else None
        tests = not query_size or self._passes_a_mark(pool, cycle)
        artifacts, compared = self.ledger.artifacts(), self.ledger.predictions(cycle - 1, COMPARED)
        return Turn(cycle, pool, query_size, self.ledger.unreadable(), tests, fitted, result, grown, artifacts, compared)

    def reason_to_stop(self, result: Result) -> str | None:
        """Why to stop with the result of a cycle, where a rule says so."""
        before = [each for each in self.ledger.results() if each.cycle < result.cycle]
        return first_reason(self.settings.stop, [*before, result])

    def _passes_a_mark(self, pool: Pool, cycle: int) -> bool:
        """Whether there are labels beyond another multiple of `test_every` since the last test, or was none yet."""
        every = self.settings.test_every
        if every is None:
            return True
        tested = [each.labels for each in self.ledger.results() if each.cycle < cycle and each.is_tested]
        return not tested or len(pool.labeled) // every > tested[-1] // every

    def write(self, turn: Turn, query: Query, result: Result, forgetting: Sequence[Forgetting] = ()) -> None:
        """Write down what a cycle has asked, measured and forgotten, in one transaction, before the oracle is asked."""
        self._measured.add(result.answers)
        new = turn.measured is None
        named = replace(query, items=tuple(map(self.data.name, query.positions)))
        self.ledger.ask(turn.cycle, named, result if new else turn.measured, forgetting)
        self.run.export_tables()
        if new:
            self.watchers.tell("measured", result, self.ledger.results())
        self._tell_forgetting(turn.cycle)
        if query.notes:
            self.watchers.tell("noted", turn.cycle, query.notes)

    def tell_again(self) -> None:
        """Tell what a process may have been killed before it had told it."""
        if results := self.ledger.results():
            self._tell_forgetting(results[-1].cycle)

    def _tell_forgetting(self, cycle: int) -> None:
        if forgetting := self.ledger.forgetting(cycle):
            self.watchers.tell("forgot", cycle, forgetting, self.data)

    def take(self, answers: Sequence[Answer]) -> None:
        """Write answers down, and the table of labels anew."""
        self.ledger.answer(answers)
        if answers:
            self.run.export_tables()

    def set_aside(self, error: UnreadableError) -> None:
        """Record images that cannot be read. Raises ValueError where they are more than `data.max_bad_fraction` of all."""
        reasons = {at: (self.data.name_in(error.part, at), reason) for at, reason in error.reasons.items()}
        if self.is_new:
            self._found.append((error.part, reasons))
            self.data.set_aside([(part, position) for part, found in self._found for position in found])
        else:
            self.ledger.add_unreadable(error.part, reasons)
            self.run.export_tables()
            self.data.set_aside(self.ledger.unreadable())
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.values())[:5])
        log.warning("%d images cannot be read and are set aside (%s).", len(reasons), listed)
        self._refuse_too_many_unreadable()

    def _refuse_too_many_unreadable(self) -> None:
        unreadable = self.ledger.quarantine() or [
            {"id": name, "reason": reason} for _, found in self._found for name, reason in found.values()
        ]
        if len(unreadable) <= self.data.max_bad_fraction * len(self.data):
            return
        file = self.run.path / "quarantine.csv"
        tables.write(file, list(unreadable[0]), unreadable)
        last = "; ".join(f"{row['id']}: {row['reason']}" for row in unreadable[-5:])
        raise ValueError(
            f"{len(unreadable)} of {len(self.data)} images cannot be read, more than "
            f"data.max_bad_fraction={self.data.max_bad_fraction} of them ({last}). All are in {file}: raise the fraction, "
            f"or mend the files and start another run."
        )

    def read(self, what: Callable[[], T]) -> T:
        """What `what` returns: done again, without them, for as long as it meets images that cannot be read."""
        while True:
            try:
                return what()
            except UnreadableError as error:
                self.set_aside(error)

    def remember_contents(self, hashes: Mapping[int, int]) -> None:
        """Record hashes of the content of files that were read for the first time."""
        if hashes:
            self.ledger.add_contents(hashes)

    def _take_answers(self) -> list[Question]:
        """Ask the oracle, and write down what it says. Returns all questions, with their answers."""
        oracle, seed = self.settings.oracle, self._seed("oracle")
        answers = self.read(lambda: oracle.answer(self.ledger.questions(), self.data, self.run.path, seed))
        for answer in answers:
            if answer.label is not None:
                self.data.label(answer.label)
        self.take(answers)
        questions = self.ledger.questions()
        new, readable = {answer.position for answer in answers}, [each for each in questions if not each.unreadable]
        for cycle in sorted({each.cycle for each in readable if each.position in new}):
            self.watchers.tell("answered", cycle, [each for each in readable if each.cycle == cycle], self.data)
        return questions

    def _query_size(self, pool: Pool) -> int:
        """How many labels to ask for next: a query's worth, what the budget leaves, or what the pool holds."""
        open_ones = len(self.ledger.unanswered())
        left = self.settings.budget - len(pool.labeled) - open_ones
        return max(0, min(self.settings.query_size, left, len(pool)))

    # Images that came later, and labels that came with them

    def _grown(self) -> Remembered | None:
        if not self.data.has_grown():
            return None
        self.data.begin(self._seed("data"), self.validation_size, self._remembered_by_name())
        self.run.refuse_other_embeddings(self._embeddings())
        self._record_growth()
        return self.remembered()

    def _record_growth(self) -> None:
        keys, known = _bytes(self.data.keys()), len(self.ledger.image_keys())
        if len(keys) > known:
            preflight.refuse_simulation(self.settings.oracle, self.settings.initial, self.data)
            log.warning("%d images were added, and are in the pool.", (len(keys) - known) // 16)
            self.ledger.add_images(keys[known:], self._names(known // 16, len(keys) // 16))
        new = self.to_import()
        if new:
            answers = [
                Answer(at, self.data.true_label(at), annotator=self.data.annotator(at), source=IMPORTED) for at in new
            ]
            self.ledger.import_labels(self.ledger.next_cycle() - 1, self._query(new), answers)

    def to_import(self) -> list[int]:
        """Images whose label exists, where labels are not simulated, and that nobody was asked for."""
        if not self.settings.oracle.asks_people:
            return []
        asked = {each.position for each in self.ledger.questions()}
        return [position for position in self.data.existing() if position not in asked]

    def _embeddings(self) -> str | None:
        """A hash of embeddings that are not the module's, where the configuration does not say all of them."""
        source = self.settings.embedding_from
        return source.digest(self.data.begun_with, self.data.sizes()["train"]) if source else None

    def _names(self, first: int, last: int) -> Iterator[str]:
        return (self.data.name(position) for position in range(first, last))

    def _query(self, positions: Sequence[int]) -> Query:
        return Query(tuple(positions), tuple(map(self.data.name, positions)))

    def _seed(self, phase: str) -> int:
        return seeds.derive(self.settings.seed, phase)


def _bytes(keys: np.ndarray | None) -> bytes:
    return b"" if keys is None else keys.tobytes()
