"""What a selection holds at most, beside what it was estimated to, in a process of its own:
`python -m tests.memory STRATEGY POOL WIDTH CLASSES QUERY LABELED`.

Freed blocks have to go back to the system at once (MALLOC_ARENA_MAX=1, MALLOC_MMAP_THRESHOLD_=65536,
MALLOC_TRIM_THRESHOLD_=65536), or what is counted is what the allocator keeps for later.
"""

import sys

import torch

from deepal import strategies
from deepal.meter import CLEAR, peak
from deepal.signals import Signals
from deepal.strategies.base import Sizes, View, choose


def signals(rows, width, classes, names, seed):
    generator, made = torch.Generator().manual_seed(seed), {}
    centers = 3 * torch.randn(50, width, generator=generator)
    if "embedding" in names:
        made["embedding"] = torch.empty(rows, width)
        for some in made["embedding"].split(8192):
            some.normal_(generator=generator)
            some += centers[torch.randint(50, (len(some),), generator=generator)]
    for name in sorted(names & {"logits", "probs", "logit_gradient"}):
        made[name] = torch.empty(rows, classes)
        for some in made[name].split(8192):
            some.normal_(generator=generator)
            if name == "probs":
                some.copy_(torch.softmax(some, 1))
    if "flip_distance" in names:
        made["flip_distance"] = torch.zeros(rows)  # all are candidates, and clustered
    return made


class Known:
    """A source that copies nothing."""

    def __init__(self, arrays):
        self.arrays = arrays

    def read(self, positions, names):
        return {name: self.arrays[name] for name in names}

    def map(self, positions, names, score):
        return torch.cat([score({name: self.arrays[name][some] for name in names}) for some in positions.split(8192)])


def view_of(strategy, pool, width, classes, labeled):
    names = {name for each in strategy.needs.values() for name in each}
    sets = [signals(rows, width, classes, names, seed) for seed, rows in enumerate((pool, labeled))]
    target = {"target": torch.arange(labeled) % classes}
    view = View(
        Signals(torch.arange(pool), Known(sets[0])), Signals(torch.arange(labeled), Known(sets[1]), target), Signals.of({})
    )
    for of, each in (("pool", view.pool), ("labeled", view.labeled)):
        each[strategy.needs.get(of, ())]
    return view


if __name__ == "__main__":
    strategy = eval(sys.argv[1], vars(strategies))
    pool, width, classes, query, labeled = map(int, sys.argv[2:])
    torch.set_num_threads(1)
    choose(strategy, view_of(strategy, 300, width, classes, 5), 3, torch.Generator().manual_seed(0))  # what is loaded once
    view = view_of(strategy, pool, width, classes, labeled)
    CLEAR.write_text("5")
    before = peak()
    choose(strategy, view, query, torch.Generator().manual_seed(0))
    sys.stdout.write(f"{peak() - before} {strategy.workspace(Sizes.of(view, query))}\n")
