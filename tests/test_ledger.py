import sqlite3
from contextlib import closing

import pytest

from deepal.entries import INITIAL, Query, Result
from deepal.ledger import Ledger, LedgerError
from deepal.oracles import Answer
from deepal.run import LABELS
from tests.runs import in_process

MANIFEST = {"config": {"seed": 0}, "validation": 3}


@pytest.fixture
def ledger(tmp_path):
    book = Ledger(tmp_path / "ledger.sqlite")
    book.declare(MANIFEST, Query((7, 3)))
    yield book
    book.close()


def result(cycle=0, accuracy=0.5):
    return Result(cycle, labels=2, asked=2, validation=3, metrics={"test/accuracy": accuracy}, seconds={"fit": 1.0})


def labeled(*pairs):
    return [Answer(position, label) for position, label in pairs]


def test_what_is_written_is_read_by_another_connection(ledger):
    ledger.ask(0, Query((5, 9), scores=(0.75, 0.5)), result())
    ledger.answer(labeled((7, "a"), (3, "b")))
    other = Ledger(ledger.path)
    assert other.manifest() == MANIFEST
    assert other.asked(INITIAL) == [7, 3]
    assert (other.asked(0), other.scores(0)) == ([5, 9], [0.75, 0.5])
    assert other.unanswered() == [5, 9]
    assert other.results() == [result()]
    assert [(cycle, answer.position, answer.label) for cycle, answer in other.answers(before=0)] == [
        (-1, 7, "a"),
        (-1, 3, "b"),
    ]


def test_asking_the_same_again_is_nothing_and_something_else_an_error(ledger):
    ledger.ask(0, Query((5, 9)), result())
    ledger.ask(0, Query((5, 9)), result())
    for query, measured in ((Query((9, 5)), result()), (Query((5, 9)), result(accuracy=0.6))):
        with pytest.raises(LedgerError, match="already"):
            ledger.ask(0, query, measured)
    assert ledger.asked(0) == [5, 9]
    assert ledger.results() == [result()]


def test_a_ledger_of_an_earlier_version_is_not_gone_on_with(ledger):
    with closing(sqlite3.connect(ledger.path)) as earlier:
        earlier.execute("DROP TABLE stops")
    with pytest.raises(LedgerError, match="by an earlier version of deepal, whose ledgers had no table stops; go on"):
        Ledger(ledger.path)


def test_a_position_is_asked_once_in_a_run_and_a_refusal_writes_nothing(ledger):
    with pytest.raises(LedgerError, match=r"\[7\] were asked before"):
        ledger.ask(0, Query((11, 7)), result())
    assert ledger.asked(0) == []
    assert ledger.results() == []


def test_an_answer_to_what_was_never_asked_is_refused_and_none_is_written(ledger):
    with pytest.raises(LedgerError, match=r"\[8\]"):
        ledger.answer(labeled((7, "a"), (8, "b")))
    assert ledger.unanswered() == [7, 3]


def test_a_later_answer_counts_and_both_are_kept(ledger):
    ledger.answer(labeled((7, "a")))
    ledger.answer([Answer(7, "b", annotator="second")])
    assert [(answer.label, answer.annotator) for _, answer in ledger.answers(before=0)] == [("b", "second")]
    assert [row["label"] for row in ledger.labels()] == ["a", "b"]
    assert set(LABELS) == set(ledger.labels()[0])


def test_answers_of_a_cycle_count_from_the_next_on(ledger):
    ledger.ask(0, Query((5,)), result())
    ledger.answer(labeled((7, "a"), (3, "b"), (5, "c")))
    assert len(ledger.answers(before=0)) == 2
    assert len(ledger.answers(before=1)) == 3


@pytest.mark.parametrize("table", ["manifest", "sessions", "fits", "results", "queries", "answers"])
def test_nothing_that_was_written_can_be_changed(ledger, table):
    ledger.ask(0, Query((5,)), result())
    ledger.answer(labeled((7, "a")))
    ledger.fit(0, 0)
    ledger.session({})
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET rowid = rowid"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            ledger._db.execute(statement)


@pytest.mark.parametrize("answer", [Answer(7, None, "labeled"), Answer(7, "a", "abstained"), Answer(7, "a", "maybe")])
def test_an_answer_that_contradicts_itself_is_refused(ledger, answer):
    with pytest.raises(sqlite3.IntegrityError):
        ledger.answer([answer])


def test_it_is_durable_and_typed(ledger):
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (3,)
    with pytest.raises(sqlite3.IntegrityError):
        ledger._db.execute("INSERT INTO queries VALUES ('seven', 'seven', 0, 0, NULL, NULL, NULL, NULL, '')")


def test_images_that_come_to_be_known_keep_their_order(ledger):
    ledger.add_images(b"0123456789abcdef" * 2, ["one", "two, with a comma"])
    ledger.add_images(b"fedcba9876543210", ["three\nlines"])
    assert ledger.image_keys() == b"0123456789abcdef" * 2 + b"fedcba9876543210"
    assert ledger.image_names() == ["one", "two, with a comma", "three\nlines"]


def test_what_cannot_be_read_is_asked_no_more(ledger):
    ledger.add_unreadable("train", {7: ("a.png", "truncated")})
    ledger.add_unreadable("test", {3: ("b.png", "deleted")})
    ledger.add_unreadable("train", {7: ("a.png", "another reason")})
    assert ledger.unanswered() == [3]
    assert ledger.unreadable() == [("test", 3), ("train", 7)]
    assert {row["id"]: row["reason"] for row in ledger.quarantine()} == {"a.png": "truncated", "b.png": "deleted"}


def test_labels_that_exist_are_answers_that_nobody_was_asked_for(ledger):
    ledger.ask(0, Query((5,)), result())
    ledger.import_labels(0, Query((11, 12)), labeled((11, "a"), (12, "b")))
    assert ledger.asked(0) == [5, 11, 12]
    assert ledger.unanswered() == [7, 3, 5]
    assert ledger.next_cycle() == 1


def test_several_processes_may_open_a_new_ledger_at_once(tmp_path):
    readers = [in_process(_open, tmp_path / f"{turn}.sqlite") for turn in range(5) for _ in range(4)]
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * 20


def _open(path):
    Ledger(path).close()
