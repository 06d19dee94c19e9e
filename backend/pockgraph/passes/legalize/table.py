"""ATen overload → a function in plain PyTorch that says what it stands for.

The function gets the arguments in the order of the operator's schema, defaults filled in, and returns what
the operator returns. It is traced on tensors without values; what it makes of shapes alone (an index, a
matrix of weights) becomes a constant. PyTorch's own decompositions serve where there is none here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import fx

F = TypeVar("F", bound=Callable[..., Any])

EXPANSIONS: dict[Any, Callable[..., Any]] = {}


class Inexpansible(Exception):
    """Raised by an expansion for arguments that it cannot take; the message is the reason users read."""


def expands(*overloads: Any) -> Callable[[F], F]:
    """Register what ATen overloads stand for."""

    def register(function: F) -> F:
        for overload in overloads:
            assert overload not in EXPANSIONS, f"{overload} has two expansions"
            EXPANSIONS[overload] = function
        return function

    return register


def expansion_of(node: fx.Node) -> Callable[..., Any] | None:
    """What a call's operator stands for; None when nobody says."""
    return EXPANSIONS.get(node.target) or _of_pytorch().get(node.target)


@functools.cache
def _of_pytorch() -> Mapping[Any, Callable[..., Any]]:
    table = torch.export.default_decompositions()
    return {overload: table[overload] for overload in table}  # its own `get` finds nothing
