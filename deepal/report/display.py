"""A run as people watch it in a terminal: one progress display, a line a cycle, and a table at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deepal.entries import Result
from deepal.watching import Watcher

PHASES = ("fit", "test", "scan", "select")


class Display(Watcher):
    """Shows the phase that a cycle is in as it goes, and the table of all cycles at the end.

    Args: console: where to show it; the standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.progress = Progress(
            TextColumn("cycle {task.fields[cycle]:>3}  {task.description:<6}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[so_far]}"), console=self.console, transient=True,
        )  # fmt: skip
        self.so_far = self.sentence = ""

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        self._say(f"run folder: {folder}")
        if results:
            self._say(f"taken up after {len(results)} cycles, with {results[-1].labels} labels")
            self.so_far = _line(results[-1])
        self.budget = budget
        self.phase(len(results), "begin", None)
        self.progress.start()

    def phase(self, cycle: int, name: str, total: int | None) -> None:
        for task in self.progress.task_ids:  # a new one: rich cannot take the total off an old one
            self.progress.remove_task(task)
        self.task = self.progress.add_task(name, total=total, cycle=cycle, so_far=self.so_far)

    def advance(self, done: int) -> None:
        self.progress.update(self.task, completed=done)

    def measured(self, result: Result, results: Sequence[Result]) -> None:
        self.so_far = f"{_line(result)} of {self.budget}"
        self.progress.update(self.task, so_far=self.so_far)
        if not self.console.is_terminal:  # nothing moves there: a line a cycle tells that it lives
            self._say(f"cycle {result.cycle:>3}  {self.so_far}")

    def noted(self, cycle: int, notes: Mapping[str, float]) -> None:
        said = ", ".join(f"{name} {_plainly(value)}" for name, value in notes.items())
        self._say(f"cycle {cycle:>3}  the query: {said}")

    def stops(self, reason: str) -> None:
        self.sentence = f"The run stops before its budget: {reason}."

    def waits(self, sentence: str) -> None:
        self.sentence = sentence

    def end(self, folder: Path, results: Sequence[Result]) -> None:
        if self.progress.live.is_started:
            self.progress.stop()
        if results:
            self.console.print(table(results))
            self._say(f"results, labels, curve and model: {folder}")
        if self.sentence:
            self._say(f"{self.sentence}\nThe folder is {folder}", style="bold")

    def _say(self, sentence: str, style: str | None = None) -> None:
        self.console.print(sentence, style=style, soft_wrap=True, highlight=False, markup=False)


def table(results: Sequence[Result]) -> Table:
    """Cycle, labels, accuracy, and the seconds of each phase."""
    caption = f"and {results[-1].validation} labels for validation" if results and results[-1].validation else None
    made = Table("cycle", "labels", "accuracy", *(escape(f"{phase} [s]") for phase in PHASES), caption=caption)
    for column in made.columns:
        column.justify = "right"
    for each in results:
        seconds = [f"{each.seconds[phase]:.2f}" if phase in each.seconds else "-" for phase in PHASES]
        made.add_row(str(each.cycle), str(each.labels), _accuracy(each), *seconds)
    return made


def _line(result: Result) -> str:
    return f"accuracy {_accuracy(result)} with {result.labels} labels"


def _plainly(value: float) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"


def _accuracy(result: Result) -> str:
    return f"{result.metrics['test/accuracy']:.4f}" if "test/accuracy" in result.metrics else "-"
