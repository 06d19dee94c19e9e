"""Single steps and evaluations of a compiled artefact by its own runtime, each from a state that is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BatchError, ParityError, reason
from ..prng import step_keys
from ..runtime import checkpoint
from ..runtime.manifest import Manifest
from ..runtime.result_marks import failed_check
from ..runtime.runner import Runner, open_runner
from ..task.batch import Batch

DEVICE = "CPU"


@dataclass(frozen=True)
class StepResult:
    """One step: its learning rate, the state that it was given and the one that it left, by slot name."""

    lr: float
    start: dict[str, Tensor]
    loss: float
    state: dict[str, Tensor]


class ArtefactRuns:
    """Runs an artefact on one batch.

    Args:
        folder: of the artefact; its manifest need not be written yet.
        seed: of dropout's masks.

    Raises:
        ParityError: it cannot be run here; `step`, `evaluate` and `predict`, too.
    """

    def __init__(self, folder: Path, manifest: Manifest, batch: Batch, seed: int) -> None:
        self._manifest, self._seed = manifest, seed
        self._arrays = self._fed(batch)
        try:
            self._runner: Runner = open_runner(folder, manifest, DEVICE, None)
            self._initial = checkpoint.initial_state(folder, manifest)
        except Exception as e:  # whatever the runtime, or a compiler that it calls, raises
            raise self._not_run("step", e) from e

    def step(self, lr: float, start: Mapping[str, Tensor]) -> StepResult:
        """One step.

        Args:
            start: state slot name -> value to begin with, instead of the artefact's own.

        Raises:
            BatchError: the batch holds an index that is out of bounds, or is made into one.
        """
        draws = any(s.role == "seed" for s in self._manifest.train.inputs)
        try:
            self._put(start)
            loss = self._runner.step(self._arrays, lr, *((step_keys(self._seed, 0),) if draws else ()))
            state = {name: torch.from_numpy(a) for name, a in self._runner.read_state().items()}
        except Exception as e:
            raise self._not_run("step", e) from e
        self._refuse_marks(loss, self._manifest.train_guards, self._manifest.train_integers)
        return StepResult(lr, dict(start), loss, state)

    def evaluate(self, start: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The metric of each sample of a batch.

        Args:
            start: as for `step`.

        Raises:
            BatchError: as `step`.
        """
        try:
            self._put(start)
            found = torch.from_numpy(self._runner.evaluate(self._fed(batch)))
        except Exception as e:
            raise self._not_run("metric", e) from e
        self._refuse_marks(found.numpy(), self._manifest.eval_guards, self._manifest.eval_integers)
        return found

    def predict(self, start: Mapping[str, Tensor], stem: str, batch: Batch) -> dict[str, Tensor]:
        """The outputs for a batch, by slot name.

        Args:
            start: as for `step`.
            stem: of the batch size.

        Raises:
            BatchError: as `step`.
        """
        spec = next(p for p in self._manifest.predict if p.stem == stem)
        try:
            self._put(start)
            found = self._runner.predict(spec, {n: batch[n].numpy(force=True) for n in spec.batch})
        except Exception as e:
            raise self._not_run("prediction", e) from e
        self._refuse_marks(found[spec.graph.outputs[0].name], spec.guards, spec.integers)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def _fed(self, batch: Batch) -> dict[str, np.ndarray]:
        return {name: batch[name].numpy(force=True) for name in self._manifest.batch}

    def _put(self, start: Mapping[str, Tensor]) -> None:
        given = {name: start[name].numpy(force=True) for name in self._initial if name in start}
        self._runner.write_state({**self._initial, **given})

    def _refuse_marks(self, result: Any, guards: tuple[str, ...], integers: tuple[str, ...]) -> None:
        if wrong := failed_check(result, guards, integers, True):
            raise BatchError(f"With the first training batch of task {self._manifest.task!r} {wrong}")

    def _not_run(self, what: str, error: Exception) -> ParityError:
        return ParityError(
            f"The compiled {what} of task {self._manifest.task!r} cannot be run here, so its agreement with "
            f"PyTorch cannot be measured: {reason(error)}. Compile where the target's runtime works, or pass "
            "parity=False (--no-parity) to write it without a record."
        )
