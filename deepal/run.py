"""A run's folder: the files of each cycle, and, while one process holds it, the ledger."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from deepal import fingerprint, folder, records, tables
from deepal.data.pool import Pool
from deepal.entries import PSEUDO_LABELS
from deepal.ledger import Ledger, LedgerError

_TABLE = "labels.csv"
LABELS = (
    "id", "label", "annotator", "cycle", "time", "rank", "score", "status", "seconds", "predicted", "aleatoric",
    "epistemic", "source", "position",
)  # fmt: skip
"""The columns of `labels.csv`."""


class RunMismatchError(ValueError):
    """The run folder holds a run of another configuration or another data set."""


class Files:
    """Where a run keeps what. Args: path: its folder, which all processes of a run see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def weights(self, cycle: int) -> Path:
        """A cycle's trained weights: the file is there once the fit has ended."""
        return self.path / "cycles" / f"{cycle:03d}" / "weights.safetensors"

    def recorded(self, cycle: int) -> Path:
        """What was recorded while a cycle's weights were trained."""
        return self.weights(cycle).with_name("recorded.safetensors")

    def fit_state(self, cycle: int) -> Path:
        """The state of a fit that is under way."""
        self.weights(cycle).parent.mkdir(parents=True, exist_ok=True)
        return self.weights(cycle).with_name("fit.ckpt")

    def curves(self, cycle: int) -> Path:
        """A folder for the curves inside a cycle: a new one for each process that takes the cycle up."""
        taken_up = len(list((self.path / "curves").glob(f"{cycle:03d}*")))
        return self.path / "curves" / (f"{cycle:03d}-{taken_up}" if taken_up else f"{cycle:03d}")

    def clear(self) -> None:
        """Remove the files of cycles that no ledger knows of: a new run starts from nothing."""
        for leftover in ("cycles", "curves"):
            shutil.rmtree(self.path / leftover, ignore_errors=True)
        self.pretrained.unlink(missing_ok=True)

    @property
    def features(self) -> Path:
        """What runs beside this one have read of images too, a folder for each network and data set."""
        return self.path.parent / ".features"

    @property
    def pretrained(self) -> Path:
        """The weights that the networks of all cycles begin with, where they were trained on a pretext task."""
        return self.path / "pretrained.safetensors"

    @property
    def shared_pretraining(self) -> Path:
        """What runs beside this one have trained so too, a folder for each network and set of images."""
        return self.path.parent / ".pretrained"

    @property
    def artifacts(self) -> Path:
        """What the strategy has computed once."""
        return self.path / "artifacts.safetensors"

    def forget_before(self, cycle: int) -> None:
        """Remove weights and states of earlier cycles: the run goes on from the later ones."""
        for folder_of_cycle in (self.path / "cycles").glob("*"):
            if folder_of_cycle.name.isdecimal() and int(folder_of_cycle.name) < cycle:
                shutil.rmtree(folder_of_cycle, ignore_errors=True)


