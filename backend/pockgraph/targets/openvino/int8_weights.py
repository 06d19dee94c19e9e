"""Frozen matrices that OpenVINO keeps in int8, in the file and in memory.

    Const i8 → Convert → Multiply by the rows' scales → MatMul

is what its CPU plugin (2026.4) compiles to one product that reads int8, for `x Wᵀ` (`transpose_b`). Without
`Multiply`, or with a `Transpose` of the int8 numbers, it makes a float32 copy. In `dy W` the scales run along
what is added up, and with fewer than eight rows the plugin takes wrong ones, without a word: so `dy` is
scaled, and the numbers get scales of one. Rows of an embedding are looked up in int8, and scaled after that.
"""

from __future__ import annotations

import numpy as np
from torch import fx

from ...passes.int8_weights import Int8Rows, weight_of_product
from .emitter import Value, array, emit, op
from .openvino_rules import Context


def emit_int8(weight: Int8Rows) -> Value:
    """The matrix as float32, which nobody computes as long as only products read it."""
    return _scaled(array(weight.numbers.numpy()), weight.scales.numpy())


def int8_parts(ctx: Context, node: fx.Node) -> tuple[Value, Value] | None:
    """The int8 numbers and the scales of what `emit_int8` made for an input; None for anything else."""
    made = ctx.values[node].get_node() if node.op == "placeholder" else None
    if made is None or made.get_type_name() != "Multiply":
        return None
    numbers, scales = made.input_values()
    return numbers.get_node().input_value(0), scales


def int8_product(ctx: Context, node: fx.Node, a: Value) -> Value | None:
    """`a` times a matrix that is kept in int8; None for others."""
    weight, transposed = weight_of_product(node)
    parts = int8_parts(ctx, weight)
    if parts is None:
        return None
    if transposed:
        return emit.matmul(a, ctx.values[weight], transpose_b=True)
    numbers, scales = (p.get_node().data for p in parts)
    rows, columns = numbers.shape
    a = emit.mul(a, array(scales.reshape(1, rows)))
    if rows != columns:
        return emit.matmul(a, _scaled(parts[0], np.ones((1, columns), np.float32)))
    # Square matrices are packed once and taken for both products, see `ops_matmul`.
    return emit.matmul(a, _scaled(array(numbers.T), np.ones((rows, 1), np.float32)), transpose_b=True)


def _scaled(numbers: Value, scales: np.ndarray) -> Value:
    return op.multiply(op.convert(numbers, "f32"), array(scales)).output(0)
