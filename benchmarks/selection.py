"""What selection costs, beside the peers: k-center, BADGE, neighbors, k-means, ProbCover.

    pip install -e ".[peers]"
    python benchmarks/selection.py --root DATA       # DATA holds MNIST in torchvision's layout

On real features: of 50,000 images of MNIST, 512 from the hidden layer of a network that has learned from 1,000 others,
which are the labeled ones. Sides and ratios are as in `pairs.py`.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pairs
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.datasets import MNIST

from deepal.functional import coverage, geometry, gradients, herding, neighbors
from deepal.functional.geometry import FactoredGradients, Points

LABELS, POOL, WIDTH = 1000, 50_000, 512
FEATURES = Path(tempfile.gettempdir()) / "deepal-selection.pt"


def learn(root: str) -> Path:
    """Write the features and logits of the pool, and the features of what is labeled."""
    data = MNIST(root, download=False)
    images = ((data.data.float() / 255 - 0.1307) / 0.3081).flatten(1)
    torch.manual_seed(0)
    hidden, head = nn.Sequential(nn.Linear(784, WIDTH), nn.ReLU()), nn.Linear(WIDTH, 10)
    optimizer = torch.optim.Adam([*hidden.parameters(), *head.parameters()], 1e-3)
    order = torch.randperm(len(images))
    for _ in range(300):
        some = order[torch.randint(LABELS, (64,))]
        optimizer.zero_grad()
        cross_entropy(head(hidden(images[some])), data.targets[some]).backward()
        optimizer.step()
    with torch.no_grad():
        features = hidden(images)
        pool, labeled = features[order[LABELS : LABELS + POOL]], features[order[:LABELS]]
        torch.save({"pool": pool, "labeled": labeled, "logits": head(pool)}, FEATURES)
    return FEATURES


@cache
def learned() -> dict[str, Tensor]:
    """What was written."""
    return torch.load(FEATURES)


def narrow(width: int = 128) -> Tensor:
    """The pool's features on random directions."""
    return learned()["pool"] @ torch.randn(WIDTH, width, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5


def large(rows: int, width: int) -> Tensor:
    """So many rows: the pool's features on random directions, again and again, each time with noise of its own."""
    features, generator = narrow(width), torch.Generator().manual_seed(1)
    made = torch.empty(rows, width)
    for some in made.split(POOL):
        noise = torch.randn(some.shape, generator=generator)
        torch.add(features[: len(some)], noise, alpha=0.1 * float(features.std()), out=some)
    return made


def logits(classes: int) -> Tensor:
    """The network's own for ten classes; for more, those of a random head."""
    if classes == 10:
        return learned()["logits"]
    head = torch.randn(WIDTH, classes, generator=torch.Generator().manual_seed(2)) / 4
    return learned()["pool"] @ head


# k-center


def k_center(query_size: int, pool: Callable[[], Tensor] | None = None) -> pairs.Work:
    """Ours."""
    points = pool() if pool else learned()["pool"]
    centers = points[:0] if pool else learned()["labeled"]

    def choose() -> dict[str, Any]:
        work = Counter[str]()
        rows = coverage.k_center(points, centers, query_size, work=work).tolist()
        return {"rows": rows, **work}

    return choose


def activeml_k_center(query_size: int) -> pairs.Work:
    """That of scikit-activeml."""
    from skactiveml.pool import CoreSet

    every = torch.cat([learned()["pool"], learned()["labeled"]]).numpy()
    labels = np.concatenate([np.full(POOL, np.nan), np.zeros(LABELS)])
    return lambda: {"rows": CoreSet(random_state=0).query(every, labels, batch_size=query_size).tolist()}


def bmdal(
    method: str, query_size: int, *factors: Callable[[], Tensor], labeled: Callable[[], Tensor] | None = None
) -> pairs.Work:
    """That of bmdal-reg, which has a kernel for products of features."""
    setattr(np, "Inf", np.inf)  # noqa: B010  # a name that it uses, and that NumPy has dropped
    from bmdal_reg.bmdal import selection
    from bmdal_reg.bmdal.feature_data import ListFeatureData, TensorFeatureData
    from bmdal_reg.bmdal.feature_maps import IdentityFeatureMap, ProductFeatureMap
    from bmdal_reg.bmdal.features import Features

    def features(arrays: list[Tensor]) -> Any:
        maps = [IdentityFeatureMap(each.shape[1]) for each in arrays]
        data = [TensorFeatureData(each) for each in arrays]
        if len(arrays) == 1:
            return Features(maps[0], data[0])
        return Features(ProductFeatureMap(maps), ListFeatureData(data))

    arrays = [each() for each in factors]
    pool, known = features(arrays), features([labeled()] if labeled else [each[:1] for each in arrays])

    def choose() -> dict[str, Any]:
        made = getattr(selection, method)(
            pool.precompute(), known.precompute(), sel_with_train=labeled is not None, verbosity=0
        )
        rows = made.select(query_size).tolist()
        return {"rows": rows} if labeled else {}

    return choose


def in_double_precision() -> Tensor:
    """The features of the pool, which bmdal-reg then computes with."""
    return pool().double()


# BADGE


def badge(query_size: int, classes: int = 10) -> pairs.Work:
    """Ours."""
    error, features = gradients.logit_gradient(logits(classes)), learned()["pool"]

    def choose() -> dict[str, Any]:
        work = Counter[str]()
        generator = torch.Generator().manual_seed(0)
        coverage.d2_sampling(FactoredGradients(error, features), query_size, generator, work=work)
        return dict(work)

    return choose


def activeml_badge(query_size: int) -> pairs.Work:
    """That of scikit-activeml."""
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge

    probs = torch.softmax(logits(10), 1).numpy()

    class Known(SkactivemlClassifier):
        """Says the network's probabilities of the pool, whoever asks."""

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Known":
            return self

        def predict_proba(self, X: Any) -> Any:
            return probs, X

    features, labels = learned()["pool"].numpy(), np.full(POOL, np.nan)
    model = Known(classes=range(10))
    return lambda: {
        "chosen": len(Badge(random_state=0).query(features, labels, model, fit_clf=False, batch_size=query_size))
    }


def mapped_badge(rows: int, classes: int, width: int, query_size: int) -> pairs.Work:
    """Ours, of features in a file."""
    with tempfile.NamedTemporaryFile() as file:
        large(rows, width).numpy().tofile(file.name)
        features = torch.from_file(file.name, size=rows * width).view(rows, width)
        head = torch.randn(width, classes, generator=torch.Generator().manual_seed(2)) / 4
        error = gradients.logit_gradient(features @ head)
    return lambda: coverage.d2_sampling(FactoredGradients(error, features), query_size, torch.Generator().manual_seed(0))


def d2(rows: int, query_size: int) -> pairs.Work:
    """Ours, of plain features."""
    features = large(rows, 128)
    return lambda: coverage.d2_sampling(Points(features), query_size, torch.Generator().manual_seed(0), "uniform")


# Neighbors and k-means


def k_nearest() -> pairs.Work:
    """Ours."""
    points = narrow()
    return lambda: neighbors.k_nearest(points, 20)


def sklearn_k_nearest() -> pairs.Work:
    """That of scikit-learn, exact as well."""
    from sklearn.neighbors import NearestNeighbors

    points = narrow().numpy()
    return lambda: NearestNeighbors(n_neighbors=20, algorithm="brute").fit(points).kneighbors()


def torch_k_nearest() -> pairs.Work:
    """Ours, as where FAISS is not installed."""
    neighbors._faiss = lambda: None
    return k_nearest()


def k_means() -> pairs.Work:
    """Ours."""
    points = narrow()

    def cluster() -> dict[str, Any]:
        centroids, of = neighbors.k_means(points, 500, torch.Generator().manual_seed(0))
        return {"inertia": f"{float((points - centroids[of]).square().sum()):.4g}"}

    return cluster


def sklearn_k_means(kind: str) -> pairs.Work:
    """That of scikit-learn."""
    from sklearn import cluster

    points = narrow().numpy()
    made = getattr(cluster, kind)(n_clusters=500, n_init=1, random_state=0)
    return lambda: {"inertia": f"{made.fit(points).inertia_:.4g}"}


def faiss_k_means() -> pairs.Work:
    """That of FAISS, with its defaults and its own seeding by k-means++ left out, as it does."""
    import faiss

    points = narrow().contiguous().numpy()
    faiss.omp_set_num_threads(1)

    def cluster() -> dict[str, Any]:
        made = faiss.Kmeans(points.shape[1], 500, niter=25, seed=0)
        made.train(points)
        return {"inertia": f"{float(made.index.search(points, 1)[0].sum()):.4g}"}

    return cluster


# ProbCover


def with_radius(rows: int) -> tuple[Tensor, float]:
    """Rows as directions, and the radius within which each has, on the median, a thousandth of the others, ten at least."""
    (points,) = geometry.directions(narrow()[:rows])
    near = neighbors.nearest(points[:1000], points, max(10, rows // 1000) + 1)[0][:, -1]
    return points, float(near.median().sqrt())


def prob_cover(rows: int, query_size: int) -> pairs.Work:
    """Ours: balls, and the picks."""
    points, radius = with_radius(rows)

    def choose() -> dict[str, Any]:
        found = neighbors.balls(points, radius)
        none = torch.zeros(rows, dtype=torch.bool)
        return {"rows": herding.max_cover(found, query_size, none, torch.arange(rows))[0].tolist()}

    return choose


def activeml_prob_cover(rows: int, query_size: int) -> pairs.Work:
    """That of scikit-activeml, of which a table of all distances is a part, with the same radius."""
    from skactiveml.pool import ProbCover

    points, radius = with_radius(rows)
    return lambda: {
        "chosen": len(
            ProbCover(n_classes=10, deltas=[radius], random_state=0).query(
                points.numpy(), np.full(rows, np.nan), batch_size=query_size
            )
        )
    }


def picks(query_size: int) -> pairs.Work:
    """Ours, of balls at hand."""
    found, none = neighbors.balls(*with_radius(POOL)), torch.zeros(POOL, dtype=torch.bool)
    return lambda: {"rows": herding.max_cover(found, query_size, none, torch.arange(POOL))[0].tolist()}


def picks_by_counting(query_size: int) -> pairs.Work:
    """As published programs choose of edges at hand: all that are left are counted for each pick."""
    found = neighbors.balls(*with_radius(POOL))
    sources = np.repeat(np.arange(POOL), np.diff(found.starts.numpy()))
    targets = found.members.numpy()

    def choose() -> dict[str, Any]:
        source, target, rows = sources, targets, []
        for _ in range(query_size):
            rows.append(int(np.bincount(source, minlength=POOL).argmax()))
            left = ~np.isin(target, target[source == rows[-1]])
            source, target = source[left], target[left]
        return {"rows": rows}

    return choose


def pool() -> Tensor:
    """The features of the pool."""
    return learned()["pool"]


def labeled() -> Tensor:
    """The features of what is labeled."""
    return learned()["labeled"]


def error() -> Tensor:
    """The gradients by the network's own logits."""
    return gradients.logit_gradient(logits(10))


SIDES: dict[str, Callable[[str], pairs.Work]] = {
    **{f"k-center {k}": lambda _, k=k: k_center(k) for k in (100, 1000)},
    **{f"k-center {k}, scikit-activeml": lambda _, k=k: activeml_k_center(k) for k in (100, 1000)},
    **{
        f"k-center {k}, bmdal-reg": lambda _, k=k: bmdal("MaxDistSelectionMethod", k, pool, labeled=labeled)
        for k in (100, 1000)
    },
    "k-center 1000, bmdal-reg in double precision": lambda _: bmdal(
        "MaxDistSelectionMethod", 1000, in_double_precision, labeled=lambda: labeled().double()
    ),
    **{f"BADGE {k}": lambda _, k=k: badge(k) for k in (100, 1000)},
    "BADGE 100, scikit-activeml": lambda _: activeml_badge(100),
    **{f"BADGE {k}, bmdal-reg": lambda _, k=k: bmdal("KmeansppSelectionMethod", k, error, pool) for k in (100, 1000)},
    "BADGE 1000 of 100 classes": lambda _: badge(1000, 100),
    "BADGE 1000, mapped": lambda _: mapped_badge(200_000, 100, 256, 1000),
    **{f"k-center 1000 of {n}": lambda _, n=n: k_center(1000, lambda: large(n, 128)) for n in (50_000, 200_000, 1_000_000)},
    **{f"D2 1000 of {n}": lambda _, n=n: d2(n, 1000) for n in (50_000, 200_000, 1_000_000)},
    "k-NN": lambda _: k_nearest(),
    "k-NN, scikit-learn": lambda _: sklearn_k_nearest(),
    "k-NN, torch": lambda _: torch_k_nearest(),
    "k-means": lambda _: k_means(),
    "k-means, KMeans": lambda _: sklearn_k_means("KMeans"),
    "k-means, MiniBatchKMeans": lambda _: sklearn_k_means("MiniBatchKMeans"),
    "k-means, FAISS": lambda _: faiss_k_means(),
    "ProbCover": lambda _: prob_cover(10_000, 100),
    "ProbCover, scikit-activeml": lambda _: activeml_prob_cover(10_000, 100),
    "ProbCover's picks": lambda _: picks(100),
    "ProbCover's picks, counted": lambda _: picks_by_counting(100),
}
ROWS: list[pairs.Row] = [
    (
        "k-center, 100 of 50,000 x 512 beside 1,000 labeled, and scikit-activeml",
        "k-center 100",
        "k-center 100, scikit-activeml",
    ),
    ("k-center, 1,000, and scikit-activeml", "k-center 1000", "k-center 1000, scikit-activeml"),
    ("k-center, 100, and bmdal-reg", "k-center 100", "k-center 100, bmdal-reg"),
    ("k-center, 1,000, and bmdal-reg", "k-center 1000", "k-center 1000, bmdal-reg"),
    ("k-center, 1,000, and bmdal-reg in double", "k-center 1000", "k-center 1000, bmdal-reg in double precision"),
    ("k-center, 1,000 beside 100", "k-center 100", "k-center 1000"),
    ("BADGE, 100 of 50,000 x 512, 10 classes, and bmdal-reg", "BADGE 100", "BADGE 100, bmdal-reg"),
    ("BADGE, 1,000, and bmdal-reg", "BADGE 1000", "BADGE 1000, bmdal-reg"),
    ("BADGE, 100, and scikit-activeml", "BADGE 100", "BADGE 100, scikit-activeml"),
    ("BADGE, 1,000 beside 100", "BADGE 100", "BADGE 1000"),
    ("BADGE, 1,000 of 100 classes beside 10 classes", "BADGE 1000", "BADGE 1000 of 100 classes"),
    ("BADGE, 1,000 of 200,000 x 256, 100 classes, memory-mapped, beside the 50,000", "BADGE 1000", "BADGE 1000, mapped"),
    (
        "k-center, 1,000 of 200,000 x 128 beside 50,000, nothing labeled",
        "k-center 1000 of 50000",
        "k-center 1000 of 200000",
    ),
    ("k-center, 1,000 of 1,000,000 x 128 beside 50,000", "k-center 1000 of 50000", "k-center 1000 of 1000000"),
    ("D2 sampling, 1,000 of 200,000 x 128 beside 50,000", "D2 1000 of 50000", "D2 1000 of 200000"),
    ("D2 sampling, 1,000 of 1,000,000 x 128 beside 50,000", "D2 1000 of 50000", "D2 1000 of 1000000"),
    ("20 nearest neighbors of 50,000 x 128, and scikit-learn", "k-NN", "k-NN, scikit-learn"),
    ("20 nearest neighbors, and by products of torch", "k-NN", "k-NN, torch"),
    ("k-means, 500 clusters of 50,000 x 128, and scikit-learn's KMeans", "k-means", "k-means, KMeans"),
    ("k-means, and scikit-learn's MiniBatchKMeans", "k-means", "k-means, MiniBatchKMeans"),
    ("k-means, and FAISS's", "k-means", "k-means, FAISS"),
    ("ProbCover, 100 of 10,000 x 128, and scikit-activeml", "ProbCover", "ProbCover, scikit-activeml"),
    ("ProbCover, 100 of 50,000 with balls at hand, and counting", "ProbCover's picks", "ProbCover's picks, counted"),
]


if __name__ == "__main__":
    pairs.main(__doc__ or "", SIDES, ROWS, learn)
