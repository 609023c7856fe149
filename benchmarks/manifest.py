"""What a manifest of a million rows costs: seconds and memory to open it, and which images a cycle over 2,000 reads.

python benchmarks/manifest.py [--rows 1000000]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from deepal import Learner
from deepal.data import AtRandom, Manifest
from deepal.data.files import FileImages
from deepal.modules import Classifier
from deepal.oracles import DatasetOracle
from deepal.strategies import Margin

CLASSES = 10


def memory() -> float:
    """The most memory that this process has held so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write(root: Path, rows: int) -> Path:
    """A manifest whose rows all have a file: the same few images, under as many names."""
    coin = np.random.default_rng(0)
    for i in range(CLASSES):
        Image.fromarray(coin.integers(0, 255, (28, 28), np.uint8)).save(root / f"{i}.png")
    manifest = root / "manifest.csv"
    with manifest.open("w") as file:
        file.write("id,path,label,split\n")
        file.writelines(
            f"camera-{i % 97:02d}/2026-11/{i:09d}.png,{i % CLASSES}.png,class {i % CLASSES},{'' if i % 1000 else 'test'}\n"
            for i in range(rows)
        )
    return manifest


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    rows = options.parse_args().rows
    read = set()
    original = FileImages._read

    def counted(self: FileImages, position: int) -> object:
        read.add(position)
        return original(self, position)

    FileImages._read = counted  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as folder:
        manifest = write(Path(folder), rows)
        data = Manifest(manifest=str(manifest), image_size=28, channels=1, pool_size=2000, validation=0)
        before, started = memory(), time.perf_counter()
        data.begin(seed=0, validation_size=0)
        opened = time.perf_counter() - started
        print(f"{rows:,} rows opened in {opened:.2f} s; at most {memory():.2f} GiB, {before:.2f} of them before")
        again = Manifest(manifest=str(manifest), image_size=28, channels=1, pool_size=2000, validation=0)
        settings = {"query_size": 10, "budget": 20, "trainer": {"max_steps": 20}, "root": Path(folder) / "runs"}
        learner = Learner(
            strategy=Margin(), module=Classifier(), data=again, oracle=DatasetOracle(), initial=AtRandom(10), **settings
        )
        read.clear()
        started = time.perf_counter()
        learner.run()
        used = {*again.candidates, *again.test_positions, *again.validation_positions}
        print(
            f"a run of two cycles: {time.perf_counter() - started:.1f} s, {len(read):,} images read, {len(read - used)} of "
            f"them neither of its pool of {len(again.candidates):,} nor of its {len(again.test_positions):,} test images; "
            f"at most {memory():.2f} GiB"
        )


if __name__ == "__main__":
    main()
