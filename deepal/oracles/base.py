"""What is asked, what is answered, and who answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepal.task import Catalog

IMPORTED = "imported"
"""The source of an answer that was there before anybody was asked."""

Status = Literal["labeled", "abstained", "invalid"]


@dataclass(frozen=True)
class Answer:
    """What an oracle says of one position.

    Args:
        position: in the data set.
        label: the name of the class; None where there is none to give.
        status: labeled, abstained (not asked again), or invalid (the image cannot be used).
        annotator: who said so.
        seconds: how long it took, where that is known.
        wrong: whether the label is known to be wrong, which only a simulation can say.
        source: by which way it came, where there are several.
    """

    position: int
    label: str | None
    status: Status = "labeled"
    annotator: str = "dataset"
    seconds: float | None = None
    wrong: bool | None = None
    source: str = ""


@dataclass(frozen=True)
class Question:
    """An image that was asked.

    Args:
        position: in the data set.
        item: what people call it.
        cycle: that asked it; -1 for the first labels.
        rank: within its cycle, from 0.
        score: of the strategy, where it has one.
        predicted: what the model took it for, where it could say.
        answers: so far, in the order in which they came; the last one counts.
        unreadable: why the image cannot be read any more; None where it can.
    """

    position: int
    item: str
    cycle: int
    rank: int
    score: float | None = None
    predicted: str | None = None
    answers: tuple[Answer, ...] = ()
    unreadable: str | None = None

    @property
    def answer(self) -> Answer | None:
        """The one that counts; None where there is none yet."""
        return self.answers[-1] if self.answers else None


class Oracle(ABC):
    """Answers queries. The learner does not know whether today or in a week: positions without an answer stay open."""

    asks_people: bool = False
    """Whether labels are not to be had from the data: those that it holds already are imported, and count."""

    @abstractmethod
    def answer(self, questions: Sequence[Question], data: Catalog, folder: Path, seed: int) -> list[Answer]:
        """Answers that there are to questions without one, and other answers than those that were given.

        Args:
            questions: all that was asked so far, in the order of asking.
            data: what may be known of the data set.
            folder: of the run, where files may be exchanged with people.
            seed: every coin comes from it and the position.
        """

    def waits(self, questions: Sequence[Question]) -> bool:
        """Whether the run has to wait for answers that are open."""
        return bool(unanswered(questions))

    def request(self, questions: Sequence[Question], data: Catalog) -> str:
        """A sentence that says what has to be done before the run goes on."""
        return f"{len(unanswered(questions))} images have no answer yet; the same command goes on when they have."


def unanswered(questions: Sequence[Question]) -> list[Question]:
    """Those that are open, in the order of asking: an image that cannot be read waits for nobody."""
    return [each for each in questions if each.answer is None and each.unreadable is None]
