import io
import re
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from deepal import contact_sheet
from deepal.entries import Result
from deepal.modules import Classifier
from deepal.probes import MCDropout
from deepal.report import (
    Curve,
    Display,
    ForgettingPictures,
    QueryPictures,
    Reconstructions,
    TensorBoard,
    UncertaintyMap,
    WeightsAndBiases,
)
from deepal.report.uncertainty import draw
from deepal.strategies import BALD, BatchBALD, Margin
from deepal.task import Task
from tests.runs import digits

RESULTS = [
    Result(cycle, labels=20 + 10 * cycle, asked=20 + 10 * cycle, validation=4, metrics={"test/accuracy": accuracy},
           seconds={"fit": 1.25, "scan": 0.5, "select": 0.125})
    for cycle, accuracy in enumerate((0.5, 0.75, 0.8125))
]  # fmt: skip
SHORT = {"trainer": {"max_steps": 5}, "budget": 30}


def shown(watchers, root, **changes):
    digits(root, **{**SHORT, **changes}).run(watchers)


def test_the_table_says_cycle_labels_accuracy_and_seconds(tmp_path):
    text = io.StringIO()
    display = Display(Console(file=text, width=100))
    display.begin(tmp_path / "[s]", 40, [])
    display.measured(RESULTS[0], RESULTS[:1])
    display.end(tmp_path, RESULTS)
    lines = text.getvalue().splitlines()
    assert f"run folder: {tmp_path}/[s]" in lines
    assert any(
        all(word in line for word in ("cycle", "labels", "accuracy", "fit [s]", "test [s]", "scan [s]", "select [s]"))
        for line in lines
    )
    for word in ("0.8125", "40", "1.25", "0.50", "0.12", str(tmp_path), "and 4 labels for validation"):
        assert word in text.getvalue()


def test_a_run_is_shown_as_it_goes_and_when_it_is_taken_up(tmp_path):
    text = io.StringIO()
    for budget in (30, 40):
        shown([Display(Console(file=text, force_terminal=True, width=120))], tmp_path, budget=budget)
    assert "taken up after 2 cycles, with 30 labels" in text.getvalue()
    assert "accuracy" in text.getvalue()


def test_the_curve_is_a_picture_of_the_results(tmp_path):
    Curve("digits").end(tmp_path, RESULTS)
    picture = Image.open(tmp_path / "curve.png")
    assert picture.size[0] > 600
    assert len(picture.convert("RGB").getcolors(10**6)) > 10


def test_nothing_measured_draws_nothing(tmp_path):
    Curve("digits").end(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_metrics_against_labels_and_once_only(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for budget in (30, 40):  # taken up again: the view is made anew
        shown([TensorBoard()], tmp_path, budget=budget)
    (folder,) = tmp_path.glob("*/tensorboard")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("test/accuracy")] == [20, 30, 40]
    assert {"seconds/fit", "n_labels"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("queries")] == [0, 0, 1]  # first labels, and two queries


def test_queries_are_drawn_with_what_was_predicted_and_answered(tmp_path):
    class Counts(QueryPictures):
        asked: ClassVar[list] = []

        def answered(self, cycle, questions, data):
            self.asked.append((cycle, [(each.score, each.predicted, each.answer.label) for each in questions]))
            super().answered(cycle, questions, data)

    shown([Counts()], tmp_path, strategy=Margin())
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in (folder / "queries").iterdir()) == ["000.png", "first.png"]
    (first, initial), (cycle, query) = Counts.asked
    assert (first, cycle, len(initial), len(query)) == (-1, 0, 20, 10)
    assert all(score is None and predicted is None for score, predicted, _ in initial)
    assert all(0 <= score <= 1 and predicted in "0123456789" for score, predicted, _ in query)
    picture = np.asarray(Image.open(folder / "queries" / "000.png").convert("RGB")).reshape(-1, 3)
    wrong = sum(predicted != label for _, predicted, label in query)
    assert ((picture == contact_sheet.ALARM).all(1).any()) == bool(wrong)


