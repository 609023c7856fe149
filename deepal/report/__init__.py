"""What people look at: the display, the curve, the dashboards. Watchers of a run, one an interest."""

from deepal.report.board import Board
from deepal.report.curve import Curve
from deepal.report.display import Display
from deepal.report.forgetting import ForgettingPictures
from deepal.report.queries import QueryPictures
from deepal.report.reconstructions import Reconstructions
from deepal.report.saved_config import SavedConfig
from deepal.report.tracking import TensorBoard, Tracker, WeightsAndBiases
from deepal.report.uncertainty import UncertaintyMap

__all__ = [
    "Board",
    "Curve",
    "Display",
    "ForgettingPictures",
    "QueryPictures",
    "Reconstructions",
    "SavedConfig",
    "TensorBoard",
    "Tracker",
    "UncertaintyMap",
    "WeightsAndBiases",
]
