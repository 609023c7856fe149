"""The ledger: what was asked, what was answered, what was measured. The truth of a run, in one SQLite file.

Append-only and transactional: a query is written with the measurement of its model before the oracle is asked, so a
process killed at any instant finds on its return either nothing of a cycle or all that was decided in it. The labeled set
is derived from here and from nowhere else.
"""

import csv
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepal import folder
from deepal.oracles import Answer

INITIAL = -1
"""The cycle of the first labels, which no model asked for."""

_SCHEMA = """
CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE sessions (id INTEGER PRIMARY KEY, started TEXT NOT NULL, environment TEXT NOT NULL) STRICT;
CREATE TABLE fits (id INTEGER PRIMARY KEY, cycle INTEGER NOT NULL, epoch INTEGER NOT NULL, started TEXT NOT NULL) STRICT;
CREATE TABLE results (
    cycle INTEGER PRIMARY KEY, labels INTEGER NOT NULL, asked INTEGER NOT NULL, validation INTEGER NOT NULL,
    metrics TEXT NOT NULL, seconds TEXT NOT NULL, finished TEXT NOT NULL) STRICT;
CREATE TABLE queries (
    position INTEGER PRIMARY KEY, cycle INTEGER NOT NULL, rank INTEGER NOT NULL, score REAL, asked TEXT NOT NULL,
    UNIQUE (cycle, rank)) STRICT;
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, position INTEGER NOT NULL REFERENCES queries (position), status TEXT NOT NULL,
    label TEXT, annotator TEXT NOT NULL, seconds REAL, wrong INTEGER, time TEXT NOT NULL,
    CHECK (status IN ('labeled', 'abstained', 'invalid')), CHECK ((status = 'labeled') = (label IS NOT NULL))) STRICT;
"""
_TABLES = ("manifest", "sessions", "fits", "results", "queries", "answers")


class LedgerError(ValueError):
    """The ledger holds something else than what was to be written; nothing was written."""


@dataclass(frozen=True)
class Query:
    """Positions to ask, in order, with a score each where the strategy has one."""

    positions: tuple[int, ...] = ()
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Result:
    """What a cycle measured.

    Args:
        cycle: its number, from 0.
        labels: that the model was trained on, of
        asked: positions that were asked (some gave no label), beside
        validation: labels of the validation set.
        metrics: by name.
        seconds: by phase, of the process that ended the phase.
    """

    cycle: int
    labels: int
    asked: int
    validation: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


