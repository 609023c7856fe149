"""Greedy selection by its definition: all distances to every new center, from differences, in double precision."""

import torch

from deepal.functional.bounds import Bounds


def k_center(points, centers, query_size, ignore=0):
    """Farthest first but for so many, the lowest row on a tie."""

    def dist2(place):
        return torch.cat([(some.double() - place.double()).square_().sum(-1) for some in points.split(2048)])

    chosen = []
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for center in centers:
        nearest = nearest.minimum(dist2(center))
    for _ in range(min(query_size, len(points))):
        far = nearest if len(centers) or chosen else dist2(points.double().mean(0))
        far = far.index_fill(0, torch.tensor(chosen, dtype=torch.long), -1)
        passed_over = min(ignore, len(points) - len(chosen) - 1) if len(centers) or chosen else 0
        chosen.append(int(far.sort(descending=True, stable=True).indices[passed_over]))
        nearest = nearest.minimum(dist2(points[chosen[-1]]))
    return torch.tensor(chosen, dtype=torch.long)


class Plain(Bounds):
    """Bounds that know the squared distances of all rows: what products say of them has to be true, and does not decide."""

    def __init__(self, *args):
        super().__init__(*args)
        self.true = torch.full_like(self.upper, torch.inf)
        for row in range(self._labeled):
            self.true = self.true.minimum(self.distances(slice(None), self.labeled, row))

    def distances(self, rows, geometry, row):
        return self.geometry.dist2(self.geometry.wide(rows), geometry.wide(slice(row, row + 1)))

    def add(self, rows):
        super().add(rows)
        for row in rows.tolist():
            self.true = self.true.minimum(self.distances(slice(None), self.geometry, row))
        self.true[self.chosen] = -1

    def between(self, rows):
        least, most = super().between(rows)
        assert (self.upper >= self.true).all()
        assert (least <= self.true[rows]).all()
        assert (most >= self.true[rows]).all()
        return self.true[rows], self.true[rows]

    def apart(self, rows, others):
        least, most = super().apart(rows, others)
        true = torch.stack([self.distances(others, self.geometry, row) for row in rows.tolist()] or [least.reshape(0)])
        assert (least <= true.reshape(least.shape)).all()
        assert (most >= true.reshape(most.shape)).all()
        return true.reshape(least.shape), true.reshape(most.shape)

    def distance(self, row, others):
        raise AssertionError("what is known needs no second look")
