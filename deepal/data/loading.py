"""Loaders that serve whole batches of images as dictionaries, in an order that seed and epoch alone decide."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deepal import seeds
from deepal.data.images import Images

Batch = dict[str, Tensor]
"""`input` (B, channels, height, width), `position` (B,) in the data set, and `target` (B,) where it may be known."""


class Batches(Dataset):
    """Batches by their rows: item [rows] is the whole batch of these rows.

    Args:
        images: where the pixels are.
        positions: (n,) position of each row.
        targets: (n,) class of each row, or images whose own classes are read, or None to serve none.
    """

    def __init__(self, images: Images, positions: Tensor, targets: Tensor | Images | None) -> None:
        self.images, self.positions, self.targets = images, positions, targets

    def __getitem__(self, rows: Tensor) -> Batch:
        positions = self.positions[rows]
        batch = {"input": self.images.images(positions), "position": positions}
        if isinstance(self.targets, Tensor):
            batch["target"] = self.targets[rows]
        elif self.targets is not None:
            batch["target"] = self.targets.targets(positions)
        return batch


class InOrder(Sampler[Tensor]):
    """Rows 0 to n - 1 in batches."""

    def __init__(self, size: int, batch_size: int) -> None:
        self.size, self.batch_size = size, batch_size

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(self.size).split(self.batch_size))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)


class Shuffled(Sampler[Tensor]):
    """Rows 0 to n - 1 in batches, in an order drawn from (seed, epoch).

    Args:
        size: n.
        batch_size: rows a batch.
        seed: of all epochs.
        steps: batches an epoch, over as many passes as that takes; None for one pass.

    A last batch of a single row is joined to the one before: batch norm cannot train on one image.
    """

    def __init__(self, size: int, batch_size: int, seed: int, steps: int | None = None) -> None:
        self.size, self.batch_size, self.seed, self.steps = size, batch_size, seed, steps
        self.workers = torch.Generator()  # what data loading workers are seeded from
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch
        self.workers.manual_seed(seeds.derive(self.seed, "workers", epoch))

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "order", self.epoch))
        left = len(self)
        while left:  # none at all for a set without rows
            for batch in _batches_of_one_pass(self.size, self.batch_size, generator)[:left]:
                left -= 1
                yield batch

    def __len__(self) -> int:
        return (self.steps if self.steps and self.size else 0) or len(_sizes(self.size, self.batch_size))


def loader(batches: Batches, sampler: Sampler[Tensor], num_workers: int) -> DataLoader:
    """A DataLoader whose items are whole batches."""
    return DataLoader(
        batches,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=False,
        generator=getattr(sampler, "workers", None) or torch.Generator(),  # never the global one
    )


def _batches_of_one_pass(size: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor]:
    return torch.randperm(size, generator=generator).split(_sizes(size, batch_size))


def _sizes(size: int, batch_size: int) -> list[int]:
    sizes = [batch_size] * (size // batch_size) + [size % batch_size] * (size % batch_size > 0)
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [batch_size + 1]
    return sizes
