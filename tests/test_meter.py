"""What work cost: of the phase, and not of what came before."""

import gc
import time

import pytest
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


def test_the_peak_is_of_the_work_since():
    gc.collect()  # what other tests have left would be given back in between
    large = torch.ones(64 * 2**20 // 4)
    meter = Meter(CPU)
    held = meter.peak_memory()["process"]
    also = torch.ones(64 * 2**20 // 4)
    assert meter.peak_memory()["process"] - held > 40 * 2**20
    del also, large
    again = Meter(CPU).peak_memory()["process"]
    if again == meter.peak_memory()["process"] and again > held:
        pytest.skip("this system does not let a process set its peak back")
    assert again < held + 40 * 2**20
