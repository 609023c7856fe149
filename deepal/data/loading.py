"""Loaders that serve whole batches of images, to one process or several, in an order that seed and epoch alone decide."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deepal import seeds
from deepal.data.images import Images, Part, UnreadableError

Batch = dict[str, Tensor]
"""`input` (B, channels, height, width), `position` (B,) in the data set, and `target` (B,) where it may be known."""


class Share(NamedTuple):
    """Which part of the work is done here: that of process `rank` of so many."""

    rank: int = 0
    processes: int = 1


ALONE = Share()


class Damaged:
    """A batch some of whose images cannot be read.

    Args: batch: the others, None where there are none; reasons: why, by position; part: of the data set.
    """

    def __init__(self, batch: Any, reasons: Mapping[int, str], part: Part) -> None:
        self.batch, self.reasons, self.part = batch, reasons, part


def whole(batch: Any) -> Any:
    """A batch all of which could be read. Raises UnreadableError for another."""
    if isinstance(batch, Damaged):
        raise UnreadableError(batch.reasons, batch.part)
    return batch


def readable(batch: Damaged) -> Any:
    """What could be read of a batch, for those who can do without the rest. Raises UnreadableError where that is less than
    half of it."""
    if batch.batch is not None and len(batch.batch["position"]) >= len(batch.reasons):
        return batch.batch
    return whole(batch)


class Batches(Dataset):
    """Batches by their rows: item [rows] is the whole batch of these rows.

    Args:
        images: where the pixels are.
        positions: (n,) position of each row.
        targets: (n, ...) class of each row, "true" for the images' own, or None to serve none.
        part: of the data set that the images are.
    """

    def __init__(
        self, images: Images, positions: Tensor, targets: Tensor | Literal["true"] | None, part: Part = "train"
    ) -> None:
        self.images, self.positions, self.targets, self.part = images, positions, targets, part

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: Tensor) -> Any:
        positions = self.positions[rows]
        try:
            return self._batch(positions, rows)
        except UnreadableError as error:
            readable = rows[[position not in error.reasons for position in positions.tolist()]]
            return Damaged(self[readable] if len(readable) else None, error.reasons, self.part)

    def _batch(self, positions: Tensor, rows: Tensor) -> Any:
        if isinstance(self.targets, str):
            return self.images.true_batch(positions)
        return self.images.batch(positions, None if self.targets is None else self.targets[rows])


class Block:
    """Some batches, one after another, each read when its turn comes.

    Args: batches: where they come from; rows: of each; first: the number of the first in its epoch.
    """

    def __init__(self, batches: Batches, rows: Sequence[Tensor], first: int) -> None:
        self.batches, self.rows, self.first = batches, rows, first

    def prepared(self, prepare: Callable[[Batch], Batch], tosses_coins: bool) -> Iterator[Batch]:
        """The batches, prepared on the device. Where that tosses no coins, and the block goes through all images at least
        once, they are prepared once, and every batch is a part of that.
        """
        size = len(self.batches.positions)
        if tosses_coins or sum(map(len, self.rows)) < size:
            yield from (prepare(self.batches[rows]) for rows in self.rows)
            return
        everything = prepare(self.batches[torch.arange(size)])
        for rows in self.rows:
            there = rows.to(everything["position"].device)
            yield {name: each[there] for name, each in everything.items()}


class Blocks(Dataset):
    """Blocks by their rows: item (first, rows of each batch) is the block."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: tuple[int, Sequence[Tensor]]) -> Block:
        return Block(self.batches, item[1], item[0])


class Scanned(Batches):
    """Batches for a scan: `{"input", "position"}`, whatever a module trains on.

    Args: images and positions, as above.
    """

    def __init__(self, images: Images, positions: Tensor, part: Part = "train") -> None:
        super().__init__(images, positions, None, part)

    def _batch(self, positions: Tensor, rows: Tensor) -> Batch:
        return {"input": self.images.images(positions), "position": positions}


class Readable(Batches):
    """Batches without those images that cannot be read. Raises UnreadableError where that is most of one."""

    def __getitem__(self, rows: Tensor) -> Any:
        batch = super().__getitem__(rows)
        return readable(batch) if isinstance(batch, Damaged) else batch


