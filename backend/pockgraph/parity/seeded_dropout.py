"""Eager PyTorch with the dropout masks that a seed gives a compiled step, so that both can be compared.

Computed in integers, where the graph computes in floating point (see `passes/dropout_masks.py`). A
mask's number is that of the random state that eager PyTorch would draw it from: code that goes back to
a state, as activation checkpointing does, gets the same mask again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..ir.graph import aten
from ..prng import ROUNDS, WORD_BITS, words

LEVELS = 1 << WORD_BITS


def dropped(site: int, shape: Sequence[int], p: float, keys: np.ndarray) -> Tensor:
    """Bool `shape`: which elements the mask number `site` drops, each with probability `p`.

    Args:
        keys: of the step, as `prng.step_keys` gives them.
    """
    split = min(range(len(shape) + 1), key=lambda d: math.prod(shape[:d]) + math.prod(shape[d:]))
    sizes = {"rows": math.prod(shape[:split]), "columns": math.prod(shape[split:])}

    def integers(side: str, what: str) -> Tensor:
        drawn = words(sizes[what], f"pockgraph dropout {site}_{side}_{what}", WORD_BITS - 1)
        return torch.from_numpy((drawn * LEVELS).astype(np.int32))

    left, right = (integers(s, "rows")[:, None] + integers(s, "columns") for s in ("left", "right"))
    assert len(keys) == ROUNDS
    for key in (keys * LEVELS).astype(np.int32).tolist():
        left, right = right, (left + ((right + key) ** 2 >> 6)) % LEVELS
    return (right * LEVELS + left).reshape(tuple(shape)) < round(p * LEVELS**2)


class _SeededMasks(TorchDispatchMode):
    """Answers the operators that draw dropout's masks."""

    def __init__(self, keys: np.ndarray) -> None:
        super().__init__()
        self._keys = keys
        self._sites: dict[bytes, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.native_dropout.default and args[2] is not False:
            x, p = args[:2]
            kept = ~self._dropped(x.shape, p, None)
            return x * kept * (0.0 if p == 1 else 1 / (1 - p)), kept
        if func in (aten.bernoulli_.float, aten.bernoulli.p):
            x, keep = args[0], args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            kept = ~self._dropped(x.shape, 1 - keep, kwargs.get("generator"))
            return x.copy_(kept) if func is aten.bernoulli_.float else kept.to(x.dtype)
        return func(*args, **kwargs)

    def _dropped(self, shape: Sequence[int], p: float, generator: torch.Generator | None) -> Tensor:
        generator = torch.default_generator if generator is None else generator
        state = generator.get_state().numpy().tobytes()
        torch.rand(shape, generator=generator)  # on to the next state, as drawing does
        return dropped(self._sites.setdefault(state, len(self._sites)), shape, p, self._keys)


@contextlib.contextmanager
def seeded_dropout(keys: np.ndarray) -> Iterator[None]:
    """In here, eager PyTorch drops what a step of these keys drops; random numbers outside stay theirs."""
    with torch.random.fork_rng(devices=[]), _SeededMasks(keys):
        yield
