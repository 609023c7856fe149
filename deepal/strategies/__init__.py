"""Query strategies. Exported here is registered: the command line and the contract test find a strategy by its name."""

from deepal.strategies.base import Acquisition, Choice, QueryStrategy, View
from deepal.strategies.diversity import CoreSet, KMeans
from deepal.strategies.gradient import BADGE
from deepal.strategies.hybrid import PerGroup, Prefilter
from deepal.strategies.passive import Random
from deepal.strategies.uncertainty import Entropy, LeastConfidence, Margin

__all__ = [
    "BADGE",
    "Acquisition",
    "Choice",
    "CoreSet",
    "Entropy",
    "KMeans",
    "LeastConfidence",
    "Margin",
    "PerGroup",
    "Prefilter",
    "QueryStrategy",
    "Random",
    "View",
]
