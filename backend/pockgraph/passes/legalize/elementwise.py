"""Functions of single elements, in terms of the few that every runtime has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .table import Inexpansible, expands

aten = torch.ops.aten


def negative(x: Tensor) -> Tensor:
    """Is the sign of x set? That of -0.0 is."""
    return (x < 0) | ((x == 0) & (x.reciprocal() < 0))


def with_sign(size: Tensor, sign: Tensor) -> Tensor:
    return torch.where(negative(sign), -size, size)


# ---------------------------------------------------------------- logarithms and exponentials


@expands(aten.log2.default)
def log2(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / math.log(2))


@expands(aten.log10.default)
def log10(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / math.log(10))


@expands(aten.log1p.default)
def log1p(x: Tensor) -> Tensor:
    """log(u) * x / (u - 1) with u = 1 + x corrects the rounding of u (Kahan)."""
    u = 1 + x
    exact = (u == 1) | (x == math.inf)
    return torch.where(exact, x, torch.log(u) * (x / torch.where(exact, 1.0, u - 1)))


@expands(aten.expm1.default)
def expm1(x: Tensor) -> Tensor:
    """2 t / (1 - t) with t = tanh(x / 2); far from 0 the plain form is the exact one."""
    near = x.abs() < 0.5
    t = torch.where(near, torch.tanh(x * 0.5), 0.0)
    return torch.where(near, t * 2 / (1 - t), torch.exp(x) - 1)


# ---------------------------------------------------------------- circular and hyperbolic


@expands(aten.asin.default)
def asin(x: Tensor) -> Tensor:
    return 2 * torch.atan(x / (1 + torch.sqrt((1 - x) * (1 + x))))


@expands(aten.acos.default)
def acos(x: Tensor) -> Tensor:
    return 2 * torch.atan(torch.sqrt((1 - x) / (1 + x)))


@expands(aten.atan2.default)
def atan2(y: Tensor, x: Tensor) -> Tensor:
    a, b = y.abs(), x.abs()
    least, most = torch.minimum(a, b), torch.maximum(a, b)
    # Equal infinities make an angle of pi / 4, two zeros one of 0.
    ratio = torch.where(least == most, torch.where(most == 0, 0.0, 1.0), least / most)
    angle = torch.atan(ratio)
    angle = torch.where(a > b, math.pi / 2 - angle, angle)
    return with_sign(torch.where(negative(x), math.pi - angle, angle), y)


@expands(aten.asinh.default)
def asinh(x: Tensor) -> Tensor:
    a = x.abs()
    near = torch.clamp_max(a, 1e9)
    size = torch.log1p(near + near * near / (1 + torch.sqrt(1 + near * near)))
    return with_sign(torch.where(a > 1e9, torch.log(a) + math.log(2), size), x)


@expands(aten.acosh.default)
def acosh(x: Tensor) -> Tensor:
    t = torch.clamp_max(x, 1e9) - 1
    return torch.where(x > 1e9, torch.log(x) + math.log(2), torch.log1p(t + torch.sqrt(t * (t + 2))))


@expands(aten.atanh.default)
def atanh(x: Tensor) -> Tensor:
    a = x.abs()
    return with_sign(0.5 * torch.log1p(2 * a / (1 - a)), x)


@expands(aten.hypot.default)
def hypot(x: Tensor, y: Tensor) -> Tensor:
    a, b = x.abs(), y.abs()
    most = torch.maximum(a, b)
    ratio = torch.minimum(a, b) / torch.where(most == 0, 1.0, most)
    return most * torch.sqrt(1 + ratio * ratio)


# ---------------------------------------------------------------- signs, powers, comparisons


@expands(aten.copysign.Tensor)
def copysign(x: Tensor, sign: Tensor) -> Tensor:
    return with_sign(x.abs(), sign)


@expands(aten.copysign.Scalar)
def copysign_scalar(x: Tensor, sign: float) -> Tensor:
    return x.abs() * math.copysign(1.0, sign)


@expands(aten.signbit.default)
def signbit(x: Tensor) -> Tensor:
    return negative(x)


@expands(aten.fmax.default)
def fmax(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, torch.maximum(x, y)))


@expands(aten.fmin.default)
def fmin(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, torch.minimum(x, y)))


@expands(aten.isnan.default)
def isnan(x: Tensor) -> Tensor:
    return x != x


@expands(aten.isinf.default)
def isinf(x: Tensor) -> Tensor:
    return x.abs() == math.inf


@expands(aten.isfinite.default)
def isfinite(x: Tensor) -> Tensor:
    return x.abs() < math.inf


@expands(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(x: Tensor, end: Tensor, weight: Any) -> Tensor:
    return x + weight * (end - x)


@expands(aten.copy.default)
def copy(x: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
    return source.to(x.dtype).expand(x.shape)


@expands(aten.exp2.default)
def exp2(x: Tensor) -> Tensor:
    return torch.pow(2.0, x)


@expands(aten.ldexp.Tensor)
def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    return x * torch.pow(2.0, exponent.to(x.dtype))


@expands(aten.hardshrink_backward.default, aten.softshrink_backward.default)
def shrink_backward(dy: Tensor, x: Tensor, limit: float) -> Tensor:
    return torch.where((x >= -limit) & (x <= limit), 0.0, dy)


# ---------------------------------------------------------------- the error function and its kin


@expands(aten.erfc.default)
def erfc(x: Tensor) -> Tensor:
    """Far from zero by a Chebyshev fit, relative error 1.2e-7 (Press et al., Numerical Recipes, 6.2)."""
    a = x.abs()
    t = 1 / (1 + 0.5 * a)
    series = torch.full_like(t, 0.17087277)
    for c in (-0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
              1.00002368, -1.26551223):  # fmt: skip
        series = series * t + c
    tail = t * torch.exp(series - a * a)
    return torch.where(a < 0.5, 1 - torch.erf(x), torch.where(x < 0, 2 - tail, tail))


@expands(aten.erfinv.default)
def erfinv(x: Tensor) -> Tensor:
    """Two polynomials of log(1 - x²), relative error 3e-7 (Giles, GPU Computing Gems, 2011)."""
    w = -torch.log((1 - x) * (1 + x))
    centre, root = w - 2.5, torch.sqrt(w) - 3
    near = torch.full_like(w, 2.81022636e-08)
    for c in (3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
              -0.00417768164, 0.246640727, 1.50140941):  # fmt: skip
        near = near * centre + c
    far = torch.full_like(w, -0.000200214257)
    for c in (0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
              1.00167406, 2.83297682):  # fmt: skip
        far = far * root + c
    inside = torch.where(w < 5, near, far) * x
    return torch.where(x.abs() == 1, x * math.inf, inside)


# ---------------------------------------------------------------- the gamma function and its kin

# Stirling's series is exact in float32 from here on; smaller arguments are taken there step by step.
STIRLING_FROM = 8


def _reflected(x: Tensor) -> Tensor:
    """x, or 1 - x for arguments below 1/2, where the reflection formulas give the value."""
    return torch.where(x < 0.5, 1 - x, x)


# lgamma(2 + u) = u (LGAMMA[0] + LGAMMA[1] u + …): 1 - Euler's constant, then (-1)^k (zeta(k) - 1) / k
_ZETA = torch.special.zeta(torch.arange(2, 13, dtype=torch.float64), 2.0).tolist()
LGAMMA = [0.42278433509846714, *((-1) ** k * z / k for k, z in enumerate(_ZETA, start=2))]


@expands(aten.lgamma.default)
def lgamma(x: Tensor) -> Tensor:
    z = _reflected(x)
    # Small arguments: a series around 2, and the steps from there. It keeps the zeros at 1 and 2.
    near = z.clamp_max(STIRLING_FROM)
    steps = torch.floor(near + 0.5)
    u = near - steps
    series = torch.full_like(u, LGAMMA[-1])
    for c in reversed(LGAMMA[:-1]):
        series = series * u + c
    product = torch.ones_like(u)
    for i in range(2, STIRLING_FROM):
        product = product * torch.where(i < steps, u + i, 1.0)
    small = u * series + torch.log(product) - torch.where(steps < 2, torch.log1p(u), 0.0)
    r = 1 / z
    tail = r * (1 / 12 - r * r * (1 / 360 - r * r / 1260)) + 0.5 * math.log(2 * math.pi)
    value = torch.where(z < STIRLING_FROM, small, (z - 0.5) * torch.log(z) - z + tail)
    sine = torch.sin(math.pi * (x - torch.floor(x))).abs()
    return torch.where(x < 0.5, math.log(math.pi) - torch.log(sine) - value, value)


@expands(aten.digamma.default)
def digamma(x: Tensor) -> Tensor:
    z = _reflected(x)
    small = z < STIRLING_FROM
    steps = torch.zeros_like(z)
    for i in range(STIRLING_FROM):
        steps = steps + torch.where(small, 1 / (z + i), 0.0)
    y = torch.where(small, z + STIRLING_FROM, z)
    r = 1 / (y * y)
    value = torch.log(y) - 0.5 / y - r * (1 / 12 - r * (1 / 120 - r / 252)) - steps
    return torch.where(x < 0.5, value - math.pi / torch.tan(math.pi * (x - torch.floor(x))), value)


@expands(aten.polygamma.default)
def polygamma(n: int, x: Tensor) -> Tensor:
    if n == 0:
        return digamma(x)
    if n != 1:
        raise Inexpansible(f"of the polygamma functions only those of order 0 and 1 are lowered, not {n}")
    z = _reflected(x)
    small = z < STIRLING_FROM
    steps = torch.zeros_like(z)
    for i in range(STIRLING_FROM):
        steps = steps + torch.where(small, 1 / ((z + i) * (z + i)), 0.0)
    y = torch.where(small, z + STIRLING_FROM, z)
    r = 1 / (y * y)
    value = (1 + r * (1 / 6 - r * (1 / 30 - r / 42))) / y + 0.5 * r + steps
    sine = torch.sin(math.pi * (x - torch.floor(x)))
    return torch.where(x < 0.5, (math.pi / sine) ** 2 - value, value)


@expands(aten._efficientzerotensor.default)
def zeros(
    size: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool | None = None,
) -> Tensor:
    return torch.zeros(size, dtype=dtype)


# ---------------------------------------------------------------- rounding to steps


@expands(aten.round.decimals)
def round_to_decimals(x: Tensor, *, decimals: int) -> Tensor:
    power = 10.0 ** abs(decimals)
    if decimals < 0:
        return torch.round(x / power) * power
    return torch.round(x * power) / power if decimals else torch.round(x)


def _fake_quantized(x: Tensor, scale: Any, zero_point: Any, low: int, high: int) -> tuple[Tensor, Tensor]:
    """`x` in steps of `scale`, and where its gradient passes."""
    inverse = 1 / torch.as_tensor(scale, dtype=torch.float32)
    step = torch.round(x * inverse) + zero_point
    return (step.clamp(low, high) - zero_point) * scale, (step >= low) & (step <= high)


@expands(aten.fake_quantize_per_tensor_affine_cachemask.default)
def fake_quantize(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> tuple[Tensor, Tensor]:
    return _fake_quantized(x, scale, float(zero_point), low, high)


@expands(aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default)
def fake_quantize_by_tensors(
    x: Tensor, scale: Tensor, zero_point: Tensor, enabled: Tensor, low: int, high: int
) -> tuple[Tensor, Tensor]:
    quantized, passes = _fake_quantized(x, scale, zero_point.to(x.dtype), low, high)
    on = enabled != 0
    return torch.where(on, quantized, x), passes | ~on


@expands(aten.fake_quantize_per_channel_affine_cachemask.default)
def fake_quantize_channels(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int
) -> tuple[Tensor, Tensor]:
    size = [s if d == axis % x.ndim else 1 for d, s in enumerate(x.shape)]
    return _fake_quantized(x, scale.reshape(size), zero_point.to(x.dtype).reshape(size), low, high)


# ---------------------------------------------------------------- shifts of integers


def _powers(x: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """2 to the power of 0 <= `by` < 63, as two factors that 32 bits hold."""
    table = 2 ** torch.arange(31, dtype=x.dtype)
    first = by.clamp(0, 30)
    look = lambda i: table.index_select(0, i.reshape(-1).long()).reshape(by.shape)  # noqa: E731
    return look(first), look((by - first).clamp(0, 30))


def _bits(x: Tensor) -> int:
    if x.dtype not in (torch.int32, torch.int64):
        raise Inexpansible(f"a shift of {x.dtype} is not lowered; take .int() before it")
    return torch.iinfo(x.dtype).bits


@expands(
    aten.__lshift__.Scalar, aten.__lshift__.Tensor, aten.bitwise_left_shift.Tensor,
    aten.bitwise_left_shift.Tensor_Scalar, aten.bitwise_left_shift.Scalar_Tensor,
)  # fmt: skip
def left_shift(x: Any, by: Any) -> Tensor:
    if not isinstance(x, Tensor):
        x = torch.full_like(by, x)
    bits = _bits(x)
    if not isinstance(by, Tensor):
        return x * 2**by if 0 <= by < 31 else left_shift(x, torch.full_like(x, by))
    first, second = _powers(x, by)
    return torch.where((by >= 0) & (by < bits), x * first * second, 0)


@expands(
    aten.__rshift__.Scalar, aten.__rshift__.Tensor, aten.bitwise_right_shift.Tensor,
    aten.bitwise_right_shift.Tensor_Scalar, aten.bitwise_right_shift.Scalar_Tensor,
)  # fmt: skip
def right_shift(x: Any, by: Any) -> Tensor:
    if not isinstance(x, Tensor):
        x = torch.full_like(by, x)
    bits = _bits(x)
    if not isinstance(by, Tensor):
        if not 0 <= by < 31:
            return right_shift(x, torch.full_like(x, by))
        return torch.div(x, 2**by, rounding_mode="floor")
    first, second = _powers(x, by)
    shifted = torch.div(torch.div(x, first, rounding_mode="floor"), second, rounding_mode="floor")
    return torch.where((by >= 0) & (by < bits - 1), shifted, torch.where(x < 0, -1, 0))


# ---------------------------------------------------------------- views that a file cannot hold


@expands(aten._conj.default)
def conj(x: Tensor) -> Tensor:
    return torch.conj_physical(x)


@expands(aten.as_strided.default)
def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None) -> Tensor:
    raise Inexpansible(
        "it reads memory by strides, as torch.stft does; take x.unfold(…), whose windows a product with "
        "matrices of cosines and sines makes a spectrum"
    )
