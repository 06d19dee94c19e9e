"""Evaluating and predicting batches with a runner's current state: checked, padded and split as is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ArtifactError, BatchError, listing
from ..plan import BatchSpec
from .batch import check_finite, describe, fit_batch, named_arrays, pad_batch, repeat_last_sample
from .batch_limits import check_limits
from .graph_specs import PredictionSpec
from .manifest import Manifest
from .result_marks import failed_check
from .results import Evaluation

Arrays = dict[str, np.ndarray]


def evaluated(
    manifest: Manifest, batches: Iterable[object], run: Callable[[Arrays], np.ndarray]
) -> Evaluation:
    """The metric over batches.

    Args:
        run: a batch -> the metric of each of its samples.

    Raises:
        BatchError: as `Trainer.evaluate`.
    """
    samples = manifest.eval.outputs[0].shape[0]
    values = []
    for batch in batches:
        arrays, count = pad_batch(manifest.batch, batch, samples, manifest.task)
        if count < samples and not manifest.samples_apart:
            raise BatchError(
                f"This batch has {count} samples instead of {samples}, and the metric of task "
                f"{manifest.task!r} makes a sample's value of others in its batch (statistics or comparisons "
                f"within the batch), so that it cannot be filled up. Evaluate batches of {samples} samples, "
                "and leave the last one out (drop_last=True)."
            )
        check_limits(arrays, manifest.eval_limits, manifest.task)
        check_finite(arrays, batch, manifest.nonfinite_entries, manifest.task)
        found = run(arrays)
        wrong = failed_check(found, manifest.eval_guards, manifest.eval_integers, manifest.numbered_guards)
        if wrong:
            raise BatchError(f"In the evaluation of a batch {wrong}")
        values.append(found[:count])
    if not values:
        raise BatchError(
            "There was nothing to evaluate: the iterable of batches is empty. A generator yields its "
            "batches only once; pass a list."
        )
    joined = np.concatenate(values)
    return Evaluation(float(joined.mean(dtype=np.float64)), joined, len(joined))


def require_predictions(folder: Path, manifest: Manifest) -> None:
    """Refuse an artefact that predicts nothing.

    Raises:
        ArtifactError: saying how to get one that does.
    """
    if not manifest.predict:
        raise ArtifactError(
            f"{folder} has no prediction: task {manifest.task!r} was compiled without one. Give the task a "
            'function, as in Task(…, predict=lambda model, batch: model(batch["x"])), and compile it again; '
            "a checkpoint goes on with it."
        )


def predicted(
    manifest: Manifest, batch: object, run: Callable[[PredictionSpec, Arrays], Arrays]
) -> np.ndarray | Arrays:
    """What the task predicts of a batch.

    Args:
        run: a compiled size, and a batch of it -> its outputs by slot name.

    Raises:
        BatchError: as `Trainer.predict`.
    """
    sizes = manifest.predict
    given = named_arrays(batch)
    arrays = {n: a for n, a in given.items() if n in sizes[0].batch or n not in manifest.batch}
    if sizes[0].samples is None:
        found = _run(manifest, sizes[0], _checked(manifest, sizes[0].batch, sizes[0], arrays), run)
    else:
        found = _by_samples(manifest, sizes, arrays, run)
    names = {s.name: s.fqn for s in sizes[0].graph.outputs}
    if len(found) == 1 and names[next(iter(found))] == "":
        return next(iter(found.values()))
    return {names[name]: value for name, value in found.items()}


def rows_of(sizes: Sequence[PredictionSpec]) -> list[str]:
    """The entries of a batch that have a row for each sample, whatever its size."""
    return [n for n in sizes[0].batch if all(p.batch[n].shape[:1] == (p.samples,) for p in sizes)]


def _by_samples(
    manifest: Manifest,
    sizes: Sequence[PredictionSpec],
    arrays: Arrays,
    run: Callable[[PredictionSpec, Arrays], Arrays],
) -> Arrays:
    """The outputs' rows for a batch of any number of samples."""
    rows = rows_of(sizes)
    count = _count(manifest, sizes, {n: arrays[n] for n in rows if n in arrays})
    whole = _checked(manifest, _resized(sizes[0].batch, rows, count), sizes[0], arrays)
    compiled = {p.samples or 0: p for p in sizes}
    if count not in compiled and not all(p.samples_apart for p in sizes):
        raise BatchError(
            f"This batch has {count} samples, and what task {manifest.task!r} predicts of a sample depends "
            "on others in its batch (statistics or comparisons within the batch), so that it can be neither "
            f"filled up nor split. Give batches of {listing([str(n) for n in compiled])} samples, or compile "
            f"the task with predict_sizes=({count},)."
        )
    parts: list[Arrays] = []
    start = 0
    while start < count:
        size = min((n for n in compiled if n >= count - start), default=max(compiled))
        taken = {n: a[start : start + size] if n in rows else a for n, a in whole.items()}
        real = min(size, count - start)
        found = _run(manifest, compiled[size], repeat_last_sample(taken, rows, size - real), run)
        parts.append({name: value[:real] for name, value in found.items()})
        start += real
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _count(manifest: Manifest, sizes: Sequence[PredictionSpec], rows: Arrays) -> int:
    """How many samples a batch has."""
    counts = {n: a.shape[0] for n, a in rows.items() if a.ndim}
    if len(set(counts.values())) > 1:
        raise BatchError(
            f"This batch does not fit the prediction of task {manifest.task!r}: the entries differ in their "
            f"number of samples: {counts}. {holds(sizes)}"
        )
    count = next(iter(counts.values()), sizes[-1].samples or 0)
    if not count:
        raise BatchError(
            f"This batch does not fit the prediction of task {manifest.task!r}: it has no samples. Give it "
            f"at least one. {holds(sizes)}"
        )
    return count


def holds(sizes: Sequence[PredictionSpec]) -> str:
    """What a batch holds, in a sentence."""
    rows = rows_of(sizes)
    said = describe(sizes[-1].batch.items())
    many = " in batches of any size, of which these are the compiled ones: " if rows else ""
    listed = listing([str(p.samples) for p in sizes]) if rows else ""
    return f"A batch holds {said}{many}{listed}."


def _resized(specs: Mapping[str, BatchSpec], rows: Sequence[str], count: int) -> dict[str, BatchSpec]:
    return {
        n: s.model_copy(update={"shape": (count, *s.shape[1:])}) if n in rows else s for n, s in specs.items()
    }


def _checked(
    manifest: Manifest, specs: Mapping[str, BatchSpec], prediction: PredictionSpec, arrays: Arrays
) -> Arrays:
    """The batch as arrays of exactly `specs`, refused where it does not fit."""
    fitted = fit_batch(specs, arrays, manifest.task, "prediction")
    check_limits(fitted, [x for x in prediction.limits if x.places is None], manifest.task)
    check_finite(fitted, arrays, prediction.nonfinite_entries, manifest.task)
    return fitted


def _run(
    manifest: Manifest,
    prediction: PredictionSpec,
    arrays: Arrays,
    run: Callable[[PredictionSpec, Arrays], Arrays],
) -> Arrays:
    check_limits(arrays, prediction.limits, manifest.task)
    found = run(prediction, arrays)
    marked = found[prediction.graph.outputs[0].name]
    if wrong := failed_check(marked, prediction.guards, prediction.integers, True):
        raise BatchError(f"In the prediction of a batch {wrong}")
    return found
