"""Probes say of a module what it cannot say itself."""

from deepal.probes.base import Probe
from deepal.probes.dropout import MCDropout
from deepal.probes.feature_dropout import FeatureDropout
from deepal.probes.gradient_length import GradientLength
from deepal.probes.laplace import Laplace
from deepal.probes.posterior import Posterior

__all__ = ["FeatureDropout", "GradientLength", "Laplace", "MCDropout", "Posterior", "Probe"]
