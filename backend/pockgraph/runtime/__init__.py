"""The runtime: everything a device needs to train an artefact, and to predict with it.

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
    from ..errors import ArtifactError, BatchError, NonFiniteLoss, PockError
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