def test_what_a_posterior_is_unsure_of_is_drawn_with_what_was_asked(tmp_path):
    shown([UncertaintyMap()], tmp_path, strategy=BALD(), module=lambda: Classifier(posterior=MCDropout(5)))
    (folder,) = tmp_path.iterdir()
    assert [file.name for file in (folder / "uncertainty").iterdir()] == ["000.png"]
    nothing = np.full(9, np.nan)
    draw(
        SimpleNamespace(positions=np.arange(9), aleatoric=nothing, epistemic=nothing), [3], "diverged", tmp_path / "nan.png"
    )
    along = SimpleNamespace(positions=np.arange(9), aleatoric=np.linspace(0, 1, 9), epistemic=np.linspace(0, 0.5, 9))
    marked = []
    for asked in ([], [2, 5], [*range(9)]):  # the legend names them in the same color
        draw(along, asked, "title", tmp_path / "marked.png")
        picture = np.asarray(Image.open(tmp_path / "marked.png").convert("RGB")).reshape(-1, 3)
        marked.append(int((picture == (213, 94, 0)).all(1).sum()))
    assert marked[1] - marked[0] > 50
    assert marked[2] - marked[0] > 4 * (marked[1] - marked[0])


def test_what_a_strategy_notes_is_shown(tmp_path):
    said = io.StringIO()
    strategy = BatchBALD(num_samples=100)
    shown([Display(Console(file=said, width=200))], tmp_path, strategy=strategy,
          module=lambda: Classifier(posterior=MCDropout(5)))  # fmt: skip
    assert re.search(r"cycle   0  the query: information [\d.]+, certified yes, evaluated \d+", said.getvalue())


def test_a_sheet_has_a_page_a_hundred(tmp_path):
    tiles = lambda some: [contact_sheet.Tile(torch.rand(3, 5, 9), f"{each}\nlong {'name ' * 20}") for each in some]  # noqa: E731
    contact_sheet.draw_pages(list(range(230)), tiles, tmp_path / "sheet.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sheet-2.png", "sheet-3.png", "sheet.png"]
    assert Image.open(tmp_path / "sheet.png").size > Image.open(tmp_path / "sheet-3.png").size


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shown([WeightsAndBiases()], tmp_path)
    assert list(tmp_path.glob("*/wandb/offline-run-*"))


def test_what_was_forgotten_is_drawn_with_its_labels(tmp_path, monkeypatch):
    rows = [
        {"position": 3, "label": "7", "events": 9, "shown": 9, "learned": False, "wrong": True},
        {"position": 5, "label": "1", "events": 2, "shown": 9, "learned": True, "wrong": None},
        {"position": 6, "label": "1", "events": 0, "shown": 9, "learned": True, "wrong": False},
    ]

    class Shown:
        def pictures(self, positions):
            return torch.rand(len(positions), 1, 8, 8)

    tiles, sheet = [], contact_sheet.draw
    monkeypatch.setattr(contact_sheet, "draw", lambda some, title="": (tiles.extend(some), sheet(some, title))[1])
    watcher = ForgettingPictures()
    watcher.begin(tmp_path, 10, [])
    watcher.forgot(2, rows, Shown())
    assert (tmp_path / "forgetting" / "002.png").stat().st_size > 1000
    assert [each.text for each in tiles] == ["never in 9\n7, which is wrong", "2 times\n1", "0 times\n1"]
    assert [each.alarming for each in tiles] == [True, False, False]


def test_what_an_autoencoder_makes_is_drawn_on_the_scale_of_the_image(tmp_path, monkeypatch):
    """A perfect copy looks the same in every channel, and one of little contrast pale."""
    drawn = []
    monkeypatch.setattr(contact_sheet, "draw_pages", lambda tiles, *_: drawn.extend(each.picture for each in tiles))
    bytes_of, task = (
        torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8),
        Task((3, 8, 8), ("a", "b"), (0.1, 0.5, 0.9), (0.1, 1.0, 3.0)),
    )

    class Shown:
        def pictures(self, positions):
            return bytes_of[positions]

        def name(self, position):
            return str(position)

    again = task.restore(task.normalize(bytes_of))
    again[1] = 0.5 + 0.01 * (again[1] - 0.5)
    watcher = Reconstructions()
    watcher.begin(tmp_path, 10, [])
    watcher.reconstructed(0, [0, 1], again, Shown())
    image, copy = drawn[0].split(8, 2)
    assert torch.equal(image, bytes_of[0])
    assert (image.int() - copy.int()).abs().max() <= 1
    assert drawn[1].split(8, 2)[1].float().std() < 2
    watcher.reconstructed(0, [0], again[:1, :1, ::2, ::2], Shown())
    assert drawn[2].shape == (3, 8, 16), "what a module reads smaller and without color"
