"""Quotients and remainders of floating-point numbers.

OpenVINO's own remainder is off where one number almost divides the other, and it multiplies by the reciprocal
of a constant, which a rounding to whole numbers shows.
"""

from __future__ import annotations

from .emitter import Value, emit, op


def fmod(x: Value, y: Value) -> Value:
    """C's, exact for ratios below 2**24."""
    size, divisor = op.abs(x).output(0), op.abs(y).output(0)
    rest = _without_product(size, op.floor(emit.div(size, divisor)).output(0), divisor)
    zero = emit.scalar(0, x)  # the ratio may have been rounded to the next integer, or below it
    rest = emit.select(op.less(rest, zero).output(0), emit.add(rest, divisor), rest)
    rest = emit.select(op.greater_equal(rest, divisor).output(0), emit.sub(rest, divisor), rest)
    return emit.select(op.less(x, zero).output(0), op.negative(rest).output(0), rest)


def exact_ratio(x: Value, y: Value) -> Value:
    """x / y to the last bit; OpenVINO multiplies by the reciprocal of a constant."""
    ratio = emit.div(x, y)
    better = emit.add(ratio, emit.div(_without_product(x, ratio, y), y))
    usual = op.logical_and(
        op.less(op.abs(ratio), emit.scalar(1e30, x)), op.less(op.abs(y), emit.scalar(1e30, x))
    )
    return emit.select(usual.output(0), better, ratio)


def _without_product(x: Value, q: Value, y: Value) -> Value:
    """x - q y where that is small: by four products of twelve bits with twelve, which float32 holds."""
    for a in _halves(q):
        for b in _halves(y):
            x = emit.sub(x, emit.mul(a, b))
    return x


def _halves(x: Value) -> tuple[Value, Value]:
    """The upper twelve bits and the others (Veltkamp's split)."""
    wide = emit.scale(x, 4097.0)
    high = emit.sub(wide, emit.sub(wide, x))
    return high, emit.sub(x, high)
