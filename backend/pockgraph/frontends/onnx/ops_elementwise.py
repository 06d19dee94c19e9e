"""Arithmetic, comparison, logic, rounding, and conversions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .operator_rules import NotRunnable, op

UNARY: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "Abs": ((6, 13), torch.abs),
    "Acos": ((7, 22), torch.acos),
    "Acosh": ((9, 22), torch.acosh),
    "Asin": ((7, 22), torch.asin),
    "Asinh": ((9, 22), torch.asinh),
    "Atan": ((7, 22), torch.atan),
    "Atanh": ((9, 22), torch.atanh),
    "Ceil": ((6, 13), torch.ceil),
    "Cos": ((7, 22), torch.cos),
    "Cosh": ((9, 22), torch.cosh),
    "Erf": ((9, 13), torch.erf),
    "Exp": ((6, 13), torch.exp),
    "Floor": ((6, 13), torch.floor),
    "Identity": ((1, 13, 14, 16, 19, 21, 23, 24, 25), lambda x: x),
    "IsNaN": ((9, 13, 20), torch.isnan),
    "Log": ((6, 13), torch.log),
    "Neg": ((6, 13), torch.neg),
    "Not": ((1,), torch.logical_not),
    "Reciprocal": ((6, 13), torch.reciprocal),
    "Round": ((11, 22), torch.round),
    "Sign": ((9, 13), torch.sign),
    "Sin": ((7, 22), torch.sin),
    "Sinh": ((9, 22), torch.sinh),
    "Sqrt": ((6, 13), torch.sqrt),
    "Tan": ((7, 22), torch.tan),
}

COMPARISONS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Any], Tensor]]] = {
    "Equal": ((7, 11, 13, 19), torch.eq),
    "Greater": ((7, 9, 13), torch.gt),
    "GreaterOrEqual": ((12, 16), torch.ge),
    "Less": ((7, 9, 13), torch.lt),
    "LessOrEqual": ((12, 16), torch.le),
}

LOGIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}


def _register() -> None:
    def unary(f: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda x: f(x)

    def binary(f: Callable[[Tensor, Any], Tensor]) -> Callable[..., Tensor]:
        return lambda a, b: f(a, b)

    for name, (versions, function) in UNARY.items():
        op(name, *versions)(unary(function))
    for name, (versions, function) in COMPARISONS.items():
        op(name, *versions, buffers=("a", "b"))(binary(function))
    for name, function in LOGIC.items():
        op(name, 7)(binary(function))


_register()


@op("Add", 7, 13, 14, numbers=("a", "b"), leaves={"a": "bias", "b": "bias"})
def add(a: Any, b: Any) -> Tensor:
    return a + b


@op("Sub", 7, 13, 14, numbers=("a", "b"), leaves={"a": "bias", "b": "bias"})
def sub(a: Any, b: Any) -> Tensor:
    return a - b


@op("Mul", 7, 13, 14, numbers=("a", "b"), leaves={"a": "weight", "b": "weight"})
def mul(a: Any, b: Any) -> Tensor:
    return a * b


@op("Div", 7, 13, 14, numbers=("a", "b"), leaves={"a": "weight", "b": "weight"})
def div(a: Any, b: Any) -> Tensor:
    """Division of integers is cut off towards zero."""
    tensor = a if isinstance(a, Tensor) else b
    return a / b if tensor.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op("Pow", 7, 12, 13, 15, numbers=("b",), buffers=("b",))
def power(a: Tensor, b: Any) -> Tensor:
    """The result has the type of the base."""
    return torch.pow(a, b).to(a.dtype)


@op("Mod", 10, 13)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    if fmod:
        return torch.fmod(a, b)
    if a.is_floating_point():
        raise NotRunnable("fmod=0 is defined for integers only")
    return torch.remainder(a, b)


@op("Max", 8, 12, 13)
def maximum(*xs: Tensor) -> Tensor:
    return reduce(torch.maximum, xs)


@op("Min", 8, 12, 13)
def minimum(*xs: Tensor) -> Tensor:
    return reduce(torch.minimum, xs)


@op("Sum", 8, 13)
def sum_of(*xs: Tensor) -> Tensor:
    return reduce(torch.add, xs)


@op("Mean", 8, 13)
def mean_of(*xs: Tensor) -> Tensor:
    return reduce(torch.add, xs) / len(xs)


@op("Where", 9, 16)
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@op("IsInf", 10, 20)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    infinite = torch.isinf(x)
    if not detect_negative:
        infinite = infinite & (x > 0)
    return infinite if detect_positive else infinite & (x < 0)


@op("Cast", 6, 9, 13, 19, 21, 23, 24, 25)
def cast(x: Tensor, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(to)


@op("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


@op("Dropout", 7, 10)
def dropout_attribute(x: Tensor, *, ratio: float = 0.5) -> Tensor:
    """Of an inference model: the identity."""
    return x


@op("Dropout", 12, 13, 22, host=("ratio", "training_mode"))
def dropout(x: Tensor, ratio: Any = None, training_mode: Any = None, *, seed: int = 0) -> Tensor:
    if training_mode is not None and bool(training_mode):
        raise NotRunnable("the model was exported in training mode; export it for inference")
    return x
