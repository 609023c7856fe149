"""The configuration of a run, kept in its folder."""

from collections.abc import Sequence
from pathlib import Path

from deepal.entries import Result
from deepal.watching import Watcher


class SavedConfig(Watcher):
    """Writes `config.yaml` into the run folder: a file that runs it again.

    Args: text: the whole configuration.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def begin(self, folder: Path, budget: int, results: Sequence[Result]) -> None:
        (folder / "config.yaml").write_text(self.text)
