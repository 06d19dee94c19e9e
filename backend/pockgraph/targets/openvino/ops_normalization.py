"""Layer norm.

OpenVINO's MVN gives the normalized tensor in one kernel. The statistics that ATen also returns are
made only where a backward reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from .emitter import Value, emit, ints, op
from .openvino_rules import Context, rule

aten = torch.ops.aten


def _normalized(x: Value, dims: Sequence[int], eps: float) -> Value:
    return op.mvn(x, ints(list(dims)), True, eps, "INSIDE_SQRT").output(0)


def _statistics(x: Value, dims: Sequence[int], eps: float) -> tuple[Value, Value]:
    """Mean and 1/sqrt(variance + eps), dimensions kept."""
    center = emit.mean(x, dims, keepdim=True)
    delta = emit.sub(x, center)
    variance = emit.mean(emit.mul(delta, delta), dims, keepdim=True)
    root = op.sqrt(emit.add(variance, emit.scalar(eps, x)))
    return center, emit.div(emit.scalar(1, x), root.output(0))


def _affine(x: Value, weight: Value | None, bias: Value | None) -> Value:
    x = x if weight is None else emit.mul(x, weight)
    return x if bias is None else emit.add(x, bias)


@rule(aten.native_layer_norm.default)
def layer_norm(
    ctx: Context,
    node: fx.Node,
    x: Value,
    size: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, Value, Value]:
    dims = range(emit.rank(x) - len(size), emit.rank(x))
    center, rstd = _statistics(x, dims, eps)
    return _affine(_normalized(x, dims, eps), weight, bias), center, rstd
