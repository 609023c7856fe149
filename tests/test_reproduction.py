"""`docs/reproduction.md` is what its generator makes of the committed studies."""

import importlib
import sys
from pathlib import Path

import pytest

from deepal import records

ROOT = Path(__file__).parent.parent


def generator():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("reproduction")
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_the_page_is_what_the_studies_say():
    assert generator().page() == (ROOT / "docs" / "reproduction.md").read_text()


def test_every_study_is_on_the_page_and_every_claim_is_answered():
    made = generator()
    sections = [each for each in made.SECTIONS if each.is_made]
    assert {each.name for each in sections} == {each.name for each in (ROOT / "results").iterdir()}
    assert made.page().count("| yes |") + made.page().count("| **no** |") == sum(len(each.claims) for each in sections)


@pytest.mark.parametrize("study", sorted((ROOT / "results").glob("*/study.json")), ids=lambda path: path.parent.name)
def test_what_is_committed_says_how_it_was_made_and_nothing_of_where(study):
    assert study.stat().st_size < 5 * 2**20
    text = study.read_text()
    assert "/home" not in text
    assert '"host"' not in text
    for record in records.read(study):
        assert record.finished
        assert all({"torch", "lightning", "device", "threads"} <= set(each) for each in record.environments)
        asked = [position for cycle in record.cycles for position in cycle["positions"]]
        assert len(set(asked) | set(record.first)) == len(asked) + len(record.first)
        assert record.is_ceiling or len(record.first) + len(asked) == record.cycles[-1]["labels"] == record.budget
