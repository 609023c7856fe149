"""The ledger: what was asked, what was answered, what was measured. The truth of a run, in one SQLite file.

Append-only and transactional: a query is written with the measurement of its model before the oracle is asked, so a
process killed at any instant finds on its return either nothing of a cycle or all that was decided in it. The labeled set
is derived from here and from nowhere else.
"""

import json
import re
import sqlite3
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

from deepal.entries import INITIAL, Forgetting, Predictions, Query, Result
from deepal.oracles.base import Answer, Question

_SCHEMA = """
CREATE TABLE manifest (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE sessions (id INTEGER PRIMARY KEY, started TEXT NOT NULL, environment TEXT NOT NULL) STRICT;
CREATE TABLE fits (id INTEGER PRIMARY KEY, cycle INTEGER NOT NULL, epoch INTEGER NOT NULL, started TEXT NOT NULL) STRICT;
CREATE TABLE results (
    cycle INTEGER PRIMARY KEY, labels INTEGER NOT NULL, asked INTEGER NOT NULL, validation INTEGER NOT NULL,
    metrics TEXT NOT NULL, seconds TEXT NOT NULL, memory TEXT NOT NULL, answers TEXT NOT NULL,
    finished TEXT NOT NULL) STRICT;
CREATE TABLE images (id INTEGER PRIMARY KEY, keys BLOB NOT NULL, names BLOB NOT NULL, added TEXT NOT NULL) STRICT;
CREATE TABLE contents (position INTEGER PRIMARY KEY, hash INTEGER NOT NULL) STRICT;
CREATE TABLE unreadable (
    part TEXT NOT NULL, position INTEGER NOT NULL, item TEXT NOT NULL, reason TEXT NOT NULL, found TEXT NOT NULL,
    PRIMARY KEY (part, position)) STRICT;
CREATE TABLE queries (
    position INTEGER PRIMARY KEY, item TEXT NOT NULL, cycle INTEGER NOT NULL, rank INTEGER NOT NULL, score REAL,
    predicted TEXT, aleatoric REAL, epistemic REAL, asked TEXT NOT NULL, UNIQUE (cycle, rank)) STRICT;
CREATE TABLE predictions (
    cycle INTEGER NOT NULL, purpose TEXT NOT NULL, positions BLOB NOT NULL, classes BLOB NOT NULL,
    PRIMARY KEY (cycle, purpose)) STRICT;
CREATE TABLE stops (id INTEGER PRIMARY KEY, cycle INTEGER NOT NULL, reason TEXT NOT NULL, time TEXT NOT NULL) STRICT;
CREATE TABLE artifacts (id INTEGER PRIMARY KEY, hash TEXT NOT NULL, made TEXT NOT NULL) STRICT;
CREATE TABLE forgetting (
    cycle INTEGER NOT NULL, position INTEGER NOT NULL REFERENCES queries (position), events INTEGER NOT NULL,
    shown INTEGER NOT NULL, learned INTEGER NOT NULL, PRIMARY KEY (cycle, position)) STRICT;
CREATE TABLE notes (cycle INTEGER PRIMARY KEY, notes TEXT NOT NULL) STRICT;
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, position INTEGER NOT NULL REFERENCES queries (position), status TEXT NOT NULL,
    label TEXT, annotator TEXT NOT NULL, seconds REAL, wrong INTEGER, source TEXT NOT NULL, time TEXT NOT NULL,
    CHECK (status IN ('labeled', 'abstained', 'invalid')), CHECK ((status = 'labeled') = (label IS NOT NULL))) STRICT;
"""
_TABLES = re.findall(r"CREATE TABLE (\w+)", _SCHEMA)


