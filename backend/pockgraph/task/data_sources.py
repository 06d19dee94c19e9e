"""Training data in whatever form it comes: one pass in the order that a seed draws, a batch at a time.

What has a length and no order of its own is permuted. A `DataLoader` keeps its sampler, drawn from the seed,
and a stream (without an end that is known) its order; neither is ever held in memory as a whole.
"""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler

from ..errors import PockError, TaskError

_OWN = (str(Path(__file__).parent.parent), str(Path(torch.__file__).parent), "<")
_WORKER = "Original Traceback"
_IN_A_WORKER = re.compile(r'File "(.+?)", line (\d+), in .*\n\s+(.*)')


class Factory:
    """A function that makes an iterator, as data that can be read again and again."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self.make())


def as_data(given: Any, what: str) -> Any:
    """What can be iterated again and again; a function that makes iterators becomes that.

    Raises:
        TaskError: it yields its batches once, or none at all.
    """
    if isinstance(given, type):
        raise TaskError(f"{what} is the class {given.__name__}. Give an instance of it.")
    if hasattr(given, "__next__"):
        raise TaskError(
            f"{what} is an iterator, which yields its batches once; every epoch needs them again. Pass a "
            "list of batches, a DataLoader, pockgraph.Batches, or the function that makes the iterator."
        )
    if hasattr(given, "__iter__") or hasattr(given, "__getitem__"):
        return given
    if callable(given):
        return Factory(given)
    raise TaskError(
        f"{what} is a {type(given).__name__}, which gives no batches. Pass a list of batches, a DataLoader, "
        "pockgraph.Batches, or a function that makes an iterator."
    )


def is_stream(data: Any) -> bool:
    """Whether nothing says where it ends."""
    if isinstance(data, IterableDataset) or isinstance(getattr(data, "dataset", None), IterableDataset):
        return True
    try:
        len(data)
    except TypeError:
        return True
    return False


def epoch_of(data: Any, seed: int) -> Iterator[Any]:
    """One pass in the order that `seed` draws: what `shuffled(seed)` gives, a loader's sampler, a stream's
    own order, or the batches permuted."""
    if hasattr(data, "shuffled"):
        yield from data.shuffled(seed)
    elif _has_sampler(data):
        yield from _loader_epoch(data, seed)
    elif is_stream(data):
        _set_epoch(data, seed)
        yield from data
    else:
        batches = data if isinstance(data, Sequence) else list(data)
        for i in np.random.default_rng(seed).permutation(len(batches)):
            yield batches[i]


def beginning_of(data: Any) -> Iterator[Any]:
    """The first batch, if there is one; without a loader's workers."""
    if _has_sampler(data):
        data = _like(data, list(islice(_seeded(data, 0), 1)), 0, workers=False)
    yield from islice(data, 1)


def hold_back(data: Any, ratio: float) -> tuple[Any, Any] | None:
    """(the rest, the last batches) of what has a length; None: too few, or they cannot be told apart."""
    if is_stream(data):
        return None
    draws = list(_seeded(data, 0)) if _has_sampler(data) else data
    batches = draws if isinstance(draws, Sequence) else list(draws)
    held = round(len(batches) * ratio) or 1
    if len(batches) <= held:
        return None
    rest, last = batches[:-held], batches[-held:]
    if not _has_sampler(data):
        return list(rest), list(last)
    flat = [list(chain(*d)) if data.batch_sampler is not None else d for d in (rest, last)]
    if set(flat[0]) & set(flat[1]):
        return None
    if isinstance(data.sampler, RandomSampler) and type(data.batch_sampler) is BatchSampler:
        again = SubsetRandomSampler(flat[0])
        return _like(data, BatchSampler(again, data.batch_size or 1, data.drop_last), 0), _like(data, last, 0)
    return _like(data, rest, 0), _like(data, last, 0)


def numbered(what: str, batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """(number from 1, batch). What the user's own data raises is told with the batch and the line.

    Raises:
        TaskError: from reading a batch.
    """
    number = 0
    try:
        for batch in batches:
            number += 1
            yield number, batch
    except PockError:
        raise
    except Exception as e:
        line, words = _users_line(e)
        if _WORKER in str(e):
            traceback.clear_frames(e.__traceback__)  # they keep the workers alive
        raise TaskError(f"{what}: making batch {number + 1} failed{line}: {words}") from e


def _users_line(error: Exception) -> tuple[str, str]:
    """Where the user's code raised, and what; a loader's worker sends its traceback as text."""
    text = str(error)
    if _WORKER in text:
        frames = _IN_A_WORKER.findall(text)
        words = text.strip().splitlines()[-1]
    else:
        stack = traceback.extract_tb(error.__traceback__)
        frames = [(f.filename, f.lineno, f.line or "") for f in stack]
        words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    for file, number, line in reversed(frames):
        if not file.startswith(_OWN):
            return f" at {file}:{number}: `{line.strip()}`", words
    return "", words


# ---------------------------------------------------------------- loaders with a sampler


def _has_sampler(data: Any) -> bool:
    ours = isinstance(data, DataLoader) and type(data).__iter__ is DataLoader.__iter__
    return ours and not isinstance(data.dataset, IterableDataset)


def _loader_epoch(loader: DataLoader[Any], seed: int) -> Iterator[Any]:
    draws: Iterable[Any] = _seeded(loader, seed)
    if not is_stream(_sampler_of(loader)):
        draws = list(draws)
        if draws == list(_seeded(loader, seed + 1)):  # always the same order: draw one here
            draws = [draws[i] for i in np.random.default_rng(seed).permutation(len(draws))]
    yield from _like(loader, draws, seed)


def _sampler_of(loader: DataLoader[Any]) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _seeded(loader: DataLoader[Any], seed: int) -> Iterator[Any]:
    """What the loader's own sampler draws from `seed`: numbers of samples, a list a batch."""
    batches = copy.copy(_sampler_of(loader))
    inner = getattr(batches, "sampler", None)
    for sampler in (batches, inner):
        _set_epoch(sampler, seed)
    if hasattr(inner, "generator"):
        batches.sampler = inner = copy.copy(inner)
    for sampler in (batches, inner):
        if sampler is not None and hasattr(sampler, "generator"):
            sampler.generator = torch.Generator().manual_seed(seed)
    if is_stream(batches):
        return iter(batches)
    with torch.random.fork_rng(devices=[]):  # for samplers that draw from the global generator
        torch.manual_seed(seed)
        return iter(list(batches))


def _like(loader: DataLoader[Any], draws: Any, seed: int, workers: bool = True) -> DataLoader[Any]:
    """The same loader with these samples; its workers end with the pass."""
    order: dict[str, Any] = (
        {"batch_size": None, "sampler": draws} if loader.batch_sampler is None else {"batch_sampler": draws}
    )
    if workers and loader.num_workers:
        order |= {
            "num_workers": loader.num_workers,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
        }
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(loader.dataset, collate_fn=loader.collate_fn, generator=generator, **order)


def _set_epoch(data: Any, seed: int) -> None:
    """Tell data that draws its own order (as distributed samplers and hub datasets do) which one."""
    for part in (data, getattr(data, "dataset", None), getattr(data, "sampler", None)):
        tell = getattr(part, "set_epoch", None)
        if callable(tell):
            tell(seed)


def count_of(data: Any, limit: int | None) -> int:
    """How many batches there are, at most `limit`; counted where no length is known."""
    if is_stream(data):
        return sum(1 for _ in islice(data, limit))
    return len(data) if limit is None else min(len(data), limit)
