"""Trainer: a training step on a device. It holds the weights; everything else is a value."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, BatchError, NonFiniteBatch, NonFiniteLoss, listing, require
from ..files import resolved
from ..ir.slot_names import Role
from ..plan import Plan
from ..prng import step_keys
from . import checkpoint
from .artifact_files import read_manifest, read_plan, verify_files
from .batch import check_finite, fit_batch, learning_rate
from .batch_limits import check_limits
from .finite_check import is_finite
from .forward_passes import evaluated, predicted, require_predictions
from .graph_specs import PredictionSpec
from .last_used import note_last_checkpoint, note_loaded
from .manifest import Manifest
from .options import OnNonfinite, checked_policy, checked_seed, checked_threads, require_allowed
from .ownership import Owned, exclusive
from .result_marks import failed_check
from .results import Evaluation, StepResult
from .runner import Runner, explained, open_runner
from .trained_parts import given_state, whole_tensors


class Trainer(Owned):
    """Trains one artefact on one device. Make one with `Trainer.load`.

    Threads may share one: each call sees, and leaves, the state between two steps, and the others wait. A
    process forked from the one that loaded it gets an error. `close`, or a `with` block, frees the device.

    Attributes:
        folder: the artefact.
        device: where it runs, as given to `load`.
        manifest, plan: what it holds.
        steps: steps taken since the initial weights, those before a loaded checkpoint included.
        seed: with the number of the step, what decides dropout's masks.
        on_nonfinite: what to do about a step that is not finite, see `load`.
        skipped: how many steps were skipped for that since the trainer was loaded or reset.

    Example:
        >>> trainer = Trainer.load("out/")
        >>> trainer.step({"x": x, "y": y}, lr=1e-2).loss
        >>> trainer.evaluate([{"x": x, "y": y}]).metric
        >>> trainer.save("out.ckpt")
    """

    def __init__(self, folder: Path, manifest: Manifest, plan: Plan, runner: Runner, device: str) -> None:
        super().__init__()
        self.folder = folder
        self.device = device
        self.manifest = manifest
        self.plan = plan
        self.steps = 0
        self.seed = 0
        self.on_nonfinite: OnNonfinite = "error"
        self.skipped = 0
        self._runner = runner
        self._draws = any(s.role == Role.SEED for s in manifest.train.inputs)
        self._changed = False
        self._last_loss: float | None = None
        self._interrupted_at: int | None = None
        self._save_lock = threading.RLock()  # a signal's handler may save, too

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str = "CPU",
        threads: int | None = None,
        *,
        seed: int = 0,
        allow_native_code: bool = False,
        on_nonfinite: OnNonfinite = "error",
    ) -> Trainer:
        """Check an artefact's files and put its initial weights on `device`.

        Args:
            device: what the target's runtime calls it: OpenVINO's `"CPU"`, `"GPU"`, `"AUTO:GPU,CPU"`, …;
                PyTorch's `"cpu"`, `"cuda:0"`, `"mps"`.
            threads: CPU threads; None leaves the number to the runtime.
            seed: of dropout; the same seed gives the same masks on every target.
            allow_native_code: run the machine code that an artefact holds (the torch target's mode
                `"aot"`). It may do whatever you may: allow it for artefacts whose author you trust.
            on_nonfinite: of a step whose batch, loss or update is NaN or infinite nothing reaches the
                weights, the optimizer's state, or any other; `"error"` raises, `"skip"` goes on with the
                next batch and says so in the `StepResult`.

        Raises:
            BatchError: `on_nonfinite` is neither.
            ArtifactError: no artefact, a damaged file (named), nothing here can run it, it holds native
                code that was not allowed, or the device would lose precision.
        """
        folder = resolved(path)
        require(ArtifactError, "device", device, str, "Pass a name such as 'CPU'.")
        manifest = read_manifest(folder)
        require_allowed(folder, manifest, allow_native_code)
        verify_files(folder, manifest)
        threads = checked_threads(threads)
        seed, on_nonfinite = checked_seed(seed), checked_policy(on_nonfinite)  # before the runtime compiles
        plan = read_plan(folder)
        checkpoint.check_state(folder, manifest, plan)
        trainer = cls(folder, manifest, plan, open_runner(folder, manifest, device, threads), device)
        trainer.on_nonfinite = on_nonfinite
        with explained(folder, device):
            trainer.reset(seed=seed)
        trainer._changed = False
        note_loaded(folder, trainer)
        return trainer

    @property
    def changed(self) -> bool:
        """Whether the weights were trained or set since they were loaded."""
        return self._changed

    # ---------------------------------------------------------------- training

    @exclusive
    def step(
        self, batch: Any, lr: float | None = None, *, on_nonfinite: OnNonfinite | None = None
    ) -> StepResult:
        """One step on one batch: an update, or with the optimizer's `accumulate=n` the n-th part of one.

        A step that is not finite leaves all state as it was, to the bit. Where that raises, the step was
        not taken; where it is skipped, it counts: the next step has the next number and dropout's next
        masks, and the optimizer's own counters stand still.

        Args:
            batch: name -> array, or a tuple (names `0`, `1`, …), of the manifest's shapes and dtypes.
            lr: the learning rate; None takes the optimizer's.
            on_nonfinite: `"error"` or `"skip"` for this step; None takes the trainer's, see `load`.

        Raises:
            BatchError: the batch does not fit, an index that the step computes is out of bounds, or `lr` is
                not a finite number ≥ 0; `NonFiniteBatch`, a kind of it: the batch holds NaN or infinite
                values.
            NonFiniteLoss: the loss, or a weight or state after the update, is NaN or infinite.
        """
        start = time.perf_counter()
        rate = learning_rate(self.manifest.optimizer.get("lr") if lr is None else lr)
        policy = self.on_nonfinite if on_nonfinite is None else checked_policy(on_nonfinite)
        try:
            loss = self._step(batch, rate)
            skipped = False
        except (NonFiniteBatch, NonFiniteLoss) as e:
            if policy == "error":
                raise
            loss = e.loss if isinstance(e, NonFiniteLoss) else math.nan
            self.skipped += 1
            skipped = True
        else:
            self._last_loss = loss
        self.steps += 1
        return StepResult(loss, self.steps, (time.perf_counter() - start) * 1e3, skipped)

    def _step(self, batch: Any, rate: float) -> float:
        """The loss of a step that was taken, or the error of one that was undone."""
        arrays = fit_batch(self.manifest.batch, batch, self.manifest.task)
        check_limits(arrays, self.manifest.train_limits, self.manifest.task)
        check_finite(arrays, batch, self.manifest.nonfinite_entries, self.manifest.task)
        keys = (step_keys(self.seed, self.steps),) if self._draws else ()
        self._require_whole("No step was taken")
        changed, self._changed = self._changed, True
        self._interrupted_at = self.steps + 1
        with explained(self.folder, self.device):
            loss = self._runner.step(arrays, rate, *keys)
            bad = self._runner.nonfinite() if math.isfinite(loss) else []
        wrong = failed_check(
            loss, self.manifest.train_guards, self.manifest.train_integers, self.manifest.numbered_guards
        )
        if math.isfinite(loss) and not bad and not wrong:
            self._interrupted_at = None
            return loss
        self._runner.undo()
        self._changed, self._interrupted_at = changed, None
        if wrong:
            raise BatchError(
                f"In step {self.steps + 1} {wrong} The step was undone: weights and optimizer are as they "
                "were before it."
            )
        what = f"the update would leave NaN or infinite values in {listing(bad)}" if bad else (
            f"the loss became {loss}"
        )  # fmt: skip
        before = "the first" if self._last_loss is None else f"before: {self._last_loss:.6g}"
        raise NonFiniteLoss(
            f"In step {self.steps + 1} (lr {rate:g}; loss {loss:.6g}, {before}) {what}. The step was undone: "
            "weights and optimizer are as they were before it. Look at this batch or use a lower lr, or pass "
            'on_nonfinite="skip" to leave such steps out.',
            loss,
        )

    @exclusive
    def evaluate(self, batches: Iterable[Any]) -> Evaluation:
        """The metric over an iterable of batches, with the current weights, or with their average where the
        optimizer keeps one (`ema_decay`).

        A batch of fewer samples than the compiled one (the ragged last) is padded and its values are cut,
        unless the metric makes a sample's value of others of its batch.

        Raises:
            BatchError: there is no batch, or one does not fit; or an index that is computed is out of bounds.
        """
        if isinstance(batches, Mapping):
            raise BatchError("evaluate() takes an iterable of batches, and this is one batch: pass [batch].")
        require(BatchError, "batches", batches, Iterable, "Pass a list of batches.")
        self._require_whole("Nothing was evaluated")

        def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
            with explained(self.folder, self.device):
                return self._runner.evaluate(arrays)

        return evaluated(self.manifest, batches, run)

    @exclusive
    def predict(self, batch: Any) -> np.ndarray | dict[str, np.ndarray]:
        """What the task predicts of a batch, with the current weights (or their average, as for `evaluate`).

        A batch of any number of samples is taken, where the outputs have a row for each: it is split and
        padded to the batch sizes that were compiled, on which the last bits of a row may depend.
        Entries of a training batch that the prediction does not read may be there or not.

        Returns:
            The one array, or name -> array where the task's `predict` gives a dict.

        Raises:
            ArtifactError: the artefact has no prediction.
            BatchError: as `step` says of a batch.
        """
        require_predictions(self.folder, self.manifest)
        self._require_whole("Nothing was predicted")

        def run(prediction: PredictionSpec, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            with explained(self.folder, self.device):
                return self._runner.predict(prediction, arrays)

        return predicted(self.manifest, batch, run)

    # ---------------------------------------------------------------- weights

    @exclusive
    def state(self, *, averaged: bool = False) -> dict[str, np.ndarray]:
        """FQN -> a copy of each trained tensor in its full shape, frozen channels included.

        With them the buffers that a step changes, such as running statistics.

        Args:
            averaged: the averages over training (the optimizer's `ema_decay`), which evaluation and
                `export` use where they are kept, instead of the weights that the last step left.

        Raises:
            ArtifactError: this artefact keeps no averages.
        """
        if averaged and not self.manifest.averaged:
            raise ArtifactError(
                f"{self.folder} keeps no average of its weights. Compile it with an optimizer that has "
                "ema_decay, or leave averaged out."
            )
        self._require_whole("There is no state to read")
        return whole_tensors(self.folder, self.manifest, self._runner.read_state(), averaged)

    @exclusive
    def set_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Set trained tensors, given in their full shape. The optimizer's state stays, except that an
        average of weights begins anew with the given ones.

        Raises:
            ArtifactError: a name that is not trained (with suggestions), another shape, values that are
                not finite, or other values in the channels that the plan freezes; nothing is set then.
        """
        require(ArtifactError, "tensors", tensors, Mapping, "Pass arrays by name, as `state()` returns them.")
        values = given_state(self.folder, self.manifest, self.plan, tensors)
        self._require_whole("Nothing was set")
        self._interrupted_at = self.steps
        self._runner.write_state(values)
        self._interrupted_at = None
        self._changed = True

    @exclusive
    def reset(self, state: Mapping[str, np.ndarray] | None = None, *, seed: int | None = None) -> None:
        """Back to step 0: the artefact's initial weights, optimizer state and running statistics.

        Args:
            state: tensors to set afterwards, as `set_state` takes them (a new head for another seed).
            seed: of dropout from here on; None keeps the present one.

        Raises:
            ArtifactError: `seed` is no integer; as `set_state`.
        """
        require(ArtifactError, "state", state or {}, Mapping, "Pass arrays by name, or leave it out.")
        seed = self.seed if seed is None else checked_seed(seed)
        initial = checkpoint.initial_state(self.folder, self.manifest)
        self._interrupted_at = self.steps
        self._runner.write_state(initial)
        self._restart(0, seed)
        if state:
            self.set_state(state)

    def _restart(self, steps: int, seed: int) -> None:
        self.steps, self.seed = steps, seed
        self._changed = True
        self._last_loss = None
        self._interrupted_at = None
        self.skipped = 0

    # ---------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str], *, note: bool = True) -> Path:
        """Write a checkpoint (one safetensors file): all state, the step, and dropout's seed.

        Other threads may step while it is written; of several that save, the latest state is kept.

        Args:
            note: keep in the artefact's folder that this checkpoint is the last one, for who names none.

        Raises:
            NonFiniteLoss: the state came with NaN or infinite values; an older file at `path` is kept.
            ArtifactError: the file cannot be written.
        """
        target = resolved(path)
        self._require_usable()
        with self._save_lock:
            state, steps, seed = self._snapshot(target)
            checkpoint.save_checkpoint(target, self.manifest, state, steps, seed)
            if note:
                note_last_checkpoint(self.folder, target)
        return target

    @exclusive
    def _snapshot(self, target: Path) -> tuple[dict[str, np.ndarray], int, int]:
        return self._finite_state(f"Nothing was written to {target}"), self.steps, self.seed

    def load_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Continue from a checkpoint, as if this trainer had taken its steps.

        Raises:
            ArtifactError: missing, damaged, or made for another artefact; the weights stay as they were.
        """
        self._go_on_from(checkpoint.load_checkpoint(resolved(path), self.manifest))

    @exclusive
    def _go_on_from(self, loaded: checkpoint.Checkpoint) -> None:
        self._interrupted_at = self.steps
        self._runner.write_state(loaded.state)
        self._restart(loaded.step, loaded.seed)

    @exclusive
    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the trained tensors in full shape by FQN, as one safetensors file for `load_state_dict`.

        Where the optimizer keeps an average of the weights (`ema_decay`), that is what is written.

        Raises:
            NonFiniteLoss: the state came with NaN or infinite values.
            ArtifactError: the file cannot be written.
        """
        target = resolved(path)
        state = self._finite_state(f"Nothing was written to {target}")
        whole = whole_tensors(self.folder, self.manifest, state, self.manifest.averaged)
        checkpoint.save_arrays(target, whole, {"format": "pt"})
        return target

    def _require_whole(self, refusal: str) -> None:
        """Refuse a state that a step was writing when something stopped it: Ctrl-C, or want of memory."""
        if self._interrupted_at is not None:
            raise ArtifactError(
                f"{refusal}: what changed the weights at step {self._interrupted_at} was interrupted, and it "
                "is not known which ones it had changed. Go back with load_checkpoint() or reset()."
            )

    def _finite_state(self, refusal: str) -> dict[str, np.ndarray]:
        """The state, unless it came with NaN: steps are undone, but an artefact may hold any values."""
        self._require_whole(refusal)
        state = self._runner.read_state()
        bad = [name for name, array in state.items() if not is_finite(array)]
        if bad:
            raise NonFiniteLoss(
                f"{refusal}: {listing(bad)} hold NaN or infinite values, and no step of this Trainer put "
                "them there. Go back with load_checkpoint() or reset(), or compile the model again."
            )
        return state
