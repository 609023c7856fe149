"""A run as plain values, in one file that needs neither deepal nor SQLite to be read: `run.json`, and `study.json` of many.

Everything in a record but its `times` is the same when the run is repeated on the same machine, however often it was
killed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from deepal import folder
from deepal.entries import INITIAL, is_of_test
from deepal.ledger import Ledger

FILE = "run.json"
_WHERE = ("host",)  # of an environment: says where, and not with what
_EVERYTHING = "deepal.data.initial.Everything"


class RecordError(ValueError):
    """A file or folder holds no record of a run."""


@dataclass(frozen=True)
class Record:
    """A run.

    Args:
        config: what it is made of, as `fingerprint.describe` says it.
        title: of its `strategy`, `module` and `data`, as people write them.
        budget: labels in all.
        finished: whether it has come to its end.
        first: positions of the first labels, in the order asked; none where these are all that there are.
        cycles: of each: `cycle`, `labels`, `asked`, `validation`, `metrics` (None for what is no number), and what it
            asked: `positions` in the data set in that order, their `scores`, where the strategy has them, `notes`, what
            it had to say of them, and `classes`, how many were then said to be of each.
        environments: versions, device and threads of all processes that took part, each once.
        times: `cycles`: `seconds` by phase and most bytes of `memory` in each; `people`: seconds that had been spent on
            answering before each, where that was measured.
        stopped: why it ended: its budget was spent, or what a rule for stopping had to say; empty where it has not ended.
    """

    config: Mapping[str, Any]
    title: Mapping[str, str]
    budget: int
    finished: bool
    first: Sequence[int]
    cycles: Sequence[Mapping[str, Any]]
    environments: Sequence[Mapping[str, Any]]
    times: Mapping[str, Any]
    stopped: str = ""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def is_ceiling(self) -> bool:
        """Whether the run trained on everything (`initial=Everything()`)."""
        return _is_ceiling(self.config)

    @property
    def name(self) -> str:
        """What people call this run."""
        return f"{self.title['strategy']} with seed {self.seed} on {self.title['data']}"

    def up_to(self, budget: int) -> "Record":
        """What it would be with this budget: the cycles with so many labels, of which the last asks nothing."""
        if budget >= self.budget or self.is_ceiling:
            return self
        cycles = [each for each in self.cycles if each["labels"] <= budget]
        times = {name: each[: len(cycles)] for name, each in self.times.items()}
        last = {**cycles[-1], "positions": [], "scores": None, "notes": {}, "classes": {}}
        return replace(self, budget=budget, cycles=[*cycles[:-1], last], times=times)

    @property
    def tested(self) -> list[int]:
        """Rows of the cycles whose model was tested: all, but for those that `test_every` has passed over."""
        every = self.config.get("test_every") is None
        return [row for row, each in enumerate(self.cycles) if every or any(map(is_of_test, each["metrics"]))]

    def labels(self) -> np.ndarray:
        """(n,): labels that each tested model was trained on."""
        return np.array([self.cycles[row]["labels"] for row in self.tested], float)

    def metric(self, name: str) -> list[float]:
        """A metric of every tested cycle. Raises RecordError, naming those that there are, where it was not measured, or
        where it is no number, as when a training has diverged."""
        values = [self.cycles[row]["metrics"].get(name) for row in self.tested]
        missing = [row for row, value in zip(self.tested, values, strict=True) if not _is_number(value)]
        if missing:
            known = ", ".join(sorted(set().union(*(each["metrics"] for each in self.cycles)) - {name}))
            raise RecordError(
                f"{self.name} has measured no number as {name} in {len(missing)} cycles, the first of them {missing[0]}; "
                f"there are {known or 'no other metrics'}. Compare another metric, or leave this run out."
            )
        return values


def of_ledger(ledger: Ledger, budget: int) -> Record:
    """The record of a run that has begun."""
    manifest, results = ledger.manifest(), ledger.results()
    answers = ledger.answers(before=len(results) + 1)
    classes: dict[int, Counter[str]] = defaultdict(Counter)
    for cycle, answer in answers:
        if answer.label is not None:
            classes[cycle][answer.label] += 1
    finished = bool(results) and not ledger.asked(results[-1].cycle) and not ledger.unanswered()
    environments = [{key: each[key] for key in each if key not in _WHERE} for each in ledger.sessions()]
    return Record(
        config=manifest["config"],
        title=manifest["title"],
        budget=budget,
        finished=finished,
        first=[] if _is_ceiling(manifest["config"]) else ledger.asked(INITIAL),
        cycles=[
            {
                "cycle": each.cycle, "labels": each.labels, "asked": each.asked, "validation": each.validation,
                "metrics": {name: value if isfinite(value) else None for name, value in each.metrics.items()},
                "positions": ledger.asked(each.cycle), "scores": _scores(ledger, each.cycle),
                "notes": ledger.notes(each.cycle), "classes": dict(classes[each.cycle]),
            }
            for each in results
        ],
        environments=[each for i, each in enumerate(environments) if each not in environments[:i]],
        times={
            "cycles": [
                {"seconds": {phase: round(each.seconds[phase], 4) for phase in each.seconds}, "memory": dict(each.memory)}
                for each in results
            ],
            "people": [
                sum(answer.seconds or 0.0 for cycle, answer in answers if cycle < each.cycle) for each in results
            ],
        },
        stopped=(ledger.stopped() or (0, ""))[1] if finished else "",  # what has stopped may have gone on
    )  # fmt: skip


def _is_ceiling(config: Mapping[str, Any]) -> bool:
    return config["initial"].get("class") == _EVERYTHING


def _scores(ledger: Ledger, cycle: int) -> list[float | None] | None:
    """The scores of a query, in as many digits as tell two numbers in single precision apart."""
    scores = [None if each is None else float(f"{each:.9g}") for each in ledger.scores(cycle)]
    return scores if any(each is not None for each in scores) else None


def _is_number(value: Any) -> bool:
    return value is not None and isfinite(value)


def write(path: Path, records: Iterable[Record]) -> None:
    """Write records atomically, a line each."""
    lines = ",\n".join(json.dumps(asdict(each), sort_keys=True, separators=(",", ":")) for each in records)
    folder.write_atomically(path, lambda partial: partial.write_text(f'{{"runs":[\n{lines}\n]}}\n', encoding="utf-8"))


def read(path: Path) -> list[Record]:
    """The records of a file, or of the runs in a folder: its own, or those of the folders in it.

    Raises RecordError, naming the path, where there are none, or where a file is not one of records.
    """
    if path.is_dir():
        files = [path / FILE] if (path / FILE).exists() else sorted(path.glob(f"*/{FILE}"))
        if not files and (path / "study.json").exists():
            files = [path / "study.json"]
    else:
        files = [path]
    found = [record for file in files for record in _of_file(file)]
    if not found:
        raise RecordError(f"{path} holds no run that has come to its end; give a run folder, a study's, or a study.json.")
    return found


def finished(path: Path, budget: int) -> Record | None:
    """The record of the run in this folder, as far as this budget goes; None where it has not come so far, or where the
    file cannot be read: the run's ledger makes it again."""
    try:
        (record,) = _of_file(path / FILE)
    except (RecordError, OSError, ValueError):
        return None
    return record.up_to(budget) if record.finished and record.budget >= budget else None


def _of_file(file: Path) -> list[Record]:
    try:
        return [Record(**each) for each in json.loads(file.read_text(encoding="utf-8"))["runs"]]
    except FileNotFoundError:
        raise RecordError(f"{file} is not there.") from None
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{file} is no file of runs that deepal has written ({type(error).__name__}: {error})."
        ) from error
