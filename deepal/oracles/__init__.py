"""Who answers: the data set (a simulation, with or without noise), or people."""

from deepal.oracles.base import Answer, Oracle, Question
from deepal.oracles.people import FileOracle
from deepal.oracles.simulated import DatasetOracle, NoisyOracle

__all__ = ["Answer", "DatasetOracle", "FileOracle", "NoisyOracle", "Oracle", "Question"]
