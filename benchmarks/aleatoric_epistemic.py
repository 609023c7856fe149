"""Whether the two parts of uncertainty mean what they are called, on MNIST: images of a class that was never seen, which
more labels would help with, against blends of two digits, which nobody can tell.

    python benchmarks/aleatoric_epistemic.py --root DATA --out results/aleatoric_epistemic/measured.json

A network learns from 1,000 digits from 0 to 8 and from 500 blends of two of them, each labeled as one of the two, at
random. It then reads other images: nines, other blends, and other digits from 0 to 8. Mutual information has to be larger
on nines than on blends, and expected entropy smaller. That holds for a network that has learned what can be learned; one
that is trained until it knows the labels of the blends by heart disagrees with itself about other blends. What came
out is in `docs/reproduction.md`.
"""

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.utils.data import TensorDataset

from deepal import Learner, load_model, records
from deepal.data import MNIST, Everything, FromDatasets
from deepal.functional import uncertainty
from deepal.modules import Classifier
from deepal.nn import GalCNN
from deepal.probes import MCDropout
from deepal.strategies import Random

CLASSES = tuple("012345678")
SHOWN = 250


def main() -> None:
    """Train, read, and write down how well each part tells the sets apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="the folder that holds MNIST")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 50], help="of training, each by itself")
    parser.add_argument("--draws", type=int, default=100, help="of dropout")
    parser.add_argument("--out", type=Path, default=Path("aleatoric_epistemic.json"), help="the file to write")
    options = parser.parse_args()
    loaded = MNIST(root=options.root).load()
    runs = []
    for epochs, seed in product(options.epochs, range(options.seeds)):
        runs.append(one(loaded, epochs, seed, options.draws))
        print({name: value for name, value in runs[-1].items() if name not in ("points", "environment")}, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(each) for each in runs)
    options.out.write_text(f'{{"draws": {options.draws}, "shown": {SHOWN}, "runs": [\n{lines}\n]}}\n')


def one(loaded: Any, epochs: int, seed: int, draws: int) -> dict[str, Any]:
    """What one network says."""
    generator = torch.Generator().manual_seed(seed)
    images, classes = loaded.train.data, loaded.train.classes
    seen = (classes < 9).nonzero().squeeze(1)
    seen = seen[torch.randperm(len(seen), generator=generator)]
    digits, first, second = seen[:1000], seen[1000:1500], seen[1500:2000]
    toss = torch.rand(500, generator=generator) < 0.5
    train = TensorDataset(
        torch.cat([images[digits], blend(images[first], images[second])]),
        torch.cat([classes[digits], torch.where(toss, classes[first], classes[second])]),
    )
    others, of = loaded.test.data, loaded.test.classes
    clean = (of < 9).nonzero().squeeze(1)
    clean = clean[torch.randperm(len(clean), generator=generator)]
    test = TensorDataset(others[clean[:1000]], of[clean[:1000]])
    module = Classifier(GalCNN, posterior=MCDropout(draws))
    with tempfile.TemporaryDirectory() as root:
        learner = Learner(
            strategy=Random(), module=module, data=FromDatasets(train=train, test=test, classes=CLASSES, validation=0),
            initial=Everything(), trainer={"max_epochs": epochs}, budget=1500, seed=seed, root=Path(root),
        )  # fmt: skip
        (result,) = learner.run()
        model = load_model(learner.folder)
        (environment,) = next(iter(records.read(learner.folder))).environments
    apart = of[clean[1000:2000]] != of[clean[2000:3000]]
    sets = {
        "nines": others[of == 9],
        "blends": blend(others[clean[1000:2000]][apart], others[clean[2000:3000]][apart]),
        "digits": others[clean[3000:4000]],
    }
    read = {name: parts(model, some) for name, some in sets.items()}
    aleatoric, epistemic = ({name: each[i] for name, each in read.items()} for i in (0, 1))
    points = {name: np.stack(each)[:, :SHOWN].astype(float).round(4).tolist() for name, each in read.items()}
    return {
        "epochs": epochs,
        "seed": seed,
        "environment": environment,
        "accuracy": result.metrics["test/accuracy"],
        "epistemic, nines above blends": auroc(epistemic["nines"], epistemic["blends"]),
        "epistemic, nines above digits": auroc(epistemic["nines"], epistemic["digits"]),
        "aleatoric, blends above nines": auroc(aleatoric["blends"], aleatoric["nines"]),
        "aleatoric, blends above digits": auroc(aleatoric["blends"], aleatoric["digits"]),
        "entropy, nines above blends": auroc(*(sum(read[name]) for name in ("nines", "blends"))),
        **({"points": points} if seed == 0 else {}),
    }


def blend(first: Tensor, second: Tensor) -> Tensor:
    """The mean of two images."""
    return ((first.int() + second.int()) // 2).to(torch.uint8)


def parts(model: Any, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Expected entropy and mutual information of images."""
    with torch.inference_mode():
        draws = torch.cat([model.mc_probs(model.task.normalize(some)) for some in images.split(500)])
    return uncertainty.expected_entropy(draws).numpy(), uncertainty.mutual_information(draws).numpy()


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """How often one of the first is above one of the second."""
    return float(mannwhitneyu(higher, lower).statistic / (len(higher) * len(lower)))


if __name__ == "__main__":
    main()
