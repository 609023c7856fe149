"""What a strategy says that it holds is what it holds, in processes of their own, at sizes above 256 MB."""

import os
import subprocess
import sys

import pytest

from deepal import preflight
from deepal.strategies import CoreSet, Margin, Prefilter
from deepal.strategies.base import Sizes
from tests.runs import digits

RETURNING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SELECTIONS = {  # pool, width, classes, query size, labeled; each term of an estimate is the largest of one of them
    "Margin()": (8_000_000, 1, 2, 100, 5),
    "CoreSet()": (8_000_000, 2, 2, 10, 50),
    "RobustCoreSet()": (7_500_000, 2, 2, 5, 50),
    "RobustCoreSet(exact_up_to=5000, outliers=0)": (2500, 2, 2, 5, 5),
    "BADGE()": (8_000_000, 2, 2, 10, 50),
    "BADGE(sketch=16)": (3_000_000, 2, 40, 10, 50),
    "KMeans()": (4_000_000, 2, 2, 3, 5),
    "Prefilter(by=Random(), then=KMeans(), keep=6000)": (6000, 2048, 2, 5500, 5),
    "WeightedKMeans(factor=100_000)": (1_000_000, 256, 2, 4, 5),
    "TypiClust()": (200_000, 200, 2, 5, 50),
    "ClusterMargin(sample=2000)": (8_000_000, 2, 2, 5, 50),
    "MaxHerding(anchors=300)": (300_000, 256, 2, 3, 50),
    "UHerding(anchors=300)": (300_000, 256, 2, 3, 50),
    "UHerding(anchors=200)": (200_000, 256, 2, 3, 20_000),
    "MaxHerding(width=0.01, anchors=300)": (300_000, 256, 2, 3, 50),
    "FacilityLocation(anchors=300)": (300_000, 256, 2, 3, 50),
    "FacilityLocation(anchors=200)": (30_000, 256, 2, 3, 250_000),
    "ProbCover(radius=0.01)": (20_000, 2500, 2, 3, 20),
    "ProbCover(radius=0.05)": (10_000, 512, 2, 3, 150_000),
    "DCoM(radius=0.01)": (12_000, 2500, 2, 3, 20),
    "BAIT()": (200, 400, 10, 1, 50),
    "BAIT(width=4)": (80_000, 16, 22, 1, 50),
    "BAIT(width=3)": (60_000, 3500, 2, 1, 50),
    "CAL()": (10_000, 1024, 10, 100, 60_000),
    "ALFAMix()": (200_000, 512, 2, 100, 50),
    "Projected(CoreSet(), 64)": (1_000_000, 80, 2, 5, 50),
    "Projected(CoreSet(), 8)": (100_000, 3000, 2, 3, 1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SELECTIONS)
def test_what_is_held_is_what_was_estimated(strategy):
    command = [sys.executable, "-m", "tests.memory", strategy, *map(str, SELECTIONS[strategy])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **RETURNING})
    assert done.returncode == 0, done.stderr
    peak, estimate = map(int, done.stdout.split())
    assert max(peak, estimate) > 256e6
    assert peak <= 1.25 * estimate
    assert estimate <= 1.5 * peak


def test_what_cannot_be_had_is_refused_before_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("deepal.choosing.free_memory", lambda: 10_000)
    run = digits(tmp_path, strategy=CoreSet())
    with pytest.raises(MemoryError, match=r"CoreSet\(\) takes .* to choose 10 of 1,195 images .*pool_subset"):
        run.run()
    assert not (run.folder / "cycles").exists()


def test_a_short_list_takes_what_a_short_list_takes():
    sizes = Sizes(pool=10**9, labeled=100, query_size=10, widths={"embedding": 512, "probs": 10})
    short = Prefilter(by=Margin(), then=CoreSet(), keep=1000)
    assert short.workspace(sizes) == Margin().workspace(sizes) < CoreSet().workspace(sizes)
    with pytest.raises(MemoryError, match=r"takes 37.3 GiB beside the signals to choose 10 of 1,000,000,000 images"):
        preflight.refuse_too_large(short, sizes, 2**30)
