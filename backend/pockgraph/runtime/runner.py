"""What runs the graphs of an artefact: one small interface, one module per target.

A module for a target offers `open_runner(folder, manifest, device, threads) -> Runner` and, with the same
arguments, `open_predictor`, whose `PredictionRunner` needs neither the training step nor its state. It is
imported when an artefact of that target is loaded, so that a device needs one runtime only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import ArtifactError, PockError, reason, require, suggest
from .graph_specs import PredictionSpec
from .manifest import Manifest

_MODULES = {
    "openvino": "pockgraph.runtime.openvino",
    "onnx": "pockgraph.runtime.onnx",
    "torch": "pockgraph.targets.torch.runner",
    "executorch": "pockgraph.targets.executorch.runner",
}


class PredictionRunner(Protocol):
    """Predicts with the state that it is given, on one device.

    Batches arrive checked: name -> array of exactly the manifest's shape and dtype. State goes by
    slot name (`trained:conv.weight`, `opt_state:conv.weight:momentum_buffer`).
    """

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for a batch of one compiled size, by slot name, as arrays of the caller's own."""
        ...

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        """Set state slots; arrays have the slots' shapes and dtypes. Those that no prediction reads may be
        left out."""
        ...


class Runner(PredictionRunner, Protocol):
    """Holds the state of one artefact on one device, and trains it."""

    def step(self, batch: Mapping[str, np.ndarray], lr: float, keys: np.ndarray | None = None) -> float:
        """One update; returns the loss before it. `keys`: the `seed` input, for graphs that have one."""
        ...

    def nonfinite(self) -> list[str]:
        """The state slots of `Manifest.checked_state` that the last step left NaN or infinite values in."""
        ...

    def undo(self) -> None:
        """Put every state slot back, to the bit, to what it was before the last step; once a step."""
        ...

    def evaluate(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """The metric `[N]` of each sample with the current weights."""
        ...

    def read_state(self) -> dict[str, np.ndarray]:
        """A copy of every state slot."""
        ...

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        """Set some or all state slots; arrays have the slots' shapes and dtypes."""
        ...


def register_target(target: str, module: str) -> None:
    """Let `module` (a dotted path) run the artefacts of `target`.

    Raises:
        ArtifactError: one of them is no text.
    """
    require(ArtifactError, "target", target, str, "Pass the target's name.")
    require(ArtifactError, "module", module, str, "Pass a dotted path, such as 'my_package.my_runner'.")
    _MODULES[target] = module


def require_runnable(target: str, what: str) -> None:
    """
    Args:
        what: made for the target, as the beginning of a sentence.

    Raises:
        ArtifactError: nothing runs this target (with suggestions).
    """
    if target not in _MODULES:
        known = ", ".join(map(repr, _MODULES))
        raise ArtifactError(
            f"{what} for target {target!r}, which this version cannot run.{suggest(target, _MODULES)} It "
            f"runs {known}."
        )


def import_runtime(folder: Path, target: str) -> Any:
    """The module that runs a target's artefacts, with the libraries that it needs.

    Raises:
        ArtifactError: nothing runs this target, or its runtime is not installed.
    """
    require_runnable(target, f"{folder} was compiled")
    try:
        return importlib.import_module(_MODULES[target])
    except ModuleNotFoundError as e:
        raise ArtifactError(
            f"{folder} was compiled for target {target!r}, which needs the Python package "
            f"{e.name!r}. Install it, or compile for another target."
        ) from e


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> Runner:
    """The runner of a verified artefact.

    Raises:
        ArtifactError: nothing runs this target, its runtime is not installed, or it has no such device.
    """
    module = import_runtime(folder, manifest.target)
    with explained(folder, device):
        return module.open_runner(folder, manifest, device, threads)


def open_predictor(
    folder: Path, manifest: Manifest, device: str, threads: int | None, constant_weights: bool = False
) -> PredictionRunner:
    """What predicts with an artefact, whose files are checked when they are opened.

    Args:
        constant_weights: compile the state in; a module that can has an `open_constant_predictor`.

    Raises:
        ArtifactError: as `open_runner`; or the target cannot compile the state in.
    """
    module = import_runtime(folder, manifest.target)
    name = "open_constant_predictor" if constant_weights else "open_predictor"
    if not hasattr(module, name):
        raise ArtifactError(
            f"{folder} was compiled for target {manifest.target!r}, which does not compile trained weights "
            "in. Leave constant_weights out, or compile it for 'openvino' or 'onnx'."
        )
    with explained(folder, device):
        return getattr(module, name)(folder, manifest, device, threads)


@contextmanager
def explained(folder: Path, device: str) -> Iterator[None]:
    """What a runtime says of an artefact, in words that say which artefact.

    Raises:
        ArtifactError: for any error that is not this project's own.
    """
    try:
        yield
    except PockError:
        raise
    except Exception as e:  # runtimes have no base class for theirs
        said = reason(e)
        if isinstance(e, MemoryError) or "memory" in said:
            remedy = "End what else takes memory, or compile a plan with a smaller peak or a smaller batch."
        else:
            remedy = "Copy the folder again, or compile it again with this version."
        raise ArtifactError(f"{folder} cannot be run on {device!r}: {said}. {remedy}") from e
