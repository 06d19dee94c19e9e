"""The runtime: everything a device needs to train an artefact, to predict with it, and to keep learning.

Not here: compiling, and torch. The runners that need torch stand with their targets, and are imported when
such an artefact is loaded. Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "ArtifactError": "..errors",
    "BatchError": "..errors",
    "Evaluation": ".trainer",
    "Learner": ".learner.learner",
    "LearnerBudget": ".learner.budget",
    "LearnerError": "..errors",
    "LearnerSettings": ".learner.settings",
    "Manifest": ".manifest",
    "NonFiniteLoss": "..errors",
    "PockError": "..errors",
    "Predictor": ".predictor",
    "Runner": ".runner",
    "StepResult": ".trainer",
    "Trainer": ".trainer",
    "register_target": ".runner",
}
__all__ = [
    "ArtifactError",
    "BatchError",
    "Evaluation",
    "Learner",
    "LearnerBudget",
    "LearnerError",
    "LearnerSettings",
    "Manifest",
    "NonFiniteLoss",
    "PockError",
    "Predictor",
    "Runner",
    "StepResult",
    "Trainer",
    "register_target",
]

if TYPE_CHECKING:
    from ..errors import ArtifactError, BatchError, LearnerError, NonFiniteLoss, PockError
    from .learner.budget import LearnerBudget
    from .learner.learner import Learner
    from .learner.settings import LearnerSettings
    from .manifest import Manifest
    from .predictor import Predictor
    from .results import Evaluation, StepResult
    from .runner import Runner, register_target
    from .trainer import Trainer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pockgraph.runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