class LedgerError(ValueError):
    """The ledger holds something else than what was to be written; nothing was written."""


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
        if not self._tables():
            with self._transaction():
                if not self._tables():  # another process may have made them in between
                    self._make_tables()
        self.manifest(), self.results(), self.answers(before=0)  # another database has no such tables
        if missing := ", ".join(sorted({*_TABLES} - self._tables())):
            raise LedgerError(
                f"{self.path} was written by an earlier version of deepal, whose ledgers had no table {missing}; go on "
                f"with that version, or give the run another name."
            )

    def _tables(self) -> set[str]:
        return {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

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
        """Let go of the file."""
        self._db.close()

    # The run itself

    def manifest(self) -> dict[str, Any]:
        """What the run is made of, as first written; empty in a new ledger."""
        return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM manifest")}

    def declare(
        self,
        manifest: Mapping[str, Any],
        first: Query,
        keys: bytes = b"",
        names: Iterable[str] = (),
        unreadable: Iterable[tuple[str, Mapping[int, tuple[str, str]]]] = (),
    ) -> None:
        """Write the manifest of a new run, and ask its first labels: one transaction.

        Args: keys, names: of its images, where there may come to be more; unreadable: as for `add_unreadable`.
        """
        with self._transaction():
            for part, reasons in unreadable:
                self._write_unreadable(part, reasons)
            if keys:
                self.add_images(keys, names)
            for key, value in manifest.items():
                self._db.execute("INSERT INTO manifest VALUES (?, ?)", (key, json.dumps(value)))
            self._write_query(INITIAL, first)

    def session(self, environment: Mapping[str, Any]) -> None:
        """Record that a process has taken up the run, on this machine, with these versions."""
        self._db.execute("INSERT INTO sessions VALUES (NULL, ?, ?)", (_now(), json.dumps(environment)))

    def sessions(self) -> list[dict[str, Any]]:
        """The environments (`deepal.environment`) of all processes that have taken up the run, in order."""
        return [json.loads(row[0]) for row in self._db.execute("SELECT environment FROM sessions ORDER BY id")]

    # Its images

    def add_images(self, keys: bytes, names: Iterable[str]) -> None:
        """Record images that the run has come to know, behind those that it knew. Args: keys: of `Images.keys`."""
        packer, left, packed = zlib.compressobj(level=1), iter(names), b""
        while block := list(islice(left, 10_000)):
            packed += packer.compress("".join(f"{name}\0" for name in block).encode())
        self._db.execute("INSERT INTO images VALUES (NULL, ?, ?, ?)", (keys, packed + packer.flush(), _now()))

    def image_names(self) -> list[str]:
        """What people call all images that the run knows, by position."""
        blocks = self._db.execute("SELECT names FROM images ORDER BY id")
        return [name for (packed,) in blocks for name in zlib.decompress(packed).decode().split("\0")[:-1]]

    def image_keys(self) -> bytes:
        """The keys of all images that the run knows, by position."""
        return b"".join(row[0] for row in self._db.execute("SELECT keys FROM images ORDER BY id"))

    def add_contents(self, hashes: Mapping[int, int]) -> None:
        """Record the hash of the content of images that were read for the first time, by position."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO contents VALUES (?, ?)", hashes.items())

    def contents(self) -> dict[int, int]:
        """The hash of the content of every image that was read, by position."""
        return dict(self._db.execute("SELECT position, hash FROM contents"))

    def add_unreadable(self, part: str, reasons: Mapping[int, tuple[str, str]]) -> None:
        """Record images that cannot be read. Args: part: of the data set; reasons: (name, reason) by position."""
        with self._transaction():
            self._write_unreadable(part, reasons)

    def unreadable(self) -> list[tuple[Any, int]]:
        """(part, position) of every image that could not be read."""
        return list(self._db.execute("SELECT part, position FROM unreadable ORDER BY part, position"))

    # Writing down a cycle

    def fit(self, cycle: int, epoch: int) -> None:
        """Record that the fit of a cycle starts, or goes on, with this epoch."""
        self._db.execute("INSERT INTO fits VALUES (NULL, ?, ?, ?)", (cycle, epoch, _now()))

    def ask(self, cycle: int, query: Query, result: Result | None = None, forgetting: Sequence[Forgetting] = ()) -> None:
        """Write a query, the measurement of the model that chose it and what that model forgot in its training, before the
        oracle is asked: one transaction.

        Repeating it with the same values is nothing. Raises LedgerError where the cycle has asked or measured something
        else, or a position was asked before: each is asked once in a run.
        """
        with self._transaction():
            if result is not None:
                self._write_result(result)
            self._write_query(cycle, query)
            rows = [(cycle, *each) for each in forgetting]
            self._db.executemany("INSERT OR IGNORE INTO forgetting VALUES (?, ?, ?, ?, ?)", rows)

    def import_labels(self, cycle: int, query: Query, answers: Sequence[Answer]) -> None:
        """Write labels that nobody had to be asked for as answers to a cycle, behind what it asked: one transaction."""
        with self._transaction():
            self._write_rows(cycle, query, first=len(self.asked(cycle)))
            self._write_answers(answers)

    def answer(self, answers: Sequence[Answer]) -> None:
        """Write answers. A later answer to a position is a new row, and counts. Raises LedgerError for a position that
        was never asked; then none is written."""
        with self._transaction():
            asked = set(self._positions("SELECT position FROM queries"))
            unknown = sorted({answer.position for answer in answers} - asked)
            if unknown:
                raise LedgerError(f"positions {unknown} were answered and never asked.")
            self._write_answers(answers)

    # Reading

    def asked(self, cycle: int) -> list[int]:
        """What a cycle asked, in order."""
        return self._positions("SELECT position FROM queries WHERE cycle = ? ORDER BY rank", cycle)

    def asked_before(self, cycle: int) -> int:
        """The last cycle before this one that asked anything."""
        found = self._db.execute("SELECT max(cycle) FROM queries WHERE cycle < ?", (cycle,)).fetchone()[0]
        return INITIAL if found is None else found

    def result(self, cycle: int) -> Result | None:
        """What a cycle measured; None where it has not."""
        return next((each for each in self.results() if each.cycle == cycle), None)

    def results(self) -> list[Result]:
        """What each cycle has measured, in order."""
        rows = self._db.execute(
            "SELECT cycle, labels, asked, validation, metrics, seconds, answers, memory FROM results ORDER BY cycle"
        )
        return [
            Result(cycle, labels, asked, validation, json.loads(metrics), json.loads(seconds), answers, json.loads(memory))
            for cycle, labels, asked, validation, metrics, seconds, answers, memory in rows
        ]

    def next_cycle(self) -> int:
        """The first cycle that has not asked; where the last one has measured and not asked, that one."""
        asked, measured = (
            self._db.execute(f"SELECT coalesce(max(cycle), {INITIAL}) FROM {table}").fetchone()[0]
            for table in ("queries", "results")
        )
        return max(asked + 1, measured)

    def questions(self) -> list[Question]:
        """All that was asked, in the order of asking, with every answer to it."""
        answers: dict[int, list[Answer]] = {}
        for position, *fields in self._db.execute(
            "SELECT position, label, status, annotator, seconds, wrong, source FROM answers ORDER BY id"
        ):
            answers.setdefault(position, []).append(_answer(position, *fields))
        rows = self._db.execute(
            "SELECT queries.position, queries.item, cycle, rank, score, predicted, reason FROM queries "
            "LEFT JOIN unreadable ON unreadable.position = queries.position AND part = 'train' ORDER BY cycle, rank"
        )
        return [
            Question(position, item, cycle, rank, score, predicted, tuple(answers.get(position, ())), reason)
            for position, item, cycle, rank, score, predicted, reason in rows
        ]

    def unanswered(self) -> list[int]:
        """Every position that was asked, can be read and has no answer, in the order of asking."""
        return self._positions(
            "SELECT position FROM queries WHERE position NOT IN (SELECT position FROM answers) AND position NOT IN "
            "(SELECT position FROM unreadable WHERE part = 'train') ORDER BY cycle, rank"
        )

    def answers(self, before: int) -> list[tuple[int, Answer]]:
        """(cycle, answer) of each position that a cycle before this one asked, in the order of asking; of several
        answers to one position the last."""
        rows = self._db.execute(
            "SELECT cycle, position, label, status, annotator, answers.seconds, wrong, source "
            "FROM queries JOIN answers USING (position) "
            "WHERE cycle < ? AND answers.id IN (SELECT max(id) FROM answers GROUP BY position) ORDER BY cycle, rank",
            (before,),
        )
        return [(cycle, _answer(*fields)) for cycle, *fields in rows]

    def forgetting(self, cycle: int) -> list[dict[str, Any]]:
        """How each labeled image fared in the training of a cycle, with its last label, the most forgotten first; empty
        where nobody recorded that. Whether the label is wrong is known to simulations alone."""
        return [
            row | {"learned": bool(row["learned"]), "wrong": None if row["wrong"] is None else bool(row["wrong"])}
            for row in self._rows(
                "SELECT item AS id, label, events, shown, learned, wrong, position FROM forgetting "
                f"JOIN queries USING (position) JOIN answers USING (position) WHERE forgetting.cycle = {int(cycle)} AND "
                "answers.id IN (SELECT max(id) FROM answers GROUP BY position) ORDER BY events DESC, position"
            )
        ]

    def scores(self, cycle: int) -> list[float | None]:
        """The score of each position that a cycle asked, in order."""
        return [row[0] for row in self._db.execute("SELECT score FROM queries WHERE cycle = ? ORDER BY rank", (cycle,))]

    def notes(self, cycle: int) -> dict[str, float]:
        """What the strategy had to say of what a cycle asked."""
        found = self._db.execute("SELECT notes FROM notes WHERE cycle = ?", (cycle,)).fetchone()
        return json.loads(found[0]) if found else {}

    def predictions(self, cycle: int, purpose: str) -> Predictions:
        """What the model of a cycle took images for, for this purpose; none where it did not say."""
        found = self._db.execute(
            "SELECT positions, classes FROM predictions WHERE cycle = ? AND purpose = ?", (cycle, purpose)
        ).fetchone()
        steps, classes = (array("q", zlib.decompress(each)).tolist() for each in found) if found else ((), ())
        return Predictions(tuple(accumulate(steps)), tuple(classes))

    def stop(self, cycle: int, reason: str) -> None:
        """Record that the run has stopped after a cycle, and why; repeating it is nothing."""
        if self.stopped() != (cycle, reason):
            self._db.execute("INSERT INTO stops VALUES (NULL, ?, ?, ?)", (cycle, reason, _now()))

    def stopped(self) -> tuple[int, str] | None:
        """After which cycle the run has last stopped, and why."""
        return self._db.execute("SELECT cycle, reason FROM stops ORDER BY id DESC LIMIT 1").fetchone()

    def artifacts(self) -> str | None:
        """The hash of what the strategy has computed once; None before, or where that is nothing."""
        found = self._db.execute("SELECT hash FROM artifacts ORDER BY id DESC LIMIT 1").fetchone()
        return found[0] if found else None

    def fits(self) -> list[tuple[int, int]]:
        """(cycle, first epoch) of every fit that was started or taken up again, in order."""
        return list(self._db.execute("SELECT cycle, epoch FROM fits ORDER BY id"))

    # What the tables of a run are made of

    def labels(self) -> list[dict[str, Any]]:
        """Every answer with what was asked, in the order of asking; of several to one image the last counts."""
        return self._rows(
            "SELECT item AS id, label, annotator, cycle, time, rank, score, status, answers.seconds, predicted, aleatoric, "
            "epistemic, source, position FROM answers JOIN queries USING (position) ORDER BY cycle, rank, answers.id"
        )

    def quarantine(self) -> list[dict[str, Any]]:
        """Every image that could not be read, with the reason."""
        return self._rows(
            "SELECT item AS id, reason, part, position, found AS time FROM unreadable ORDER BY found, position"
        )

    def _rows(self, query: str) -> list[dict[str, Any]]:
        found = self._db.execute(query)
        return [dict(zip((column[0] for column in found.description), row, strict=True)) for row in found]

    def _write_result(self, result: Result) -> None:
        known = self.result(result.cycle)
        if known is None:
            self._db.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    result.cycle, result.labels, result.asked, result.validation, json.dumps(dict(result.metrics)),
                    json.dumps(dict(result.seconds)), json.dumps(dict(result.memory)), result.answers, _now(),
                ),
            )  # fmt: skip
        elif (known.labels, known.asked, repr(known.metrics)) != (result.labels, result.asked, repr(dict(result.metrics))):
            raise LedgerError(f"cycle {result.cycle} has measured {known.metrics} already, and now {result.metrics}.")

    def _write_query(self, cycle: int, query: Query) -> None:
        asked = self.asked(cycle)
        if asked and asked != list(query.positions):
            raise LedgerError(f"cycle {cycle} has asked {asked} already, and was to ask {list(query.positions)}.")
        if not asked:
            self._write_rows(cycle, query, first=0)
            if query.notes:
                self._db.execute("INSERT INTO notes VALUES (?, ?)", (cycle, json.dumps(dict(query.notes))))
            if query.artifacts:
                self._db.execute("INSERT INTO artifacts VALUES (NULL, ?, ?)", (query.artifacts, _now()))
            for purpose, (positions, classes) in query.predictions.items():
                steps = [after - before for before, after in pairwise((0, *positions))]  # of which zlib leaves little
                packed = [zlib.compress(array("q", each).tobytes()) for each in (steps, classes)]
                self._db.execute("INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?)", (cycle, purpose, *packed))

    def _write_rows(self, cycle: int, query: Query, first: int) -> None:
        """Write what a cycle asks, with ranks from `first`."""
        before = set(self._positions("SELECT position FROM queries")) & set(query.positions)
        if before:
            raise LedgerError(f"positions {sorted(before)} were asked before cycle {cycle}; each is asked once.")
        none = (None,) * len(query.positions)
        items = query.items or tuple(map(str, query.positions))
        said = (each or none for each in (query.scores, query.predicted, query.aleatoric, query.epistemic))
        rows = zip(query.positions, items, *said, strict=True)
        self._db.executemany(
            "INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(position, item, cycle, rank, *of_it, _now()) for rank, (position, item, *of_it) in enumerate(rows, first)],
        )

    def _write_unreadable(self, part: str, reasons: Mapping[int, tuple[str, str]]) -> None:
        rows = [(part, position, name, reason, _now()) for position, (name, reason) in reasons.items()]
        self._db.executemany("INSERT OR IGNORE INTO unreadable VALUES (?, ?, ?, ?, ?)", rows)

    def _write_answers(self, answers: Sequence[Answer]) -> None:
        self._db.executemany(
            "INSERT INTO answers VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (each.position, each.status, each.label, each.annotator, each.seconds, each.wrong, each.source, _now())
                for each in answers
            ],
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


def _answer(
    position: int, label: str | None, status: Any, annotator: str, seconds: float | None, wrong: int | None, source: str
) -> Answer:
    return Answer(position, label, status, annotator, seconds, None if wrong is None else bool(wrong), source)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
