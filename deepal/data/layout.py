"""Which images of a data set a run uses for what: drawn once, among those that it was begun with. What comes later joins
the pool, and moves nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepal import seeds
from deepal.data.images import UNLABELED, ImageSet


@dataclass(frozen=True)
class Layout:
    """The sides of a data set.

    Args:
        candidates: positions of training images that are labeled or may be.
        validation: positions of training images to validate on.
        tested: positions of test images to test on.
    """

    candidates: list[int]
    validation: list[int]
    tested: list[int]


@dataclass(frozen=True)
class Draw:
    """How the sides are drawn; errors name the options of the data module.

    Args:
        seed: of the run.
        validation: images to set apart among those whose class is known, where there is no split for it.
        pool_size: a random part of the others. None: all.
        imbalance: the largest class over the smallest. None: as the data set is.
    """

    seed: int
    validation: int
    pool_size: int | None
    imbalance: float | None

    def laid_out(self, images: ImageSet, begun_with: int) -> Layout:
        """The sides. Args: begun_with: how many images there were when the run began.

        Raises ValueError where there are not enough images.
        """
        first = torch.arange(begun_with) if images.candidates is None else images.candidates[images.candidates < begun_with]
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "split"))
        order = first[torch.randperm(len(first), generator=generator)]
        if self.imbalance is not None:
            thinned = self._imbalanced(images, order)
            order = thinned[torch.randperm(len(thinned), generator=generator)]  # rare classes came first
        drawn = order[:0] if images.validation is not None else self._for_validation(images, order)
        candidates = order[~_in_groups_of(images, order, drawn)]
        if not 0 < (self.pool_size or 1) <= len(candidates):
            raise ValueError(
                f"data.pool_size={self.pool_size} and {len(drawn)} validation images do not fit the {len(order)} training "
                f"images."
            )
        if self.pool_size is None and images.candidates is not None:
            later = images.candidates[images.candidates >= begun_with]
            candidates = torch.cat([candidates, later[~_in_groups_of(images, later, drawn)]])
        return Layout(
            candidates=candidates[: self.pool_size].tolist(),
            validation=(drawn if images.validation is None else images.validation).tolist(),
            tested=list(range(len(images.test))) if images.tested is None else images.tested.tolist(),
        )

    def _for_validation(self, images: ImageSet, order: Tensor) -> Tensor:
        """The first so many of `order` whose class is known, and with each the others of its group."""
        if not self.validation:
            return order[:0]
        known = order if images.labeled is None else order[torch.isin(order, images.labeled)]
        if self.validation > len(known):
            raise ValueError(
                f"data.validation asks for {self.validation} images whose class is known, and there are {len(known)}; "
                f"lower it (0 for none), or label some for it (split val)."
            )
        groups, drawn = images.train.groups(known), images.train.groups(known[: self.validation])
        return known[: self.validation] if groups is None or drawn is None else known[torch.isin(groups, drawn)]

    def _imbalanced(self, images: ImageSet, order: Tensor) -> Tensor:
        """`order` thinned so that class c of C keeps max * imbalance^(-c / (C - 1)) images."""
        assert self.imbalance is not None
        targets = images.train.targets(order)
        if (targets == UNLABELED).any():
            raise ValueError(
                f"data.imbalance={self.imbalance} needs every class, that of {int((targets == UNLABELED).sum())} images is "
                f"not known."
            )
        sizes = torch.bincount(targets, minlength=len(images.classes))
        steps = torch.linspace(0, 1, len(images.classes), dtype=torch.float64)
        keep = (int(sizes.max()) * self.imbalance**-steps).round().clamp_min(1).long().minimum(sizes).tolist()
        kept = []
        for position, target in zip(order.tolist(), targets.tolist(), strict=True):
            if keep[target]:
                keep[target] -= 1
                kept.append(position)
        return torch.tensor(kept)


def _in_groups_of(images: ImageSet, positions: Tensor, some: Tensor) -> Tensor:
    """(n,) bool: which of `positions` are among `some`, or belong together with one of them."""
    groups, theirs = images.train.groups(positions), images.train.groups(some)
    if groups is None or theirs is None:
        return torch.isin(positions, some)
    return torch.isin(groups, theirs)
