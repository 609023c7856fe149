import pytest
import torch

from deepal.modules import MAL, VAAL, Classifier
from deepal.probes import FeatureDropout
from deepal.strategies import DropQuery
from deepal.task import Task
from tests.runs import digits

TASK = Task((1, 8, 8), ("a", "b", "c"), (0.0,), (1.0,))


def made(module=Classifier):
    torch.manual_seed(0)
    built = module()
    built.configure_network(TASK)
    return built.eval()


@pytest.mark.parametrize("module", [Classifier, VAAL, MAL])
def test_it_is_the_share_of_draws_that_predict_another_class(module):
    built, images = made(module), torch.randn(40, 1, 8, 8)
    read = FeatureDropout(0.6, draws=7).start(built, torch.Generator().manual_seed(3))
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        found, embedding = read(images), built.embedding(images)
        masks = torch.rand(7, embedding.shape[1], generator=torch.Generator().manual_seed(seed)) >= 0.6
        head = built.logits_of
        expected = [(head(embedding * mask / 0.4).argmax(1) != built.logits(images).argmax(1)).float() for mask in masks]
        assert torch.allclose(found, torch.stack(expected).mean(0))
        assert 0 < found.mean() < 1
        assert torch.equal(torch.cat([read(some) for some in images.split(13)]), found), "in whatever batches"


def test_without_dropout_nothing_flips_and_chance_fills_the_query(tmp_path):
    built = made()
    with torch.no_grad():
        assert FeatureDropout(0.0).start(built, torch.Generator())(torch.randn(9, 1, 8, 8)).tolist() == [0.0] * 9
    learner = digits(tmp_path, strategy=DropQuery(), probes=[FeatureDropout(0.0)], budget=30)
    assert [each.labels for each in learner.run()] == [20, 30]


def test_a_run_reads_it_and_is_told_of_it_where_it_is_missing(tmp_path):
    learner = digits(tmp_path, strategy=DropQuery(), probes=[FeatureDropout()], budget=30)
    assert [each.labels for each in learner.run()] == [20, 30]
    with pytest.raises(ValueError, match=r"needs dropout_flips, .*probes=\[FeatureDropout\(\)\]"):
        digits(tmp_path / "without", strategy=DropQuery()).run()


def test_what_cannot_work_is_refused():
    for wrong in ({"rate": 1.0}, {"rate": -0.1}, {"draws": 0}):
        with pytest.raises(ValueError, match="FeatureDropout"):
            FeatureDropout(**wrong)
