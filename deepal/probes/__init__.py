"""Probes say of a module what it cannot say itself."""

from deepal.probes.base import Probe
from deepal.probes.dropout import MCDropout
from deepal.probes.posterior import Posterior

__all__ = ["MCDropout", "Posterior", "Probe"]
