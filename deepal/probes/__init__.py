"""Probes say of a module what it cannot say itself."""

from deepal.probes.base import Probe

__all__ = ["Probe"]
