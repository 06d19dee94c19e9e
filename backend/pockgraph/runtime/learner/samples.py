"""Samples: one sample as a batch without its first dimension, checked as a training batch is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import BatchError, LearnerError, listing, suggest
from ...plan import BatchSpec
from ..batch import check_finite, describe, fit_batch, named_arrays
from ..batch_limits import check_limits
from ..manifest import Manifest

Arrays = dict[str, np.ndarray]


class SampleForm:
    """What a sample of an artefact holds, and batches of them.

    Args:
        label: the entry whose value is a sample's class; None takes the only one that is a single integer,
            if there is exactly one.
        shared: entries of a batch that have no row for each sample, the same in all batches.

    Attributes:
        batch_samples: of a training batch.
        specs: entry -> shape and dtype of one sample.
        label: the entry that tells classes apart; None where samples have no class.

    Raises:
        LearnerError: `label` is no such entry.
        BatchError: `shared` does not hold what it must.
    """

    def __init__(
        self, manifest: Manifest, label: str | None = None, shared: Mapping[str, Any] | None = None
    ) -> None:
        self._manifest = manifest
        self.batch_samples = manifest.eval.outputs[0].shape[0]
        rows = {n: s for n, s in manifest.batch.items() if s.shape[:1] == (self.batch_samples,)}
        self.specs = {n: BatchSpec(shape=s.shape[1:], dtype=s.dtype) for n, s in rows.items()}
        if not self.specs:
            raise LearnerError(
                f"A batch of task {manifest.task!r} has no row for each sample: it holds "
                f"{describe(manifest.batch.items())}. A learner needs samples of their own."
            )
        rest = {n: s for n, s in manifest.batch.items() if n not in rows}
        self._shared = fit_batch(rest, shared or {}, manifest.task, "part of a batch that samples share,")
        self.label = self._label(label)

    def _label(self, given: str | None) -> str | None:
        single = [n for n, s in self.specs.items() if s.shape == () and not s.dtype.startswith("float")]
        if given is None:
            return single[0] if len(single) == 1 else None
        if given not in single:
            raise LearnerError(
                f"label={given!r} is no entry that holds one integer a sample.{suggest(given, single)} "
                f"Those of task {self._manifest.task!r} are: {listing(single) or 'none'}."
            )
        return given

    def checked(self, sample: Any) -> Arrays:
        """A sample in the dtypes of the artefact, copied.

        Raises:
            BatchError: it does not fit, as `Trainer.step` says of a batch.
        """
        arrays = named_arrays(sample)
        manifest = self._manifest
        fitted = fit_batch(self.specs, arrays, manifest.task, "samples")
        n = self.batch_samples
        batch = {k: np.broadcast_to(a, (n, *a.shape)) for k, a in fitted.items()} | self._shared
        # The longest sequence of a batch is another matter than that of a sample.
        check_limits(batch, [x for x in manifest.train_limits if not x.reached], manifest.task)
        check_limits(batch, [x for x in manifest.eval_limits if not x.reached], manifest.task)
        check_finite(fitted, arrays, manifest.nonfinite_entries, manifest.task)
        return {k: np.array(a, order="C") for k, a in fitted.items()}

    def key_of(self, arrays: Arrays) -> str:
        """A key made of the inputs: the same inputs with another label are the same sample, corrected."""
        digest = hashlib.sha256()
        for name in sorted(arrays):
            if name != self.label:
                digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
                digest.update(np.ascontiguousarray(arrays[name]).data)
        return digest.hexdigest()[:32]

    def class_of(self, arrays: Arrays) -> str:
        """The class as text; empty where samples have none."""
        return "" if self.label is None else str(int(arrays[self.label]))

    def batch(self, samples: Sequence[Arrays]) -> Arrays:
        """Samples as a batch.

        Raises:
            BatchError: there is none.
        """
        if not samples:
            raise BatchError("A batch needs at least one sample.")
        return {n: np.stack([s[n] for s in samples]) for n in self.specs} | self._shared

    @property
    def sample_bytes(self) -> int:
        """Of the arrays of one sample."""
        return sum(
            int(np.prod(s.shape, dtype=np.int64)) * np.dtype(s.dtype).itemsize for s in self.specs.values()
        )
