"""What all benchmarks of pairs share: each side does its work in a process of its own, one thread, and says its CPU-seconds
(user and system) and the most memory that it held beyond what it held when the work began; the sides alternate, and medians
are printed. Ratios are theirs over ours."""

import argparse
import json
import logging
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from deepal.meter import Meter

Work = Callable[[], Any]
Row = tuple[str, str, str]
"""What is done, our side, theirs."""


def main(doc: str, sides: dict[str, Callable[[str], Work]], rows: Sequence[Row], prepare: Callable[[str], Path]) -> None:
    """Measure, and print a table. Args: sides: by name, what makes a side ready, given the folder of the data; prepare:
    is called once, before all, and returns the file that it has written, which goes in the end."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="the folder that holds MNIST")
    parser.add_argument("--pairs", type=int, default=1, help="how often each pair is measured")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--side", choices=sides, help="measure one side, and print it as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.side:
        measure(sides[options.side](options.root))
        return
    prepared = prepare(options.root)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread\n")
    print("| workload | ours [CPU-s] | theirs | ratio | ours [MiB] | theirs |\n|---|---|---|---|---|---|")
    for name, *pair in rows:
        if options.only not in name:
            continue
        found = [[json.loads(alone(side, options.root)) for side in pair] for _ in range(options.pairs)]
        seconds = [statistics.median(each[i]["seconds"] for each in found) for i in (0, 1)]
        memory = [max(each[i]["memory"] for each in found) / 2**20 for i in (0, 1)]
        ratio = statistics.median(each[1]["seconds"] / each[0]["seconds"] for each in found)
        said = [each["said"] or {} for each in found[0]]
        rows_of = [each.pop("rows", None) for each in said]
        same = "" if None in rows_of else (", the same picks" if rows_of[0] == rows_of[1] else ", other picks")
        print(
            f"| {name}{same} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.1f} | {memory[0]:.0f} | {memory[1]:.0f} |",
            flush=True,
        )
        for side, each in zip(pair, said, strict=True):
            if each:
                print(f"|   {side}: {', '.join(f'{key} {value}' for key, value in each.items())} | | | | | |", flush=True)
    prepared.unlink()


def alone(side: str, root: str) -> str:
    """What a process that does this side's work says."""
    command = [sys.executable, sys.argv[0], "--root", root, "--side", side]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def measure(work: Work) -> None:
    """Do it, and print its CPU-seconds, bytes held beyond what was held before, and what it says."""
    meter = Meter(torch.device("cpu"))
    before = meter.peak_memory()["process"]
    with meter.phase("work"):
        said = work()
    said = said if isinstance(said, dict) else None
    print(json.dumps({"seconds": meter.seconds["cpu"], "memory": meter.peak_memory()["process"] - before, "said": said}))