class Run:
    """What is kept of a run, in the hands of the one process that holds it.

    Args: files: of it; ledger: the one in its folder.
    """

    def __init__(self, files: Files, ledger: Ledger) -> None:
        self.files, self.path, self.ledger = files, files.path, ledger

    @classmethod
    @contextmanager
    def held(cls, path: Path) -> Iterator["Run"]:
        """Hold a folder, made where it is missing, and open the ledger in it.

        Raises FolderHeldError where another process holds it, and LedgerError where its ledger cannot be read, or is gone
        from beside its tables.
        """
        with folder.held(path) as resolved:
            file, table = resolved / "ledger.sqlite", resolved / _TABLE
            if table.exists() and not (file.exists() and file.stat().st_size):
                raise LedgerError(
                    f"{file} is missing or empty, and {table.name} beside it holds the labels of a run; restore it, or "
                    f"remove {table.name} too to begin anew, or give the run another name."
                )
            with closing(Ledger(file)) as ledger:
                yield cls(Files(resolved), ledger)

    # What must not have changed since it began

    def refuse_another_config(self, config: Mapping[str, Any]) -> None:
        """Raises RunMismatchError, with the differences, where the run was begun with another configuration."""
        changed = fingerprint.differences(self.ledger.manifest().get("config", config), config)
        if changed:
            raise RunMismatchError(
                f"the run in {self.path} was begun with another configuration, and goes on with its own only:\n  "
                + "\n  ".join(changed)
                + "\nUndo these changes, or start another run under another name."
            )

    def refuse_other_images(self, images: str) -> None:
        """Raises RunMismatchError where the run was begun with images of another fingerprint."""
        if self.ledger.manifest().get("data", images) != images:
            raise RunMismatchError(
                f"the images are not those that the run in {self.path} was begun with; give it its data set again, or "
                f"start another run under another name."
            )

    def refuse_other_embeddings(self, digest: str | None) -> None:
        """Raises RunMismatchError where the run was begun with another file of embeddings."""
        if self.ledger.manifest().get("embeddings", digest) != digest:
            raise RunMismatchError(
                f"the file of embedding_from holds other features than those that the run in {self.path} was begun with; "
                f"give it its file again, or start another run under another name."
            )

    # What it remembers

    def pool(self, candidates: Sequence[int], number: Callable[[str], Any], cycle: int) -> Pool:
        """The pool as it was before this cycle: labeled is what was answered; what gave no label is set aside; and what the
        last cycle that asked has left to train on besides.

        Args: candidates: that can be read; number: what is trained on where a label was answered; cycle: this one.
        """
        pool, readable = Pool(candidates), set(candidates)
        answers = [(of_cycle, each) for of_cycle, each in self.ledger.answers(before=cycle) if each.position in readable]
        for of_cycle, group in groupby(answers, key=lambda each: each[0]):
            labeled = [answer for _, answer in group if answer.status == "labeled"]
            pool.label([each.position for each in labeled], [number(str(each.label)) for each in labeled], of_cycle)
        pool.set_aside([answer.position for _, answer in answers if answer.status != "labeled"])
        pool.set_aside([position for position in self.ledger.unanswered() if position in readable])
        pool.pseudo_label(*self.ledger.predictions(self.ledger.asked_before(cycle), PSEUDO_LABELS))
        return pool

    # What people look for in the folder

    def export(self, budget: int) -> None:
        """Write the tables, the record of the run, and the last model."""
        self.export_tables()
        last = self.files.weights(len(self.ledger.results()) - 1)
        if last.exists():
            folder.write_atomically(self.path / "model.safetensors", lambda partial: shutil.copy(last, partial))
        records.write(self.path / records.FILE, [records.of_ledger(self.ledger, budget)])

    def export_tables(self) -> None:
        """`results.csv`: a row a cycle; `labels.csv`: an answer; `quarantine.csv`: an image that cannot be read;
        `forgetting.csv`: a labeled image, as it fared in the last training."""
        results = [
            {"cycle": each.cycle, "labels": each.labels, "asked": each.asked, "validation": each.validation}
            | dict(each.metrics)
            | {f"seconds/{phase}": round(value, 3) for phase, value in each.seconds.items()}
            | {f"MiB/{where}": round(value / 2**20) for where, value in each.memory.items()}
            for each in self.ledger.results()
        ]
        tables.write(self.path / "results.csv", list(dict.fromkeys(name for row in results for name in row)), results)
        tables.write(self.path / _TABLE, LABELS, self.ledger.labels())
        if results and (forgetting := self.ledger.forgetting(len(results) - 1)):
            tables.write(self.path / "forgetting.csv", list(forgetting[0]), forgetting)
        if unreadable := self.ledger.quarantine():
            tables.write(self.path / "quarantine.csv", list(unreadable[0]), unreadable)
