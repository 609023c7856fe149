"""LightningModules that can say what strategies ask. Exported here is registered under its name."""

from deepal.modules.adapter import Adapter, Voice
from deepal.modules.classifier import Classifier

__all__ = ["Adapter", "Classifier", "Voice"]
