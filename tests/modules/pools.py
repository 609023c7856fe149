"""Pools in which it is known what is unlike the labeled images, and what a module asks of them first."""

from functools import partial

import numpy as np
import torch

from deepal import Learner
from deepal.data import FromDatasets, Given
from deepal.weights import load_model
from tests import own


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.targets[index])


def clusters():
    """Images of two clusters, which of the two each is of, and a hundred of the first cluster that are labeled."""
    coins = torch.Generator().manual_seed(0)
    centers, cluster = torch.randn(2, 1, 8, 8, generator=coins), torch.arange(600) % 2
    images = centers[cluster] + 0.5 * torch.randn(600, 1, 8, 8, generator=coins)
    return images, cluster, (cluster == 0).nonzero().squeeze(1)[:100].tolist()


def low_digits():
    """Digits, which each is, and five hundred from 0 to 4 that are labeled; three in five of the others are from 5 to 9."""
    scans, names = own.scans(4000)
    images, targets = torch.tensor(np.asarray(scans)).unsqueeze(1), torch.tensor([int(name) for name in names])
    return images, targets, (targets < 5).nonzero().squeeze(1)[:500].tolist()


def asked_first(root, strategy, module, labeled, images, targets, steps, **options):
    """A hundred that are asked where these are labeled, and the module that asked."""
    data = FromDatasets(
        train=Pictures(images, targets), test=Pictures(images[:50], targets[:50]),
        classes=tuple(map(str, range(int(targets.max()) + 1))), validation=0, epoch_steps=50,
    )  # fmt: skip
    learner = Learner(
        strategy=strategy, module=partial(module, **options), data=data, initial=Given(labeled), query_size=100,
        budget=len(labeled) + 100, trainer={"max_steps": steps}, root=root, test_every=10**6,
    )  # fmt: skip
    learner.tell(labeled, targets[labeled].tolist())
    asked = learner.ask()
    return asked, load_model(learner.folder / "cycles" / "000" / "weights.safetensors")
