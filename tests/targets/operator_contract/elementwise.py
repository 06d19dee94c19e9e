"""Operators that work number by number: arithmetic, comparisons, casts, and tensors made of nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from .comparison import Comparison, ints, rand

aten = torch.ops.aten


UNARY = {
    "neg": torch.neg,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "abs": torch.abs,
    "sign": torch.sign,
    "sgn": torch.sgn,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 1.3),
    "selu": F.selu,
    "softplus": lambda x: F.softplus(x, 1.5, 3.0),
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "threshold": lambda x: F.threshold(x, 0.3, -1.0),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "pow2": lambda x: x**2,
    "pow3": lambda x: x**3,
    "pow4": lambda x: x**4,
    "pow5": lambda x: x**5,
    "pow-1": lambda x: x**-1,
    "add": lambda x: x + 1.5,
    "rsub": lambda x: 1.5 - x,
    "mul": lambda x: x * 3,
    "div": lambda x: x / 3,
    "rdiv": lambda x: 3 / x,
}

POSITIVE = {
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "tan": torch.tan,
    "pow.5": lambda x: x**0.5,
    "pow-.5": lambda x: x**-0.5,
    "pow1.7": lambda x: x**1.7,
    "rpow": lambda x: 2**x,
}

BINARY = {
    "add": lambda a, b: torch.add(a, b, alpha=0.3),
    "sub": lambda a, b: torch.sub(a, b, alpha=2),
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda a, b: torch.where(a > b, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=0.5),
}


class Elementwise(Comparison):
    @pytest.mark.parametrize("name", UNARY)
    def test_unary(self, name: str) -> None:
        self.check_grad(UNARY[name], 2 * rand(3, 5, 7))

    @pytest.mark.parametrize("name", POSITIVE)
    def test_unary_of_positive(self, name: str) -> None:
        self.check_grad(POSITIVE[name], rand(3, 5, 7, low=0.1))

    @pytest.mark.parametrize("function", [torch.log1p, torch.expm1])
    def test_small_arguments_keep_their_digits(self, function: Callable[..., Any]) -> None:
        self.check(function, torch.logspace(-7, -3, 20))

    @pytest.mark.parametrize(
        "shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((2, 1, 4), (5, 1)), ((), (3,))]
    )
    @pytest.mark.parametrize("name", BINARY)
    def test_binary_broadcasts(self, name: str, shapes: Any) -> None:
        self.check_grad(BINARY[name], rand(*shapes[0]), rand(*shapes[1], seed=9))

    @pytest.mark.parametrize("mode", [None, "floor", "trunc"])
    def test_division_modes(self, mode: str | None) -> None:
        a, b = ints(9, 50, low=-9), torch.tensor([1, 2, -3, 4, -5] * 10)
        self.check(lambda a, b: torch.div(a, b, rounding_mode=mode), a, b)
        self.check(lambda a: torch.div(a, 3, rounding_mode=mode), a)
        self.check(lambda a, b: torch.div(a, b, rounding_mode=mode), a + 0.25, b * 1.5)

    def test_integer_arithmetic(self) -> None:
        a, b = ints(9, 50, low=-9), torch.tensor([1, 2, -3, 4, -5] * 10)
        self.check(
            lambda a, b: (a + b, a - b, a * b, a // b, a % b, torch.fmod(a, b), -a, a.abs(), 2 * a, a + 1),
            a,
            b,
        )
        self.check(
            lambda a, b: (a + b * 0.5, a / b, a + 1.5, torch.fmod(a * 1.5, b * 0.71), (a * 1.5) % (b * 0.71)),
            a,
            b,
        )
        self.check(lambda a, b: (a & b, a | b, a ^ b, ~a, a.clamp(-2, 3), torch.maximum(a, b)), a, b)

    def test_comparisons_promote_their_operands(self) -> None:
        a, b = ints(4, 60), ints(4, 60).float() + 0.5
        c = ints(4, 60).flip(0)
        self.check(lambda a, b: (a == b, a != b, a < b, a <= b, a > b, a >= b, a < 2.5, a == 2), a, b)
        self.check(lambda a, c: (a == c, a != c, a < c, a <= c, a > c, a >= c), a, c)

    def test_logic(self) -> None:
        a, b = ints(2, 20).bool(), ints(2, 20).flip(0).bool()
        self.check(
            lambda a, b: (a & b, a | b, a ^ b, ~a, a.logical_and(b), a.logical_or(b), a.logical_not()), a, b
        )
        self.check(
            lambda a, b: (a * b, a + b, a.float(), a.long() + 1, a.logical_xor(b), torch.where(a, b, ~b)),
            a,
            b,
        )
        self.check(
            lambda a, x: (x.masked_fill(a, -3.0), torch.where(a, x, 0.0), torch.where(a, 1.0, x)), a, rand(20)
        )
        self.check(lambda x: (x.logical_not(), x.bool()), torch.tensor([0.0, 0.5, -1.0]))

    def test_not_finite(self) -> None:
        x = torch.tensor([0.0, float("nan"), float("inf"), -float("inf")])
        self.check(lambda x: (x.isnan(), x.isinf(), x.isfinite(), torch.where(x.isnan(), 0.0, x)), x)

    @pytest.mark.parametrize("to", [torch.int64, torch.int32, torch.bool, torch.float64, torch.float32])
    def test_casts(self, to: torch.dtype) -> None:
        self.check(lambda x: (x.to(to).to(torch.float32), x.clone()), 3 * rand(4, 5))
        self.check(lambda x: x.to(to).to(torch.float32), ints(5, 20, low=-5))

    def test_creation(self) -> None:
        self.check(
            lambda x: (
                torch.zeros(2, 3) + x,
                torch.ones_like(x) * x,
                torch.full((3,), 2.5) + x,
                x.new_ones(3) + x,
                x.new_full((3,), 4.0) - x,
                x.new_zeros(2, 3) + x,
                torch.arange(3) + x,
                torch.arange(1, 7, 2) * x,
                torch.scalar_tensor(2.0) * x,
                torch.full_like(x, 3) + torch.eye(3),
                torch.linspace(0, 1, 3) + x,
            ),
            rand(3),
        )
