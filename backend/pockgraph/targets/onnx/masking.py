"""Gradients of which a mask keeps a part.

ONNX Runtime's `Where` branches on every element: it takes up to fifteen times as long as a product with the
mask as numbers. The two are the same for finite gradients only: 0 * inf is NaN, where PyTorch has 0, as
after `sqrt(relu(x))`. So the product is made where the gradient comes out of a matrix product or a dense
convolution. One that is not finite has reached all features there, and with them what is trained.
"""

from __future__ import annotations

import torch

from . import op
from .emitter import emit
from .value import Node, Value, is_constant

_VIEWS = ("Reshape", "Transpose", "Expand", "Slice")
_SUMS = ("Add", "Sub", "Neg")


def keep_gradient(mask: Value, dy: Value) -> Value:
    """`dy` where the boolean `mask` is set, else 0."""
    return emit.mul(dy, emit.convert(mask, dy.dtype)) if _dense(dy) else emit.keep_where(mask, dy)


def drop_gradient(mask: Value, dy: Value) -> Value:
    """0 where the boolean `mask` is set, else `dy`."""
    return keep_gradient(op.logical_not(mask), dy) if _dense(dy) else emit.drop_gradient(mask, dy)


def _dense(x: Value) -> bool:
    """Whether `x` is made of dense products, by sums and by factors that are finite."""
    seen: set[Node] = set()
    stack = [x]
    while stack:
        value = stack.pop()
        node = value.node
        if node in seen:
            continue
        seen.add(node)
        inputs = [i for i in node.inputs if i is not None]
        if node.kind == "MatMul" or (
            node.kind in ("Conv", "ConvTranspose") and node.attributes["group"] == 1
        ):
            continue
        if node.kind in (*_VIEWS, "Conv", "ConvTranspose"):
            stack.append(inputs[0])
        elif node.kind == "Mul" and any(_finite(i) for i in inputs):
            stack.append(inputs[0] if _finite(inputs[1]) else inputs[1])
        elif node.kind in _SUMS:
            stack += inputs
        else:
            return False
    return True


def _finite(x: Value) -> bool:
    """A mask, or what is made of constants and inputs of the step (weights, rates) without a division."""
    if x.kind in (*_VIEWS, *_SUMS, "Mul", "Cast"):
        operands = x.node.inputs if x.kind in (*_SUMS, "Mul") else x.node.inputs[:1]
        return x.dtype == torch.bool or all(_finite(i) for i in operands if i is not None)
    return x.dtype == torch.bool or not x.kind or is_constant(x)
