"""Batches as the compiled step wants them: the names, shapes and dtypes of the manifest."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import BatchError, NonFiniteBatch, PockError, listing, reason, suggest_within
from ..plan import BatchSpec
from .finite_check import is_finite


def named_arrays(batch: Any) -> dict[str, np.ndarray]:
    """A dict, tuple or list of arrays as name -> array; a sequence's items are named `0`, `1`, …

    Raises:
        BatchError: the batch, or something in it, is not what can be an array of numbers.
    """
    if isinstance(batch, Mapping):
        items = batch.items()
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        items = enumerate(batch)
    else:
        raise BatchError(
            f"A batch is a dict (or a tuple) of arrays, and this is a {type(batch).__name__}. "
            "Pass the arrays by name, as in {'x': x, 'y': y}."
        )
    return {name: _as_array(name, value) for name, value in by_name(items, BatchError).items()}


def by_name(items: Iterable[tuple[Any, Any]], refusal: type[PockError]) -> dict[str, Any]:
    """Entries of a batch with their keys as text, as files and graphs hold them.

    Raises:
        PockError: of the class `refusal`: two keys are the same text.
    """
    keys: dict[str, Any] = {}
    named: dict[str, Any] = {}
    for key, value in items:
        name = str(key)
        if name in named:
            raise refusal(
                f"The batch has two entries called {name!r}: as text, its keys {keys[name]!r} and {key!r} "
                "are the same. Rename one of them."
            )
        keys[name], named[name] = key, value
    return named


def _as_array(name: str, value: Any) -> np.ndarray:
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        value = value.float()  # numpy has no such numbers; float32 holds them exactly
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as e:
        raise BatchError(
            f"Batch entry {name!r} ({type(value).__name__}) cannot become a numpy array: {reason(e)}. "
            "Convert it to a numpy array on the CPU first."
        ) from None
    if array.dtype.kind not in "biuf":
        raise BatchError(
            f"Batch entry {name!r} holds {array.dtype}, which is not a number. Encode it as numbers first."
        )
    return array


def fit_batch(
    specs: Mapping[str, BatchSpec], batch: Any, task: str, what: str = "step"
) -> dict[str, np.ndarray]:
    """`batch` with exactly the names, shapes and dtypes of `specs`.

    Numbers of the same kind are cast: between floats (float64 is rounded to float32), and between
    integers when every value fits. Booleans count as 0 and 1, and 0 and 1 as booleans. An integer image for
    a float input is refused: it was hardly normalised.

    Args:
        what: it is for, for people.

    Raises:
        BatchError: in one paragraph every difference, what is expected, and what to do.
    """
    arrays = named_arrays(batch)
    wrong = _wrong_names(specs, arrays)
    fitted = {}
    for name, spec in specs.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.shape != spec.shape:
            wrong.append(f"{name!r} has shape {list(array.shape)} instead of {list(spec.shape)}")
            continue
        cast = _cast(array, np.dtype(spec.dtype))
        if cast is None:
            wrong.append(f"{name!r} holds {array.dtype} instead of {spec.dtype}")
        else:
            fitted[name] = cast
    if wrong:
        raise BatchError(_message(specs, wrong, task, what))
    return fitted


def check_finite(
    arrays: Mapping[str, np.ndarray], given: Any, may_be_nonfinite: Container[str] | None, task: str
) -> None:
    """Refuse NaN and infinite values.

    Args:
        arrays: the batch as the step takes it; given: as it came, before any cast.
        may_be_nonfinite: entries that may hold them; None: all may hold infinite ones, none NaN.

    Raises:
        NonFiniteBatch: naming the entry, the value and its place.
    """
    for name, array in arrays.items():
        if (may_be_nonfinite is not None and name in may_be_nonfinite) or is_finite(array):
            continue
        bad = np.isnan(array) if may_be_nonfinite is None else ~np.isfinite(array)
        if not bad.any():
            continue
        at = np.unravel_index(int(bad.argmax()), array.shape)
        value, original = array[at], named_arrays(given)[name]
        source = original[at] if at and original.shape == array.shape else value
        if np.isfinite(source):
            what = f"holds {source:g}, which is beyond {array.dtype} and would become {value}"
        else:
            count = int(bad.sum())
            more = f" ({count} values are NaN or infinite)" if count > 1 else ""
            what = f"holds {value}{more}"
        place = f" at {[int(i) for i in at]}" if at else ""
        raise NonFiniteBatch(
            f"Batch entry {name!r} of task {task!r} {what}{place}. Clean the data, or leave this batch out. "
            "An entry that is meant to hold such values (an additive mask of -inf) is taken as it is when "
            "the first training batch of the task holds some when it is compiled."
        )


def pad_batch(
    specs: Mapping[str, BatchSpec], batch: Any, samples: int, task: str
) -> tuple[dict[str, np.ndarray], int]:
    """A batch of up to `samples` samples as a full one: its last sample is repeated.

    Returns:
        The batch, and how many of its samples are real.

    Raises:
        BatchError: as `fit_batch`, or the entries have different, no, or too many samples.
    """
    arrays = named_arrays(batch)
    counts = {
        k: a.shape[0] for k, a in arrays.items() if k in specs and _has_samples(specs[k], samples) and a.ndim
    }
    short = {n for n in counts.values() if n != samples}
    if not short:
        return fit_batch(specs, arrays, task), samples
    if len(set(counts.values())) > 1:
        raise BatchError(_message(specs, [f"the entries differ in their number of samples: {counts}"], task))
    count = short.pop()
    if not 0 < count < samples:
        wrong = f"it has {count} samples, and a batch holds 1 to {samples}"
        raise BatchError(_message(specs, [wrong], task))
    return fit_batch(specs, repeat_last_sample(arrays, counts, samples - count), task), count


def repeat_last_sample(
    arrays: dict[str, np.ndarray], names: Collection[str], times: int
) -> dict[str, np.ndarray]:
    """The entries of a batch, those of `names` with their last sample repeated."""
    if not times:
        return arrays
    last = {n: np.broadcast_to(arrays[n][-1:], (times, *arrays[n].shape[1:])) for n in names}
    return {n: np.concatenate([a, last[n]]) if n in last else a for n, a in arrays.items()}


def learning_rate(given: object) -> float:
    """What a step takes as its learning rate.

    Raises:
        BatchError: there is none, or it is no finite number ≥ 0.
    """
    if given is None:
        raise BatchError("The artefact's optimizer has no learning rate of its own: pass lr= to step().")
    try:
        rate = float(given)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not (math.isfinite(rate) and rate >= 0):
        raise BatchError(
            f"lr={str(given)[:40]} is no learning rate: pass a finite number that is not negative."
        )
    return rate


def _has_samples(spec: BatchSpec, samples: int) -> bool:
    return bool(spec.shape) and spec.shape[0] == samples


def _wrong_names(specs: Mapping[str, BatchSpec], arrays: Mapping[str, Any]) -> list[str]:
    missing = [n for n in specs if n not in arrays]
    wrong = [f"{n!r} is missing" for n in missing]
    for name in arrays:
        if name not in specs:
            wrong.append(f"{name!r} is unexpected{suggest_within(name, missing)}")
    return wrong


def _cast(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """`array` as `dtype`, or None when that is no cast between numbers of one kind that fit."""
    if array.dtype == dtype:
        return array
    kinds = array.dtype.kind + dtype.kind
    if kinds == "ff":
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            return array.astype(dtype)
    if kinds in ("bi", "bu", "bf") or (kinds in ("if", "uf") and not array.ndim):  # a mask; a number
        return array.astype(dtype)
    if kinds in ("ib", "ub"):
        return array.astype(dtype) if np.isin(array, (0, 1)).all() else None
    if set(kinds) <= set("iu"):
        info = np.iinfo(dtype)
        fits = array.size == 0 or (int(array.min()) >= info.min and int(array.max()) <= info.max)
        return array.astype(dtype) if fits else None
    return None


def _message(specs: Mapping[str, BatchSpec], wrong: list[str], task: str, what: str = "step") -> str:
    return (
        f"This batch does not fit the {what} compiled for task {task!r}: {listing(wrong)}. "
        f"A batch holds {describe(specs.items())}. Bring the data into that form, or compile the task "
        "again with batches of this one."
    )


def describe(slots: Iterable[tuple[str, BatchSpec]]) -> str:
    """`x float32 [8, 3, 32, 32] and y int64 [8]`."""
    parts = [f"{name} {spec.dtype} {list(spec.shape)}" for name, spec in slots]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else "nothing"
