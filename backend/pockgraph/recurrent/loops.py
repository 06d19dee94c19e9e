"""What the loops of all recurrent layers share: how they are defined, and the order of their steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("pockgraph", "DEF")


def define(schema: str, kernel: Callable[..., Any], meta: Callable[..., Any]) -> None:
    _library.define(schema)
    name = schema.partition("(")[0]
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(name, meta, "Meta")


def require_shapes(shapes: dict[tuple[int, ...], Sequence[Tensor | None]]) -> None:
    """Every tensor has its shape: the loops write where they are told to.

    Raises:
        RuntimeError: one has not.
    """
    for shape, tensors in shapes.items():
        for t in tensors:
            if t is not None and tuple(t.shape) != shape:
                raise RuntimeError(f"a recurrent loop takes {shape} where {tuple(t.shape)} stands")


def steps_of(sequence: Tensor, reverse: bool) -> Any:
    """The steps of a sequence in the order in which the loop takes them."""
    steps = sequence.unbind(0)
    return reversed(steps) if reverse else steps


def steps_or_none(sequence: Tensor | None, like: Tensor, reverse: bool) -> Any:
    """`steps_of`, or None for each step of `like` where there is no such sequence."""
    return itertools.repeat(None, len(like)) if sequence is None else steps_of(sequence, reverse)


def add_later_gradient(y: Tensor, later: tuple[Tensor, ...], w_hh: Tensor, total: Tensor) -> None:
    """`total` becomes the gradient of a step's state, the following step being (its dgates, total, share)."""
    torch.addmm(y, later[0], w_hh, out=total)
    if later[2] is not None:
        total.addcmul_(later[1], later[2])
