"""People as oracles, through files: a table of questions out, a table of answers in."""

import difflib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Literal

from deepal import contact_sheet, tables
from deepal.contact_sheet import Tile
from deepal.oracles.base import IMPORTED, Answer, Oracle, Question, Status, unanswered
from deepal.task import Catalog

log = logging.getLogger(__name__)

QUERY, SHEET, ANSWERS, REFUSED = "query.csv", "query.png", "answers.csv", "refused.csv"


@dataclass(frozen=True)
class FileOracle(Oracle):
    """Asks people, and waits for them.

    A run writes `query.csv` (id, path, rank, score, an empty label) and a contact sheet, `query.png`, into its folder, and
    stops. People fill in the labels and save the table as `answers.csv` beside it; the same command takes them and goes on.
    A row with a label answers; a row whose label is empty is an abstention, and its image is not asked again; an image
    without a row stays open. Columns `annotator` and `seconds` are taken where they are. `answers.csv` may be edited at any
    time: a label that was changed is a later answer, and counts; answers to earlier cycles count; rows that were taken
    before are not taken again. A row that cannot be right (no such image, never asked, named twice, no such class) is
    refused into `refused.csv`, with the reason; the others are taken.

    Args: partial: "wait" until every image has its answer, or "train" as soon as some of the last query have one; the
        others stay open, and count when they come.
    """

    partial: Literal["wait", "train"] = "wait"
    asks_people = True

    def answer(self, questions: Sequence[Question], data: Catalog, folder: Path, seed: int) -> list[Answer]:
        rows = _rows(folder / ANSWERS) if (folder / ANSWERS).exists() else []
        by_item = {each.item: each for each in questions}
        for _, row in rows:
            row["id"] = row["id"] if row["id"] in by_item else row["id"].strip()
        times = Counter(row["id"] for _, row in rows)
        answers, refused = [], []
        for line, row in rows:
            try:
                answers += _answers(row, times[row["id"]], by_item, data)
            except ValueError as error:
                refused.append({"line": line, "id": row["id"], "label": row["label"], "reason": str(error)})
        _write_refused(folder / REFUSED, refused)
        if answers:
            labels = sum(each.status == "labeled" for each in answers)
            none = len(answers) - labels
            log.warning("%s: %d labels and %d abstentions were taken; a later change counts.", ANSWERS, labels, none)
        done = {each.position for each in answers}
        _write_query(folder, [each for each in unanswered(questions) if each.position not in done], data)
        return answers

    def waits(self, questions: Sequence[Question]) -> bool:
        if self.partial == "wait" or not questions:
            return super().waits(questions)
        asked = [each for each in questions if not (each.answers and each.answers[0].source == IMPORTED)]
        last = [each for each in asked if each.cycle == asked[-1].cycle and not each.unreadable]
        return bool(last) and len(unanswered(last)) == len(last)

    def request(self, questions: Sequence[Question], data: Catalog) -> str:
        return (
            f"{len(unanswered(questions))} images wait for people: look at {SHEET}, fill in the column label of {QUERY} "
            f"({_listed(data.classes)}), save it as {ANSWERS} in the same folder, and give the same command again. Leave "
            f"out the rows that are not decided yet: an empty label says that nobody can tell."
        )


def _answers(row: Mapping[str, str], times: int, questions: Mapping[str, Question], data: Catalog) -> list[Answer]:
    """What a row says that is not known yet: one answer, or none. Raises ValueError for a row that cannot be right."""
    item, label, annotator = row["id"], row["label"], row.get("annotator", "").strip() or "people"
    if times > 1:
        raise ValueError(f"'{item}' is there {times} times; leave one row of each image")
    question = questions.get(item)
    if question is None:
        raise ValueError(f"there is no image '{item}'" if data.position(item) is None else f"'{item}' was never asked")
    name = _class(label, data)
    status: Status = "labeled" if name else "abstained"
    answer = Answer(question.position, name, status, annotator, _seconds(row.get("seconds", "")), source=ANSWERS)
    before = [each for each in question.answers if each.source == ANSWERS] or question.answers
    known = bool(before) and (before[-1].label, before[-1].status) == (answer.label, answer.status)
    return [] if known else [answer]


