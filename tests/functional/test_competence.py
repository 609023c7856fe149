import torch
from hypothesis import given
from hypothesis import strategies as st

from deepal.functional import competence, herding, neighbors

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(st.floats(0, 1), st.floats(1, 100), st.floats(0, 0.99))
def test_competence_rises_to_one_at_full_coverage(coverage, steepness, center):
    assert competence.competence(1.0, steepness, center) == 1
    low = competence.competence(coverage / 2, steepness, center)
    assert 0 <= low <= competence.competence(coverage, steepness, center) <= 1


def case(seed, n=40):
    points = torch.randn(n, 2, generator=generator(seed))
    doubt = torch.rand(n, generator=generator(seed + 1))
    return points, doubt, torch.rand(n, generator=generator(seed + 2)) < 0.2


@given(seeds, st.integers(1, 40))
def test_without_competence_it_is_coverage_and_with_all_of_it_doubt(seed, query_size):
    points, doubt, covered = case(seed)
    balls, order = neighbors.balls(points, 0.5), torch.randperm(40, generator=generator(seed))
    by_cover, _ = herding.max_cover(balls, query_size, covered, order)
    chosen = competence.cover_and_doubt(balls, query_size, covered, doubt, 0.0, order)
    assert chosen.tolist() == by_cover.tolist()
    by_doubt = competence.cover_and_doubt(balls, query_size, covered, doubt, 1.0, order)
    assert by_doubt.tolist() == doubt.sort(descending=True, stable=True).indices[:query_size].tolist()


@given(seeds, st.floats(0, 1))
def test_each_choice_is_the_best_by_the_definition(seed, share):
    points, doubt, covered = case(seed, 15)
    within = torch.cdist(points.double(), points.double()) < 0.8
    chosen = competence.cover_and_doubt(neighbors.balls(points, 0.8), 5, covered, doubt, share, torch.arange(15))
    left = torch.ones(15, dtype=torch.bool)
    for row in chosen.tolist():
        adds, parts = (within & ~covered).sum(1).double(), []
        for values in (doubt.double(), adds):
            low, high = values[left].min(), values[left].max()
            parts.append((values - low) / (high - low) if high > low else torch.zeros(15, dtype=torch.float64))
        worth = share * parts[0] + (1 - share) * parts[1]
        assert worth[row] >= worth[left].max() - 1e-12
        covered, left[row] = covered | within[row], False


def test_a_ball_of_a_label_ends_where_others_are_predicted():
    points = torch.cat([torch.rand(200, 1, generator=generator(0)) * 0.5, 0.5 + torch.rand(200, 1, generator=generator(1))])
    predicted = (points[:, 0] > 0.5).long()
    labeled, target = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    radii = competence.pure_radii(points, predicted, labeled, target, 1.0)
    assert (radii - 0.5).abs().max() < 0.05
    loose = competence.pure_radii(points, predicted, labeled, target, 0.6)
    assert (loose > radii).all()
    inside = (torch.cdist(points, labeled) < radii).any(1)
    assert torch.equal(competence.covered(points, labeled, radii), inside)


def test_a_label_among_others_has_a_ball_of_nearly_nothing():
    """No row of its class is near: published code reads the true classes of the pool here."""
    points, predicted = torch.zeros(10, 2), torch.zeros(10, dtype=torch.long)
    radii = competence.pure_radii(points, predicted, torch.zeros(1, 2), torch.tensor([1]), 0.5)
    assert radii[0] < 0.05
