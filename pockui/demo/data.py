"""What both demo tasks share: packaged files, fixed splits, fresh heads and a cache for prepared arrays."""

from __future__ import annotations

import logging
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch

from pockgraph.errors import PockError
from pockgraph.files import replacing

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

# Never a parameter: results of different seeds are comparable only on one and the same split.
SPLIT_SEED = 20231017


class AssetMissing(PockError):
    """A model, data set or library that a demo task needs is not installed."""


def find_asset(package: str, path: str, what: str) -> Path:
    """A file or folder inside an installed distribution, found without importing the distribution.

    Args:
        package: the distribution's name on PyPI.
        path: where the file lies, relative to site-packages.
        what: the asset in words, for the error message.

    Raises:
        AssetMissing: the distribution is not installed, or lacks the file.
    """
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        raise missing(what, f"the package {package!r} is not installed") from None
    if not found.exists():
        raise missing(what, f"the installed package {package!r} has no {path!r}")
    return found


def missing(what: str, why: str) -> AssetMissing:
    """The error for an absent asset, with the command that installs it."""
    return AssetMissing(f"The demo needs {what}, but {why}. Install it with: pip install 'pockui[demo]'")


def stratified_split(labels: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Disjoint index arrays of the given sizes, each with the class shares of `labels`.

    The split depends on `labels` and `sizes` only, and every prefix of a part is itself close
    to the class shares, so that limiting a part to its first samples keeps it representative.

    Args:
        labels: `[N]` integer classes.
        sizes: samples a part; their sum is at most N.

    Returns:
        One int64 array of sample indices for each size.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"parts of {list(sizes)} samples need {sum(sizes)}, there are {len(labels)}")
    # RandomState's streams are frozen for good (NEP 19); those of default_rng may change.
    rng = np.random.RandomState(SPLIT_SEED)
    position = np.empty(len(labels))
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        # The k-th member of a class of n sits at (k + u) / n: any stretch of the order has its share.
        position[members] = (np.arange(len(members)) + rng.uniform(size=len(members))) / len(members)
    order = np.argsort(position, kind="stable")
    ends = np.cumsum(sizes)
    return [order[end - size : end] for size, end in zip(sizes, ends)]


def fresh_linear(inputs: int, outputs: int, seed: int) -> torch.nn.Linear:
    """A linear layer with PyTorch's default initialisation, drawn from `seed` alone.

    The global random state is neither read nor advanced.
    """
    layer = torch.nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)  # [outputs, inputs]
        layer.bias.uniform_(-bound, bound, generator=generator)  # [outputs]
    return layer


def cache_dir() -> Path:
    """`$POCKUI_CACHE`, else `~/.cache/pockui`. It need not exist."""
    chosen = os.environ.get("POCKUI_CACHE")
    return Path(chosen).expanduser() if chosen else Path(os.path.expanduser("~")) / ".cache" / "pockui"


def cached(name: str, build: Callable[[], Arrays]) -> Arrays:
    """The arrays `build` returns, kept on disk as `<name>.npz`.

    A cache that cannot be read or written costs time and nothing else.

    Args:
        name: must change whenever the result would: put a hash of all inputs into it.
        build: makes the arrays anew.
    """
    path = cache_dir() / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logger.debug("cannot use %s: %s", path, error)
    arrays = build()
    try:
        with replacing(path) as new, new.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        logger.debug("cannot write %s: %s", path, error)
    return arrays
