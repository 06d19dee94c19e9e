"""What every target's runner must do: cases by subject, which a test class per target inherits.

What only one runner does is tested in its own file.
"""

from .base import same
from .batches import Batches
from .checkpoints import Checkpoints
from .divergence import Divergence
from .evaluation import Evaluation
from .folders import Folders
from .predictions import Predictions
from .state import State
from .steps import Steps

__all__ = ["RunnerContract", "same"]


class RunnerContract(Steps, Batches, Evaluation, Predictions, State, Divergence, Checkpoints, Folders):
    pass
