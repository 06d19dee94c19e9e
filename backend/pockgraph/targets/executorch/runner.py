"""Runs artefacts of the ExecuTorch target, with ExecuTorch's Python package, which needs torch.

A step takes the state as tensors and gives the next one, in memory of its own; the one before is kept
until the next step, so that a step can be undone. Evaluation is a program of its own, loaded on first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from ...errors import ArtifactError
from ...ir.slot_names import Role
from ...runtime.artifact_files import require_unchanged
from ...runtime.finite_check import nonfinite
from ...runtime.graph_specs import GraphSpec, PredictionSpec
from ...runtime.manifest import Manifest
from .library import require_installed, runtime, set_threads
from .program import Program, running

_GIVEN = (Role.BATCH, Role.LR, Role.SEED)


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> ExecuTorchRunner:
    """See `runner.open_runner`; `threads` holds for all programs of this process."""
    _prepare(device, threads)
    return ExecuTorchRunner(folder, manifest)


def open_predictor(folder: Path, manifest: Manifest, device: str, threads: int | None) -> ExecuTorchForward:
    """See `runner.open_predictor`; as `open_runner`."""
    _prepare(device, threads)
    return ExecuTorchForward(folder, manifest, {})


def _prepare(device: str, threads: int | None) -> None:
    require_installed(ArtifactError)
    if device.upper() != "CPU":
        raise ArtifactError(
            f"ExecuTorch has no device {device!r} here; this target's programs run on 'CPU'. Name that one."
        )
    runtime()
    if threads is not None:
        with running:
            set_threads(threads)


class ExecuTorchForward:
    """A `PredictionRunner` in ExecuTorch; programs are loaded on first use.

    Args:
        values: state by slot name.
    """

    def __init__(self, folder: Path, manifest: Manifest, values: dict[str, torch.Tensor]) -> None:
        self._folder, self._manifest, self._values = folder, manifest, values
        self._programs: dict[str, Program] = {}

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._forward(prediction.stem, prediction.graph, batch)

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._values[name] = torch.from_numpy(np.array(value))

    def _forward(self, stem: str, spec: GraphSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if stem not in self._programs:
            self._programs[stem] = self._program(stem, spec)
        results = self._programs[stem]([*self._arguments(_given(spec), batch, {})])
        return {s.name: r.numpy().copy() for s, r in zip(spec.outputs, results)}

    def _program(self, stem: str, spec: GraphSpec) -> Program:
        path = self._folder / f"{stem}.pte"
        require_unchanged(self._folder, self._manifest, path.name)
        program = Program(path)
        shapes = [s for _, s in _given(spec)], [tuple(s.shape) for s in spec.outputs]
        if (program.takes, program.gives) != shapes:
            raise ArtifactError(
                f"{path} and the manifest have different inputs or outputs. Compile it again."
            )
        return program

    def _arguments(
        self,
        inputs: Iterable[tuple[str, tuple[int, ...]]],
        batch: Mapping[str, np.ndarray],
        given: Mapping[str, torch.Tensor],
    ) -> Iterable[torch.Tensor]:
        for name, _ in inputs:
            entry = name.removeprefix("batch:")
            if entry != name:
                yield _tensor(batch[entry])
            else:
                yield given[name] if name in given else self._values[name]


class ExecuTorchRunner(ExecuTorchForward):
    """A `Runner` in ExecuTorch."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest, {})
        spec = manifest.train
        self._step = self._program("train", spec)
        self._inputs = _given(spec)
        self._loss = next(i for i, s in enumerate(spec.outputs) if s.role == Role.LOSS)
        place = {s.name: i for i, s in enumerate(spec.outputs)}
        self._next = {s.name: place[s.next_name] for s in manifest.changing_state}
        for s in spec.state:  # until `write_state`
            self._values[s.name] = torch.zeros(s.shape, dtype=getattr(torch, s.dtype))
        self._before: dict[str, torch.Tensor] = {}
        self._checked = manifest.checked_state

    def step(self, batch: Mapping[str, np.ndarray], lr: float, keys: np.ndarray | None = None) -> float:
        given = {"lr": torch.tensor(lr)}
        if keys is not None:
            given["seed"] = _tensor(keys)
        self._before = {}  # frees what the step before the last one left
        before = {name: self._values[name] for name in self._next}
        results = self._step([*self._arguments(self._inputs, batch, given)])
        self._values.update({name: results[i] for name, i in self._next.items()})
        self._before = before
        return float(results[self._loss])

    def nonfinite(self) -> list[str]:
        return nonfinite({n: self._values[n].reshape(-1).numpy() for n in self._checked})

    def undo(self) -> None:
        self._values.update(self._before)

    def evaluate(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._forward("eval", self._manifest.eval, batch)["metric"]

    def read_state(self) -> dict[str, np.ndarray]:
        return {n: value.numpy().copy() for n, value in self._values.items()}


def _given(spec: GraphSpec) -> list[tuple[str, tuple[int, ...]]]:
    """What a program is given, in its order: names and shapes. All else is in its file."""
    return [(s.name, tuple(s.shape)) for s in spec.inputs if s.is_state or s.role in _GIVEN]


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's memory, or over a copy when that is read-only or strided."""
    whole = np.ascontiguousarray(array).reshape(array.shape)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())
