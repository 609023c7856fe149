"""The picture of the house, held against the code: which room may know which, and which outside packages."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "deepal"

FLOORS = [  # arrows run down only, or along a floor where PICTURE says so
    {"cli", "explaining", "report"},
    {"study", "workers", "lockstep", "comparison", "selection"},
    {
        "learner",
        "cycle",
        "bookkeeping",
        "run",
        "records",
        "fitting",
        "stacked",
        "pretraining",
        "choosing",
        "judging",
        "fresh",
        "weights",
        "scan",
        "preflight",
        "trainer_options",
        "environment",
        "artifacts",
        "features",
    },
    {"strategies", "modules", "stopping", "testing"},
    {
        "functional",
        "signals",
        "nn",
        "probes",
        "data",
        "callbacks",
        "recorders",
        "oracles",
        "entries",
        "ledger",
        "watching",
        "ranks",
        "room",
        "representation",
    },
    {
        "seeds",
        "numeric",
        "fingerprint",
        "task",
        "augmentation",
        "folder",
        "contact_sheet",
        "tables",
        "statistics",
        "leases",
        "meter",
    },
]
ALONG = {  # the arrows within a floor
    "cli": {"explaining", "report"},
    "study": {"workers", "lockstep"},
    "lockstep": {"workers"},
    "learner": {"cycle", "bookkeeping", "run", "environment", "fresh", "preflight", "trainer_options"},
    "cycle": {
        "bookkeeping",
        "run",
        "fitting",
        "stacked",
        "fresh",
        "weights",
        "scan",
        "preflight",
        "features",
        "pretraining",
        "choosing",
        "judging",
    },
    "choosing": {"artifacts", "bookkeeping", "preflight", "run", "scan"},
    "judging": {"bookkeeping", "preflight", "scan"},
    "pretraining": {"run", "fresh", "weights"},
    "features": {"run", "scan"},
    "preflight": {"stacked"},
    "stacked": {"fitting", "fresh"},
    "bookkeeping": {"run", "weights", "preflight"},
    "run": {"records"},
    "testing": {"strategies"},
    "ledger": {"entries", "oracles"},
    "recorders": {"functional"},
    "watching": {"entries", "oracles"},
    "ranks": {"data"},
    "representation": {"data", "nn"},
    "contact_sheet": {"folder"},
    "tables": {"folder"},
}
PICTURE = {  # rooms that may know less than all that lies below
    "strategies": {"functional", "numeric", "signals"},
    "modules": {"augmentation", "functional", "nn", "probes", "task"},
    "stopping": {"entries", "functional", "numeric", "seeds"},
    "functional": set(),
    "signals": set(),
    "nn": set(),
    "probes": {"functional", "nn"},
    "statistics": set(),
    "comparison": {"fingerprint", "records", "statistics"},
    "report": {
        "comparison",
        "contact_sheet",
        "entries",
        "fingerprint",
        "leases",
        "oracles",
        "records",
        "statistics",
        "study",
        "tables",
        "task",
        "watching",
    },
}
OUTSIDE = {  # packages besides the standard library, where that is held small
    "functional": {"torch", "faiss", "scipy"},
    "signals": {"torch"},
    "strategies": {"torch"},
    "nn": {"torch", "torchvision", "timm"},
    "probes": {"torch"},
    "ranks": {"torch", "lightning"},
    "contact_sheet": {"torch", "PIL", "matplotlib"},
    "modules": {"torch", "lightning", "torchmetrics"},
    "entries": set(),
    "ledger": set(),
    "oracles": set(),
    "watching": set(),
    "statistics": {"numpy", "scipy"},
    "comparison": {"numpy"},
    "records": {"numpy"},
    "leases": set(),
    "study": {"lightning"},
    "workers": {"torch"},
    "augmentation": {"torch", "torchvision"},
    "meter": {"torch"},
    "numeric": set(),
    "seeds": {"torch", "numpy"},
    "folder": set(),
    "tables": set(),
    "fingerprint": set(),
    "cli": {"jsonargparse", "lightning", "yaml"},
}
STANDARD = set(sys.stdlib_module_names)


def room_of(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ([f"deepal.{alias.name}" for alias in node.names] if node.module == "deepal" else [node.module])


FILES = [path for path in HOUSE.rglob("*.py") if not room_of(path).startswith("__")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_arrows_run_down(path):
    room = room_of(path)
    floor = next(i for i, rooms in enumerate(FLOORS) if room in rooms)
    allowed = PICTURE.get(room, set().union(*FLOORS[floor + 1 :]) | ALONG.get(room, set()))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "deepal" and len(parts) > 1 and not parts[1].startswith("__"):
            assert parts[1] == room or parts[1] in allowed, f"{room} may not know {parts[1]}"
        elif parts[0] not in STANDARD | {"deepal"} and room in OUTSIDE:
            assert parts[0] in OUTSIDE[room], f"{room} may not import {parts[0]}"


def test_every_room_has_its_floor():
    assert {room_of(path) for path in FILES} == set().union(*FLOORS)


def test_pool_needs_the_standard_library_alone():
    assert all(name.split(".")[0] in STANDARD for name in imports(HOUSE / "data" / "pool.py"))


def test_faiss_is_known_to_one_file():
    assert [path.name for path in FILES if "faiss" in imports(path)] == ["neighbors.py"]


def test_no_cupboards_and_no_prints():
    for path in FILES:
        assert path.stem not in {"utils", "helpers", "common", "misc"}
        assert not re.search(r"(?<![\w.])print\(", path.read_text())


def test_init_files_only_export():
    for path in HOUSE.glob("*/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert all(isinstance(node, ast.ImportFrom | ast.Expr | ast.Assign) for node in body), path


def test_files_and_tests_mirror_each_other():
    tests = Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        folder = path.relative_to(tests).parent
        assert folder == Path() or (HOUSE / folder).is_dir(), f"{path} tests no room"


def test_it_trains_and_selects_without_faiss_and_wandb(tmp_path):
    code = """
import sys
sys.modules["faiss"] = sys.modules["wandb"] = sys.modules["tensorboard"] = None
from deepal.cli import main
main(["run", "--strategy=KMeans", "--budget=40", "--trainer.max_steps=5", f"--root={sys.argv[1]}"])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "40" in done.stdout


def test_importing_deepal_imports_nothing_large():
    code = "import sys, deepal; sys.exit(bool({'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
