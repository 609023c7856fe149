"""Query strategies. Exported here is registered: the command line and the contract test find a strategy by its name."""

from deepal.strategies.base import Acquisition, Choice, Composed, QueryStrategy, View, choose
from deepal.strategies.bayesian import (
    BALD,
    EPIG,
    BatchBALD,
    ConsensusKL,
    MeanSTD,
    PredictiveEntropy,
    VariationRatio,
    VoteEntropy,
)
from deepal.strategies.clusters import ClusterMargin, Typicality, TypiClust, WeightedKMeans
from deepal.strategies.combined import Balanced, Mixture, Partition, Schedule, Split
from deepal.strategies.contrast import CAL
from deepal.strategies.cover import DCoM, FacilityLocation, MaxHerding, ProbCover, UHerding
from deepal.strategies.diversity import CoreSet, KMeans, RobustCoreSet
from deepal.strategies.dynamics import LabelDispersion, PredictionFlips
from deepal.strategies.gradient import BADGE, BAIT, EGL
from deepal.strategies.hybrid import ComparedBy, PerGroup, Prefilter, Projected, Stochastic
from deepal.strategies.learned import PredictedLoss, UnlabeledEntropy, Unlabeledness
from deepal.strategies.mixing import ALFAMix, DropQuery
from deepal.strategies.passive import Random
from deepal.strategies.pseudo_labels import PseudoLabels
from deepal.strategies.uncertainty import Entropy, LeastConfidence, Margin

__all__ = [
    "BADGE",
    "BAIT",
    "BALD",
    "CAL",
    "EGL",
    "EPIG",
    "ALFAMix",
    "Acquisition",
    "Balanced",
    "BatchBALD",
    "Choice",
    "ClusterMargin",
    "ComparedBy",
    "Composed",
    "ConsensusKL",
    "CoreSet",
    "DCoM",
    "DropQuery",
    "Entropy",
    "FacilityLocation",
    "KMeans",
    "LabelDispersion",
    "LeastConfidence",
    "Margin",
    "MaxHerding",
    "MeanSTD",
    "Mixture",
    "Partition",
    "PerGroup",
    "PredictedLoss",
    "PredictionFlips",
    "PredictiveEntropy",
    "Prefilter",
    "ProbCover",
    "Projected",
    "PseudoLabels",
    "QueryStrategy",
    "Random",
    "RobustCoreSet",
    "Schedule",
    "Split",
    "Stochastic",
    "TypiClust",
    "Typicality",
    "UHerding",
    "UnlabeledEntropy",
    "Unlabeledness",
    "VariationRatio",
    "View",
    "VoteEntropy",
    "WeightedKMeans",
    "choose",
]
