"""Predictor: answers with the weights that an artefact or a checkpoint holds. No training step is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, require
from ..files import resolved
from . import checkpoint as checkpoints
from .artifact_files import STATE, read_manifest, require_unchanged
from .forward_passes import predicted, require_predictions
from .graph_specs import PredictionSpec
from .manifest import Manifest
from .options import checked_threads, require_allowed
from .ownership import Owned, exclusive
from .runner import PredictionRunner, explained, open_predictor


class Predictor(Owned):
    """Predicts with one artefact on one device. Make one with `Predictor.load`.

    It answers as a Trainer of the same artefact does with the same state, to the bit (but for
    `constant_weights`, see `load`). Threads may share one;
    `close`, or a `with` block, frees the device.

    Attributes:
        folder: the artefact.
        device: where it runs, as given to `load`.
        manifest: what it holds.

    Example:
        >>> predictor = Predictor.load("out/", "out.ckpt")
        >>> predictor.predict({"x": x})
    """

    def __init__(self, folder: Path, manifest: Manifest, runner: PredictionRunner, device: str) -> None:
        super().__init__()
        self.folder, self.manifest, self.device = folder, manifest, device
        self._runner = runner
        self._read = {s.name for p in manifest.predict for s in p.graph.state}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "CPU",
        threads: int | None = None,
        *,
        allow_native_code: bool = False,
        constant_weights: bool = False,
    ) -> Predictor:
        """Put the weights of an artefact, or of a checkpoint, on `device`.

        Files of the training step are not read. Each batch size is compiled when it is first needed.

        Args:
            checkpoint: what `Trainer.save` wrote; None takes the artefact's initial weights.
            device, threads, allow_native_code: as for `Trainer.load`.
            constant_weights: compile the weights in, as those of a network that does not learn: as fast as
                that, and the answers differ from a Trainer's by rounding. Another checkpoint is compiled
                anew. On OpenVINO and ONNX; other targets refuse it.

        Raises:
            ArtifactError: no artefact, one without a prediction, a damaged file (named), nothing here can run
                it, or the checkpoint is not this artefact's.
        """
        folder = resolved(path)
        require(ArtifactError, "device", device, str, "Pass a name such as 'CPU'.")
        manifest = read_manifest(folder)
        require_predictions(folder, manifest)
        require_allowed(folder, manifest, allow_native_code)
        require_unchanged(folder, manifest, *_files(manifest))
        require(ArtifactError, "constant_weights", constant_weights, bool, "Pass True or False.")
        runner = open_predictor(folder, manifest, device, checked_threads(threads), constant_weights)
        predictor = cls(folder, manifest, runner, device)
        if checkpoint is None:
            predictor.reset()
        else:
            predictor.load_checkpoint(checkpoint)
        return predictor

    @exclusive
    def predict(self, batch: Any) -> np.ndarray | dict[str, np.ndarray]:
        """What the task predicts of a batch; see `Trainer.predict`.

        Raises:
            BatchError: the batch does not fit.
        """

        def run(prediction: PredictionSpec, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            with explained(self.folder, self.device):
                return self._runner.predict(prediction, arrays)

        return predicted(self.manifest, batch, run)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Answer with the weights of a checkpoint from here on.

        Raises:
            ArtifactError: missing, damaged, or made for another artefact; the weights stay as they were.
        """
        self._set(checkpoints.load_checkpoint(resolved(path), self.manifest).state)

    def reset(self) -> None:
        """Answer with the artefact's initial weights from here on.

        Raises:
            ArtifactError: its files changed since it was loaded.
        """
        initial = checkpoints.initial_state(self.folder, self.manifest)
        self._set({name: initial[name] for name in initial if name in self._read})

    @exclusive
    def _set(self, state: dict[str, np.ndarray]) -> None:
        with explained(self.folder, self.device):
            self._runner.write_state({n: a for n, a in state.items() if n in self._read})


def _files(manifest: Manifest) -> list[str]:
    """The files of an artefact that a prediction is made from, but for constants that graphs share."""
    stems = {p.stem for p in manifest.predict}
    return [STATE, *(n for n in manifest.files if n.partition(".")[0] in stems)]