def _class(label: str, data: Catalog) -> str | None:
    """The class that a label names; None for an empty one. Raises ValueError where there is none."""
    if not label.strip():
        return None
    for exactly in (label, label.strip()):
        with suppress(ValueError):
            return data.label(exactly)
    written = {name.casefold(): name for name in data.classes}
    close = difflib.get_close_matches(label.strip().casefold(), written, 1)
    nearest = f"; did you mean '{written[close[0]]}'?" if close else f"; the classes are {_listed(data.classes)}"
    raise ValueError(f"'{label}' is no class{nearest}")


def _listed(classes: Sequence[str]) -> str:
    """The classes, as far as they fit into a sentence."""
    return ", ".join(classes[:20]) + (" ..." if len(classes) > 20 else "") or "numbers, as JSON"


def _seconds(text: str) -> float | None:
    """How long an answer took, where the text is a number of seconds."""
    with suppress(ValueError):
        seconds = float(text.strip().replace(",", "."))
        return seconds if 0 <= seconds < inf else None
    return None


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Raises ValueError where a file is no table, or lacks a column."""
    if missing := {"id", "label"} - set(columns := tables.columns_of(file)):
        raise ValueError(
            f"{file} has the columns {', '.join(columns) or '(none)'}, and needs {' and '.join(sorted(missing))}."
        )
    return [(line, {"id": "", "label": "", **row}) for line, row in tables.read(file)]


def _write_query(folder: Path, questions: Sequence[Question], data: Catalog) -> None:
    """`query.csv` and `query.png`: what is open now; neither where nothing is. What people have filled in there is kept."""
    _keep_filled_in(folder / QUERY)
    sheets = (folder / SHEET, *folder.glob(f"{Path(SHEET).stem}-*.png"))
    if not questions:
        for file in (folder / QUERY, *sheets):
            file.unlink(missing_ok=True)
        return
    if (folder / QUERY).exists() and [row["id"] for _, row in _rows(folder / QUERY)] == [each.item for each in questions]:
        return  # asked already
    for file in sheets:
        file.unlink(missing_ok=True)
    if data.pictures([questions[0].position]) is not None:
        contact_sheet.draw_pages(questions, partial(_tiles, data), folder / SHEET, f"labels: {_listed(data.classes)}")
    rows = [
        {"id": each.item, "path": data.path(each.position) or "", "rank": each.rank, "score": each.score}
        for each in questions
    ]
    tables.write(folder / QUERY, ("id", "path", "rank", "score", "label"), rows)


def _keep_filled_in(query: Path) -> None:
    """Move a query that somebody has filled in, or saved as something else, out of the way of the next."""
    try:
        if not query.exists() or not any(row["label"] for _, row in _rows(query)):
            return
    except ValueError:
        pass  # no such table any more
    number = len(list(query.parent.glob("query-filled-in*.csv"))) + 1
    kept = query.with_name(f"query-filled-in-{number}.csv")
    query.replace(kept)
    log.warning("%s was changed, and answers are taken from %s alone: it is kept as %s.", query, ANSWERS, kept.name)


def _tiles(data: Catalog, questions: Sequence[Question]) -> list[Tile]:
    pictures = data.pictures([each.position for each in questions])
    assert pictures is not None
    return [Tile(picture, f"{each.rank}  {each.item}") for picture, each in zip(pictures, questions, strict=True)]


def _write_refused(file: Path, refused: Sequence[dict]) -> None:
    if not refused:
        file.unlink(missing_ok=True)
        return
    tables.write(file, ("line", "id", "label", "reason"), refused)
    first = "; ".join(f"line {each['line']}: {each['reason']}" for each in refused[:5])
    log.warning("%d rows of %s were refused (%s); all are in %s.", len(refused), ANSWERS, first, file)
