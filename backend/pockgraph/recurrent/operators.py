"""The loops of recurrent layers as operators, `torch.ops.pockgraph`: the one exception to core ATen.

Only what must run step after step is inside. The inputs' share of the gates is computed for all steps
beforehand, and the gradients of all weights afterwards, by ordinary operators that a plan can keep or drop.

    lstm(gates, h0, c0, w_hh, w_hr, reverse, valid)           -> h, c, i, f, g, o
    lstm_backward(dh, dc, slopes, slope_c, f, w_hh, w_hr, …)  -> dgates, dc0, dh of every step
    gru(gates, h0, w_hh, b_hh, reverse, valid)                -> h, r, z, n, hidden share of n
    gru_backward(dh, slopes, z, w_hh, reverse)                -> dhidden, dh of every step
    gru_reset_first(gates, h0, w_hh, reverse, valid)          -> h, r, z, n
    gru_reset_first_backward(dh, slopes, r, z, w_hh, reverse) -> dgates, dh0
    rnn(gates, h0, w_hh, relu, reverse, valid)                -> h
    rnn_backward(dh, slopes, w_hh, reverse, hold)             -> dgates
    before(sequence, first, reverse)                          -> the states that the steps began with
    lengths(lengths, steps, reached, descending)              -> lengths, which a device checks

Sequences are `[T, N, …]` in the order of time, also where `reverse` runs from the last step to the first.
Formulas and the order of gates are PyTorch's (`nn.LSTM`, `nn.GRU`, `nn.RNN`); a GRU that resets the state
before the product with its weights, and not after, is ONNX's of `linear_before_reset=0`. *Slopes* are the
derivatives of what a step makes by its gates: they are known for all steps when the backward loop begins.

Sequences of several lengths: where `valid` (bool `[T, N, 1]`) is not set, a step leaves the state as it is.
In backward loops the slopes are zero there, and `hold` (`[T, N, 1]`) is 1: the share of the gradient of a
step's state that goes to the state before as it is. A GRU's update gate, 1 there, is that share already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import gru, lstm, rnn  # noqa: F401 — they define their operators
from .loops import define, require_shapes

ops = torch.ops.pockgraph


def _before(sequence: Tensor, first: Tensor, reverse: bool) -> Tensor:
    first = first.unsqueeze(0)
    return torch.cat([sequence[1:], first] if reverse else [first, sequence[:-1]])


def _before_meta(sequence: Tensor, first: Tensor, reverse: bool) -> Tensor:
    require_shapes({tuple(sequence.shape[1:]): [first]})
    return sequence.new_empty(sequence.shape)


define(
    "before(Tensor sequence, Tensor first, bool reverse) -> Tensor",
    _before,
    _before_meta,
)

# ---------------------------------------------------------------- lengths


def _lengths(lengths: Tensor, steps: int, reached: bool, descending: bool) -> Tensor:
    return lengths.to(torch.int64, copy=True)


def _lengths_meta(lengths: Tensor, steps: int, reached: bool, descending: bool) -> Tensor:
    if lengths.ndim != 1 or lengths.is_floating_point():
        raise RuntimeError(f"lengths are integers [N], not {lengths.dtype} {tuple(lengths.shape)}")
    return lengths.new_empty(lengths.shape, dtype=torch.int64)


define(
    "lengths(Tensor lengths, int steps, bool reached, bool descending) -> Tensor",
    _lengths,
    _lengths_meta,
)

# ---------------------------------------------------------------- what they are, for other rooms

# Operator -> argument positions of the weights that its steps multiply by.
_FORWARD: dict[Any, tuple[int, ...]] = {
    ops.lstm.default: (3, 4),
    ops.gru.default: (2,),
    ops.gru_reset_first.default: (2,),
    ops.rnn.default: (2,),
}
_BACKWARD: dict[Any, tuple[int, ...]] = {
    ops.lstm_backward.default: (5, 6),
    ops.gru_backward.default: (3,),
    ops.gru_reset_first_backward.default: (4,),
    ops.rnn_backward.default: (2,),
}
WEIGHTS = {**_FORWARD, **_BACKWARD}
FORWARD, BACKWARD = tuple(_FORWARD), tuple(_BACKWARD)
_BESIDE = (ops.before.default, ops.lengths.default)
LOOPS: dict[str, Any] = {str(target): target for target in (*WEIGHTS, *_BESIDE)}


def flops(target: Any, args: Any) -> int:
    """Floating-point operations of one call; `args` are tensors, or meta tensors."""
    steps, samples = args[0].shape[:2]
    weights = sum(args[i].numel() for i in WEIGHTS[target] if args[i] is not None)
    largest = max(a.numel() for a in args if isinstance(a, Tensor))
    return 2 * steps * samples * weights + 4 * largest
