"""The runtime: everything a device needs to train an artefact, and nothing more.

It imports numpy, pydantic, safetensors, and on loading an artefact the runtime of its target; torch
only for artefacts of the torch target.
"""

from ..errors import ArtifactError, BatchError, NonFiniteLoss, PockError
from .manifest import Manifest
from .runner import Runner, register_target
from .trainer import Evaluation, StepResult, Trainer

__all__ = [
    "ArtifactError",
    "BatchError",
    "Evaluation",
    "Manifest",
    "NonFiniteLoss",
    "PockError",
    "Runner",
    "StepResult",
    "Trainer",
    "register_target",
]
