"""Images in files: folders of PNGs, the ways in which files break, manifests."""

import csv
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SHARED_MNIST = Path(__file__).parents[2] / "shared" / "data"


def scans(count: int) -> tuple[np.ndarray, list[str]]:
    """Digits (N, 28, 28), and what they are: MNIST where it is at hand, scikit-learn's digits, enlarged, elsewhere."""
    if (SHARED_MNIST / "MNIST").exists():
        from torchvision.datasets import MNIST

        mnist = MNIST(str(SHARED_MNIST), download=False)
        return mnist.data[:count].numpy(), [str(each) for each in mnist.targets[:count].tolist()]
    digits = load_digits()
    larger = (digits.images[:count] * 15).astype(np.uint8).repeat(4, 1).repeat(4, 2)[:, 2:-2, 2:-2]
    return larger, [str(each) for each in digits.target[:count]]


def png_folder(root: Path, images: np.ndarray, labels: Sequence[str]) -> list[str]:
    """A folder with a folder a class. Returns the paths in it, in the order of the images."""
    paths = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        paths.append(f"{label}/{i:05d}.png")
        Image.fromarray(image).save(root / paths[-1])
    return paths


def write_manifest(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-60])


def no_image(file: Path) -> None:
    file.write_text("this is no image")


def bomb(file: Path) -> None:
    """A PNG that says it is 30,000 pixels wide and high."""
    chunks = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]), b"IDAT" + zlib.compress(bytes(100))
    framed = [len(each[4:]).to_bytes(4, "big") + each + zlib.crc32(each).to_bytes(4, "big") for each in chunks]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def replace(file: Path) -> None:
    Image.fromarray(np.full((28, 28), 77, np.uint8)).save(file)
