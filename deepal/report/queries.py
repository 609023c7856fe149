"""What each cycle asked, as pictures."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deepal import contact_sheet
from deepal.contact_sheet import Tile
from deepal.entries import Result
from deepal.oracles import Question
from deepal.task import Catalog
from deepal.watching import Watcher


class QueryPictures(Watcher):
    """Draws `queries/000.png` into the run folder when a cycle's images are answered, and anew when answers change: each
    with its score, what the model took it for, and its label. Where the two differ, the line stands out."""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        self.folder = folder

    def answered(self, cycle: int, questions: Sequence[Question], data: Catalog) -> None:
        draw(self.folder, cycle, questions, data)


def file_of(folder: Path, cycle: int) -> Path:
    """Where the picture of a cycle is."""
    return folder / "queries" / ("first.png" if cycle < 0 else f"{cycle:03d}.png")


def draw(folder: Path, cycle: int, questions: Sequence[Question], data: Catalog) -> Path | None:
    """Draw what a cycle asked. Returns the file of the first page; None where these are no pictures."""
    if not questions or data.pictures([questions[0].position]) is None:
        return None
    file = file_of(folder, cycle)
    file.parent.mkdir(exist_ok=True)
    title = "first labels" if cycle < 0 else f"asked in cycle {cycle}, in the order of asking"
    contact_sheet.draw_pages(questions, partial(_tiles, data), file, title)
    return file


def _tiles(data: Catalog, questions: Sequence[Question]) -> list[Tile]:
    pictures = data.pictures([each.position for each in questions])
    assert pictures is not None
    return [_tile(picture, each) for picture, each in zip(pictures, questions, strict=True)]


def _tile(picture: contact_sheet.Tensor, question: Question) -> Tile:
    answer = question.answer
    label = "open" if answer is None else answer.label or answer.status
    known = question.predicted is not None and answer is not None and answer.label is not None
    first = question.item if question.score is None else f"{question.score:.3g}  {question.item}"
    second = label if question.predicted is None else f"{question.predicted} → {label}"
    return Tile(picture, f"{first}\n{second}", alarming=known and question.predicted != label)