class InOrder(Sampler[Tensor]):
    """Rows 0 to n - 1 in batches. Of several processes each takes every so many-th batch: the batches are the same
    for any number of processes, so what is computed of them is the same too."""

    def __init__(self, size: int, batch_size: int, share: Share = ALONE) -> None:
        self.size, self.batch_size, self.share = size, batch_size, share

    def __iter__(self) -> Iterator[Tensor]:
        batches = torch.arange(self.size).split(self.batch_size) if self.size else ()
        return iter(batches[self.share.rank :: self.share.processes])

    def __len__(self) -> int:
        batches = -(-self.size // self.batch_size)
        return len(range(self.share.rank, batches, self.share.processes))


class Evenly(Sampler[Tensor]):
    """Rows 0 to n - 1, each once, in as many batches for each process: what is counted over all processes is counted
    without the copies that fill up the last batches elsewhere, and no process waits for another's batch."""

    def __init__(self, size: int, batch_size: int, share: Share = ALONE) -> None:
        self.size, self.share = size, share
        # no more batches than the shortest share has rows: none is empty, and at most a few are a row longer
        self.batches = min(-(-size // (batch_size * share.processes)), max(1, size // share.processes))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(self.size)[self.share.rank :: self.share.processes].tensor_split(self.batches))

    def __len__(self) -> int:
        return self.batches


class Shuffled(Sampler[Tensor]):
    """Rows 0 to n - 1 in batches, in an order drawn from (seed, epoch).

    Args:
        size: n.
        batch_size: rows a batch, of each process.
        seed: of all epochs.
        steps: batches an epoch, over as many passes as that takes; None for one pass.
        share: the processes train on different rows of one order, as many each: the first rows fill up the last ones.
        orders: how many orders are served side by side: a batch is one of each, one after another.
        full: each batch has `batch_size` rows, however few there are: an epoch is one pass over a set in which each row
            stands as often as that takes. It needs `steps`.

    A last batch of a single row is joined to the one before: batch norm cannot train on one image.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        share: Share = ALONE,
        orders: int = 1,
        full: bool = False,
    ) -> None:
        self.size, self.batch_size, self.seed, self.steps, self.share = size, batch_size, seed, steps, share
        self.orders, self.full = orders, full
        self.workers = torch.Generator()  # what data loading workers are seeded from
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch
        self.workers.manual_seed(seeds.derive(self.seed, "workers", epoch, *self._own_coins()))

    def __iter__(self) -> Iterator[Tensor]:
        keys = [(), *((number,) for number in range(1, self.orders))]
        coins = [torch.Generator().manual_seed(seeds.derive(self.seed, "order", self.epoch, *key)) for key in keys]
        left = len(self)
        while left:  # none at all for a set without rows
            for batches in islice(zip(*map(self._one_pass, coins), strict=True), left):
                left -= 1
                yield torch.cat(batches)

    def __len__(self) -> int:
        return (self.steps if self.steps and self.size else 0) or len(self._sizes())

    def _one_pass(self, generator: torch.Generator) -> Sequence[Tensor]:
        rank, processes = self.share
        if self.full and self.steps:
            rows = self.steps * self.batch_size * processes
            order = torch.randperm(max(rows, self.size), generator=generator)[:rows] % self.size
            return order[rank::processes].split(self.batch_size)
        order = torch.randperm(self.size, generator=generator)
        if processes > 1:
            order = order[torch.arange(-(-self.size // processes) * processes) % self.size][rank::processes]
        return order.split(self._sizes())

    def _sizes(self) -> list[int]:
        size = -(-self.size // self.share.processes)
        sizes = [self.batch_size] * (size // self.batch_size) + [size % self.batch_size] * (size % self.batch_size > 0)
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [self.batch_size + 1]
        return sizes

    def _own_coins(self) -> tuple[int, ...]:
        return (self.share.rank,) if self.share.rank else ()


class InBlocks(Sampler):
    """The batches of another sampler, so many at a time.

    Args:
        of: the other.
        size: batches a block, at most.
        cut: a block also ends after so many batches of each epoch. A fit whose last step lies within an epoch ends there,
            and has to find that the epoch is not over, as it would without blocks.
    """

    def __init__(self, of: Shuffled, size: int, cut: int = 0) -> None:
        self.of, self.workers = of, of.workers
        self.ends = sorted({*range(size, len(of), size), *([cut] if cut else []), len(of)})

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.of.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        batches = iter(self.of)
        for first, end in pairwise((0, *self.ends)):
            yield first, list(islice(batches, end - first))

    def __len__(self) -> int:
        return len(self.ends)


def loader(batches: Dataset, sampler: Sampler, num_workers: int) -> DataLoader:
    """A DataLoader whose items are whole batches, or blocks of them."""
    return DataLoader(
        batches,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=False,
        generator=getattr(sampler, "workers", None) or torch.Generator(),  # never the global one
    )
