"""LSTMs and GRUs by ONNX's own operators, where nobody asks what they do not give.

They take the inputs of a layer and give its states alone: all that evaluation asks, and training where
nothing in front of the layer, or in it, is trained. A backward pass reads the gates as well. Computing an
LSTM's again, in one product over all steps, and its memory in a loop of two operators, takes as long as the
loop that keeps them. The operator `RNN` takes longer than a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..shared import recurrent
from .emitter import emit
from .value import Value, make_many

Rule = Callable[..., Any]
_LSTM_ORDER = (0, 3, 1, 2)  # ONNX's i o f g in PyTorch's i f g o
_GRU_ORDER = (1, 0, 2)  # z r n in r z n


@dataclass(frozen=True)
class _Inputs:
    """What the gates of all steps are made of: x [T, N, D], weight [G, D], bias [G]."""

    x: Value
    weight: Value
    bias: Value


def lstm(by_loop: Rule) -> Rule:
    """The rule of an LSTM, which falls back on one that makes a loop."""

    def rule(
        ctx: Any, node: fx.Node, gates: Value, h0: Value, c0: Value, w_hh: Value, w_hr: Value | None,
        reverse: bool, valid: Value | None = None,
    ) -> tuple[Value | None, ...]:  # fmt: skip
        inputs = _inputs(gates)
        if inputs is None or valid is not None or w_hr is not None or not recurrent.results_read(node) <= {0}:
            return by_loop(ctx, node, gates, h0, c0, w_hh, w_hr, reverse, valid)
        h = _states("LSTM", inputs, (h0, c0), w_hh, None, _LSTM_ORDER, reverse)
        return h, *[None] * 5

    return rule


def gru(by_loop: Rule, reset_first: bool) -> Rule:
    """As `lstm`, of a GRU."""

    def rule(ctx: Any, node: fx.Node, gates: Value, h0: Value, w_hh: Value, *rest: Any) -> Any:
        b_hh, reverse, valid = rest if not reset_first else (None, *rest)
        inputs = _inputs(gates)
        if inputs is None or valid is not None or not recurrent.results_read(node) <= {0}:
            return by_loop(ctx, node, gates, h0, w_hh, *rest)
        after = int(not reset_first)
        h = _states("GRU", inputs, (h0,), w_hh, b_hh, _GRU_ORDER, reverse, linear_before_reset=after)
        return h, *[None] * (3 if reset_first else 4)

    return rule


def _states(
    kind: str, inputs: _Inputs, initial: Sequence[Value], w_hh: Value, b_hh: Value | None,
    order: Sequence[int], reverse: bool, **attributes: Any,
) -> Value:  # fmt: skip
    """The states [T, N, H] of one direction; `order` says which of PyTorch's gates stands where in ONNX."""

    def ordered(rows: Value) -> Value:
        parts = emit.pieces(rows, len(order), 0)
        return emit.concat([parts[k] for k in order], 0)

    (steps, samples, _), (gates, hidden) = inputs.x.shape, w_hh.shape
    b_hh = emit.full(0, [gates], w_hh.dtype) if b_hh is None else ordered(b_hh)
    weights = ordered(inputs.weight), ordered(w_hh), emit.concat([ordered(inputs.bias), b_hh], 0)
    given = [inputs.x, *(emit.unsqueeze(w, [0]) for w in weights), None]
    given += [emit.unsqueeze(s, [0]) for s in initial]
    shapes = [[steps, 1, samples, hidden], *[[1, samples, hidden]] * len(initial)]
    direction = "reverse" if reverse else "forward"
    attributes |= {"hidden_size": hidden, "direction": direction}
    made = make_many(kind, given, shapes, [w_hh.dtype] * len(shapes), **attributes)
    return emit.reshape(made[0], [steps, samples, hidden])


def _inputs(gates: Value) -> _Inputs | None:
    """What the gates are a product of, if they are one that lies open."""
    product = gates.node.inputs[0] if gates.kind == "Reshape" else None
    bias = None
    if product is not None and product.kind == "Add":
        product, bias = product.node.inputs
    if product is None or product.kind != "MatMul" or gates.dtype != torch.float32:
        return None
    x, weight = product.node.inputs
    steps, samples, width = gates.shape
    if x is None or weight is None or product.shape != (steps * samples, width) or len(weight.shape) != 2:
        return None
    if bias is None:
        bias = emit.full(0, [width], gates.dtype)
    if bias.shape != (width,):
        return None
    return _Inputs(emit.reshape(x, [steps, samples, -1]), emit.swap(weight), bias)