class Ledger:
    """One run's ledger, created where it does not exist.

    Rollback journal and `synchronous=EXTRA`: a write-ahead log fails on network file systems, and what is acknowledged
    survives a power cut. Triggers refuse every change of what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path} is not a ledger that can be read ({error}); restore it, or give the run another name."
            ) from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.execute("PRAGMA synchronous = EXTRA")
        self._db.execute("PRAGMA foreign_keys = ON")
        if not self._has_tables():
            with self._transaction():
                if not self._has_tables():  # another process may have made them in between
                    self._make_tables()
        self.manifest(), self.results(), self.answers(before=0)  # another database has no such tables

    def _has_tables(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is not None

    def _make_tables(self) -> None:
        for statement in _SCHEMA.split(";\n"):
            self._db.execute(statement)
        for table in _TABLES:
            for change in ("UPDATE", "DELETE"):
                self._db.execute(
                    f"CREATE TRIGGER {table}_no_{change} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
                )

    def close(self) -> None:
        self._db.close()

    # The run itself

    def manifest(self) -> dict[str, Any]:
        """What the run is made of, as first written; empty in a new ledger."""
        return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM manifest")}

    def declare(self, manifest: Mapping[str, Any], first: Query) -> None:
        """Write the manifest of a new run, and ask its first labels: one transaction."""
        with self._transaction():
            for key, value in manifest.items():
                self._db.execute("INSERT INTO manifest VALUES (?, ?)", (key, json.dumps(value)))
            self._write_query(INITIAL, first)

    def session(self, environment: Mapping[str, Any]) -> None:
        """Record that a process has taken up the run, on this machine, with these versions."""
        self._db.execute("INSERT INTO sessions VALUES (NULL, ?, ?)", (_now(), json.dumps(environment)))

    def sessions(self) -> list[dict[str, Any]]:
        return [json.loads(row[0]) for row in self._db.execute("SELECT environment FROM sessions ORDER BY id")]

    # Writing down a cycle

    def fit(self, cycle: int, epoch: int) -> None:
        """Record that the fit of a cycle starts, or goes on, with this epoch."""
        self._db.execute("INSERT INTO fits VALUES (NULL, ?, ?, ?)", (cycle, epoch, _now()))

    def ask(self, cycle: int, query: Query, result: Result | None = None) -> None:
        """Write a query and the measurement of the model that chose it, before the oracle is asked: one transaction.

        Repeating it with the same values is nothing. Raises LedgerError where the cycle has asked or measured something
        else, or a position was asked before: each is asked once in a run.
        """
        with self._transaction():
            if result is not None:
                self._write_result(result)
            self._write_query(cycle, query)

    def answer(self, answers: Sequence[Answer]) -> None:
        """Write answers. A later answer to a position is a new row, and counts. Raises LedgerError for a position that
        was never asked; then none is written."""
        with self._transaction():
            asked = set(self._positions("SELECT position FROM queries"))
            unknown = sorted({answer.position for answer in answers} - asked)
            if unknown:
                raise LedgerError(f"positions {unknown} were answered and never asked.")
            self._db.executemany(
                "INSERT INTO answers VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (each.position, each.status, each.label, each.annotator, each.seconds, each.wrong, _now())
                    for each in answers
                ],
            )

    # Reading

    def asked(self, cycle: int) -> list[int]:
        """What a cycle asked, in order."""
        return self._positions("SELECT position FROM queries WHERE cycle = ? ORDER BY rank", cycle)

    def result(self, cycle: int) -> Result | None:
        """What a cycle measured; None where it has not."""
        return next((each for each in self.results() if each.cycle == cycle), None)

    def results(self) -> list[Result]:
        rows = self._db.execute("SELECT cycle, labels, asked, validation, metrics, seconds FROM results ORDER BY cycle")
        return [
            Result(cycle, labels, asked, validation, json.loads(metrics), json.loads(seconds))
            for cycle, labels, asked, validation, metrics, seconds in rows
        ]

    def unanswered(self) -> list[int]:
        """Every position that was asked and has no answer, in the order of asking."""
        return self._positions(
            "SELECT position FROM queries WHERE position NOT IN (SELECT position FROM answers) ORDER BY cycle, rank"
        )

    def answers(self, before: int) -> list[tuple[int, Answer]]:
        """(cycle, answer) of each position that a cycle before this one asked, in the order of asking; of several
        answers to one position the last."""
        rows = self._db.execute(
            "SELECT cycle, position, label, status, annotator, answers.seconds, wrong "
            "FROM queries JOIN answers USING (position) "
            "WHERE cycle < ? AND answers.id IN (SELECT max(id) FROM answers GROUP BY position) ORDER BY cycle, rank",
            (before,),
        )
        return [
            (cycle, Answer(position, label, status, annotator, seconds, None if wrong is None else bool(wrong)))
            for cycle, position, label, status, annotator, seconds, wrong in rows
        ]

    def scores(self, cycle: int) -> list[float | None]:
        """The score of each position that a cycle asked, in order."""
        return [row[0] for row in self._db.execute("SELECT score FROM queries WHERE cycle = ? ORDER BY rank", (cycle,))]

    def fits(self) -> list[tuple[int, int]]:
        """(cycle, first epoch) of every fit that was started or taken up again, in order."""
        return list(self._db.execute("SELECT cycle, epoch FROM fits ORDER BY id"))

    # Exports, made anew from the rows above

    def write_results(self, path: Path) -> None:
        """`results.csv`: a row a cycle."""
        rows = [
            {"cycle": each.cycle, "labels": each.labels, "asked": each.asked, "validation": each.validation}
            | dict(each.metrics)
            | {f"seconds/{phase}": round(value, 3) for phase, value in each.seconds.items()}
            for each in self.results()
        ]
        _write_csv(path, rows)

    def write_labels(self, path: Path) -> None:
        """`labels.csv`: a row an answer, with what was asked."""
        columns = ("position", "label", "status", "annotator", "cycle", "rank", "score", "seconds", "time")
        rows = self._db.execute(
            "SELECT position, label, status, annotator, cycle, rank, score, answers.seconds, time "
            "FROM answers JOIN queries USING (position) ORDER BY cycle, rank, answers.id"
        )
        _write_csv(path, [dict(zip(columns, row, strict=True)) for row in rows])

    def _write_result(self, result: Result) -> None:
        known = self.result(result.cycle)
        if known is None:
            self._db.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    result.cycle, result.labels, result.asked, result.validation,
                    json.dumps(dict(result.metrics)), json.dumps(dict(result.seconds)), _now(),
                ),
            )  # fmt: skip
        elif (known.labels, known.asked, repr(known.metrics)) != (result.labels, result.asked, repr(dict(result.metrics))):
            raise LedgerError(f"cycle {result.cycle} has measured {known.metrics} already, and now {result.metrics}.")

    def _write_query(self, cycle: int, query: Query) -> None:
        asked = self.asked(cycle)
        if asked and asked != list(query.positions):
            raise LedgerError(f"cycle {cycle} has asked {asked} already, and was to ask {list(query.positions)}.")
        if asked:
            return
        before = set(self._positions("SELECT position FROM queries")) & set(query.positions)
        if before:
            raise LedgerError(f"positions {sorted(before)} were asked before cycle {cycle}; each is asked once.")
        rows = zip(query.positions, query.scores or (None,) * len(query.positions), strict=True)
        self._db.executemany(
            "INSERT INTO queries VALUES (?, ?, ?, ?, ?)",
            [(position, cycle, rank, score, _now()) for rank, (position, score) in enumerate(rows)],
        )

    def _positions(self, query: str, *parameters: int) -> list[int]:
        return [row[0] for row in self._db.execute(query, parameters)]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    folder.write_atomically(path, write)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
