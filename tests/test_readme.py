"""README says what is true: its code runs, its table names every strategy, its two lines are the ones that CI runs."""

import re
from pathlib import Path

import pytest

from deepal import strategies

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
STRATEGIES = README.partition("## Strategies")[2].partition("## ")[0]
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_the_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_a_new_strategy_is_fifteen_lines():
    (example,) = [code for code in CODE if "check_strategy(Doubt" in code]
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_the_table_names_every_strategy_and_what_it_needs():
    for name in strategies.__all__:
        each = getattr(strategies, name)
        if not isinstance(each, type) or not hasattr(each, "select") or getattr(each, "__abstractmethods__", None):
            continue
        (row,) = [line for line in STRATEGIES.splitlines() if line.startswith(f"| `{name}")]
        cells = [cell.strip() for cell in row.replace("\\|", "/").split("|")[1:-1]]
        if isinstance(each.needs, dict):
            assert cells[1] == (", ".join(each.needs.get("pool", ())) or "-")
            assert cells[2] == (", ".join(each.needs.get("labeled", ())) or "-")


def test_ci_runs_the_two_lines():
    lines = re.findall(r"```bash\n(pip install -e [^\n]*)\n```", README)
    assert len(lines) == 2
    assert all(line in (ROOT / ".ci" / "run").read_text() for line in lines)
    assert "pip install --no-cache-dir -e .\n" in (ROOT / "docker" / "Dockerfile").read_text()


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    for option in re.findall(r"--config (configs/\S+)", README):
        assert (ROOT / option).exists()


def test_the_numbers_are_those_of_the_reproduction():
    """Every decimal of the table of strategies stands in the generated page."""
    page = (ROOT / "docs" / "reproduction.md").read_text()
    table = README.partition("## Does it help?")[2].partition("## ")[0]
    numbers = re.findall(r"[+-]?0\.\d{4}", table)
    assert len(numbers) > 40
    assert not [number for number in numbers if number not in page]
