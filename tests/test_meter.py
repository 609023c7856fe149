"""What work cost: of the phase, and not of what came before."""

import subprocess
import sys
import time

import torch

from deepal.meter import Meter

CPU = torch.device("cpu")


def test_seconds_are_of_each_phase_and_computing_of_all():
    meter = Meter(CPU)
    with meter.phase("wait"):
        time.sleep(0.2)
    with meter.phase("work"):
        started = time.process_time()
        while time.process_time() < started + 0.1:
            pass
    assert meter.seconds["wait"] >= 0.2
    assert meter.seconds["work"] >= 0.1
    assert 0.1 <= meter.seconds["cpu"] < 0.2


ALONE = """
import sys, torch
from contextlib import suppress
from deepal.meter import CLEAR, Meter, peak

def megabytes(count):
    return torch.ones(count * 2**20 // 4)

def meter():
    return Meter(torch.device("cpu"))

large = megabytes(256)
measuring = meter()
before = measuring.peak_memory()["process"]
also = megabytes(256)
both = measuring.peak_memory()["process"]
del also, large
after = meter().peak_memory()["process"]
large = megabytes(1024)
highest = peak()
del large
with suppress(OSError):
    CLEAR.write_text("5")
sys.stdout.write(f"{before} {both} {after} {highest} {peak()}")
"""


def test_the_peak_is_of_the_work_since():
    """In a process of its own: what other tests held before would stand in a peak that cannot be set back."""
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    before, both, after, highest, cleared = map(int, ran.stdout.split())
    assert both - before > 200 * 2**20
    if cleared < highest:  # this system sets a peak back
        assert after < both - 400 * 2**20
    else:
        assert after >= both
