"""LightningModules that can say what strategies ask. Exported here is registered under its name."""

from deepal.modules.adapter import Adapter, Voice
from deepal.modules.classifier import Classifier
from deepal.modules.ensemble import Committee, Ensemble, SharedBackbone, Snapshot, SplitHead
from deepal.modules.loss_prediction import LossPrediction
from deepal.modules.mal import MAL
from deepal.modules.self_supervised import Rotation, SimCLR
from deepal.modules.semi_supervised import FixMatch, FlexMatch, MeanTeacher, PseudoLabel, SemiSupervised
from deepal.modules.vaal import VAAL

__all__ = [
    "MAL",
    "VAAL",
    "Adapter",
    "Classifier",
    "Committee",
    "Ensemble",
    "FixMatch",
    "FlexMatch",
    "LossPrediction",
    "MeanTeacher",
    "PseudoLabel",
    "Rotation",
    "SemiSupervised",
    "SharedBackbone",
    "SimCLR",
    "Snapshot",
    "SplitHead",
    "Voice",
]
