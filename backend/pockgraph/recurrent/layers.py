"""LSTM, GRU and RNN as what a training graph holds: one loop for each layer and direction, and the rest.

PyTorch runs `nn.LSTM`, `nn.GRU` and `nn.RNN` as one operator whose kernel, and the backward of it, is
the device's own. Here each direction of a layer becomes a matrix product for the inputs of all steps, and a
loop of `operators.py` over what depends on the step before. The backward pass is a loop that gives the
gradients of all gates; those of weights, biases and inputs are ordinary operators after it.

Packed sequences are padded ones whose steps after a sample's length leave its state as it is (`valid`, see
`operators.py`), in the forward direction after its last step, in the reverse one before its first.

Formulas and the order of gates are PyTorch's. T steps, N samples, D inputs, H hidden units, G gates,
P outputs (H, or an LSTM's projection).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .operators import ops


def _slope(y: Tensor) -> Tensor:
    """The derivative of a sigmoid, by its result."""
    return y * (1 - y)


def _tanh_slope(y: Tensor) -> Tensor:
    return 1 - y * y


def _product(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient [G, P] of a weight: dy [T, N, G] and x [T, N, P], over all steps and samples."""
    return dy.flatten(0, 1).t() @ x.flatten(0, 1)


def _given(*values: Any) -> list[Any]:
    """Arguments at the end of a call that are left out where there is nothing to say."""
    return [v for v in values if v is not None]


def _at_start(sequence: Tensor, reverse: bool) -> Tensor:
    return sequence[-1 if reverse else 0]


def _shares(valid: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """`valid` as a factor, and `hold`, its complement; None where every step is valid."""
    if valid is None:
        return None, None
    factor = valid.to(like.dtype)
    return factor, 1 - factor


def _masked(factor: Tensor | None, *sequences: Tensor) -> tuple[Tensor, ...]:
    return sequences if factor is None else tuple(s * factor for s in sequences)


def _held(share: Tensor, factor: Tensor | None, hold: Tensor | None) -> Tensor:
    """The share of a state that stays: all of it where a step is not valid."""
    return share if factor is None or hold is None else share * factor + hold


class LSTM(Function):
    """`ops.lstm` with a gradient: (gates, h0, c0, w_hh, w_hr, reverse, valid) -> h, c of every step."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        h, c, *gates = ops.lstm.default(*args)
        ctx.set_materialize_grads(False)
        ctx.reverse = args[5]
        ctx.save_for_backward(*args[1:5], args[6], h, c, *gates)
        return h, c

    @staticmethod
    def backward(ctx: Any, dh: Tensor | None, dc: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        h0, c0, w_hh, w_hr, valid, h, c, i, f, g, o = ctx.saved_tensors
        reverse = ctx.reverse
        factor, hold = _shares(valid, h)
        c_before, tanh_c = ops.before.default(c, c0, reverse), torch.tanh(c)
        slopes = torch.cat([g * _slope(i), c_before * _slope(f), i * _tanh_slope(g), tanh_c * _slope(o)], 2)
        slopes, slope_c = _masked(factor, slopes, o * _tanh_slope(tanh_c))
        dh = torch.zeros_like(h) if dh is None else dh
        dgates, dc0, totals = ops.lstm_backward.default(
            dh, dc, slopes, slope_c, _held(f, factor, hold), w_hh, w_hr, reverse, *_given(hold)
        )
        dh0 = _at_start(dgates, reverse) @ w_hh
        if hold is not None:
            dh0 = dh0 + _at_start(hold, reverse) * _at_start(totals, reverse)
        (totals,) = _masked(factor, totals)
        dw_hr = None if w_hr is None else _product(totals, o * tanh_c)
        return dgates, dh0, dc0, _product(dgates, ops.before.default(h, h0, reverse)), dw_hr, None, None


class GRU(Function):
    """`ops.gru` with a gradient: (gates, h0, w_hh, b_hh, reverse, valid) -> h of every step."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        h, *gates = ops.gru.default(*args)
        ctx.reverse, ctx.has_bias = args[4], args[3] is not None
        ctx.save_for_backward(args[1], args[2], args[5], h, *gates)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        h0, w_hh, valid, h, r, z, n, share = ctx.saved_tensors
        reverse = ctx.reverse
        factor, hold = _shares(valid, h)
        h_before = ops.before.default(h, h0, reverse)
        of_n = (1 - z) * _tanh_slope(n)
        slopes = torch.cat([of_n * share * _slope(r), (h_before - n) * _slope(z), of_n * r], 2)
        slopes, of_n = _masked(factor, slopes, of_n)
        z = _held(z, factor, hold)
        dhidden, totals = ops.gru_backward.default(dh, slopes, z, w_hh, reverse)
        dgates = torch.cat([dhidden[:, :, : 2 * h.shape[2]], totals * of_n], 2)
        dh0 = _at_start(totals, reverse) * _at_start(z, reverse) + _at_start(dhidden, reverse) @ w_hh
        db_hh = dhidden.sum((0, 1)) if ctx.has_bias else None
        return dgates, dh0, _product(dhidden, h_before), db_hh, None, None


class GRUResetFirst(Function):
    """`ops.gru_reset_first` with a gradient: (gates, h0, w_hh, reverse, valid) -> h of every step."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        h, *gates = ops.gru_reset_first.default(*args)
        ctx.reverse = args[3]
        ctx.save_for_backward(args[1], args[2], args[4], h, *gates)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        h0, w_hh, valid, h, r, z, n = ctx.saved_tensors
        factor, hold = _shares(valid, h)
        h_before = ops.before.default(h, h0, ctx.reverse)
        slopes = torch.cat([h_before * _slope(r), (h_before - n) * _slope(z), (1 - z) * _tanh_slope(n)], 2)
        (slopes,) = _masked(factor, slopes)
        dgates, dh0 = ops.gru_reset_first_backward.default(
            dh, slopes, r, _held(z, factor, hold), w_hh, ctx.reverse
        )
        split = 2 * h.shape[2]
        dw_hh = torch.cat(
            [_product(dgates[:, :, :split], h_before), _product(dgates[:, :, split:], r * h_before)]
        )
        return dgates, dh0, dw_hh, None, None


class RNN(Function):
    """`ops.rnn` with a gradient: (gates, h0, w_hh, relu, reverse, valid) -> h of every step."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        h = ops.rnn.default(*args)
        ctx.relu, ctx.reverse = args[3:5]
        ctx.save_for_backward(args[1], args[2], args[5], h)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        h0, w_hh, valid, h = ctx.saved_tensors
        reverse = ctx.reverse
        factor, hold = _shares(valid, h)
        (slopes,) = _masked(factor, (h > 0).to(h.dtype) if ctx.relu else _tanh_slope(h))
        if hold is None:
            dgates = ops.rnn_backward.default(dh, slopes, w_hh, reverse)
            dh0 = _at_start(dgates, reverse) @ w_hh
        else:  # one step more, before the first: what reaches it is the gradient of the state before
            ends = [_one_more(s, v, reverse) for s, v in ((dh, 0.0), (slopes, 1.0), (hold, 0.0))]
            dgates = ops.rnn_backward.default(ends[0], ends[1], w_hh, reverse, ends[2])
            dh0 = _at_start(dgates, reverse)
            dgates = dgates[:-1] if reverse else dgates[1:]
        return dgates, dh0, _product(dgates, ops.before.default(h, h0, reverse)), None, None, None


def _one_more(sequence: Tensor, value: float, reverse: bool) -> Tensor:
    """A sequence with a step of equal values before the first."""
    step = torch.full_like(sequence[:1], value)
    return torch.cat([sequence, step] if reverse else [step, sequence])


# (x [T, N, D], state, weights, has biases, reverse, valid) -> the states of every step, the output first
Direction = Callable[
    [Tensor, Sequence[Tensor], Sequence[Tensor], bool, bool, Tensor | None], tuple[Tensor, ...]
]


def _gates(x: Tensor, weights: Sequence[Tensor], has_biases: bool) -> Tensor:
    """The inputs' share of the gates, both biases in it."""
    return _linear(x, weights[0], weights[2] + weights[3] if has_biases else None)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One product for all steps and samples, however they lie in memory."""
    return F.linear(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])


def _lstm(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    reverse: bool,
    valid: Tensor | None,
) -> tuple[Tensor, ...]:
    projection = weights[-1] if len(weights) % 2 else None
    gates = _gates(x, weights, has_biases)
    return LSTM.apply(gates, *state, weights[1], projection, reverse, valid)  # pyright: ignore


def _gru(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    reverse: bool,
    valid: Tensor | None,
) -> tuple[Tensor, ...]:
    b_ih, b_hh = weights[2:4] if has_biases else (None, None)
    return (GRU.apply(_linear(x, weights[0], b_ih), state[0], weights[1], b_hh, reverse, valid),)  # pyright: ignore


def gru_reset_first(
    x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor | None, reverse: bool,
    valid: Tensor | None,
) -> Tensor:  # fmt: skip
    """One direction of a GRU with the reset gate before the product, which torch has no layer for.

    Args:
        x: [T, N, D]; weights in PyTorch's order of gates, both biases in one.
        valid: bool [T, N, 1]: steps that are there; the others leave the state as it is.

    Returns:
        The states [T, N, H].
    """
    return GRUResetFirst.apply(_linear(x, w_ih, bias), h0, w_hh, reverse, valid)  # pyright: ignore


def _rnn(relu: bool) -> Direction:
    def run(
        x: Tensor,
        state: Sequence[Tensor],
        weights: Sequence[Tensor],
        has_biases: bool,
        reverse: bool,
        valid: Tensor | None,
    ) -> tuple[Tensor, ...]:
        gates = _gates(x, weights, has_biases)
        return (RNN.apply(gates, state[0], weights[1], relu, reverse, valid),)  # pyright: ignore

    return run


def _layers(
    direction: Direction, x: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    valid: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The whole stack: outputs, and the last state of every layer and direction."""
    directions = 2 if bidirectional else 1
    count = len(weights) // (num_layers * directions)
    x = x.transpose(0, 1) if batch_first else x
    last: list[list[Tensor]] = []
    for layer in range(num_layers):
        if layer and train and dropout:
            x = torch.native_dropout(x, dropout, True)[0]
        outputs = []
        for reverse in range(directions):
            at = layer * directions + reverse
            own = weights[at * count : (at + 1) * count]
            states = direction(x, [s[at] for s in initial], own, has_biases, bool(reverse), valid)
            outputs.append(states[0])
            last.append([_at_start(s, not reverse) for s in states])
        x = outputs[0] if directions == 1 else torch.cat(outputs, 2)
    states = [torch.stack(parts) for parts in zip(*last)]
    return (x.transpose(0, 1) if batch_first else x, *states)


def _one_state(direction: Direction) -> Callable[..., tuple[Tensor, ...]]:
    def run(x: Tensor, initial: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return _layers(direction, x, [initial], *args)

    return run


def _two_states(x: Tensor, initial: Sequence[Tensor], *args: Any) -> tuple[Tensor, ...]:
    return _layers(_lstm, x, initial, *args)


def _cell_gates(x: Tensor, h: Tensor, weights: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    w_ih, w_hh, b_ih, b_hh = (*weights, None, None)[:4]
    return F.linear(x, w_ih, b_ih), F.linear(h, w_hh, b_hh)  # pyright: ignore


def _lstm_cell(x: Tensor, state: Sequence[Tensor], *weights: Tensor | None) -> tuple[Tensor, Tensor]:
    h, c = state
    from_x, from_h = _cell_gates(x, h, weights)
    i, f, g, o = (from_x + from_h).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru_cell(x: Tensor, h: Tensor, *weights: Tensor | None) -> Tensor:
    from_x, from_h = _cell_gates(x, h, weights)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3, 1), from_h.chunk(3, 1)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + z * (h - n)


# Function of torch -> what stands in its place; PyTorch's formulas of a cell work in place.
LAYERS: dict[str, Callable[..., Any]] = {
    "lstm": _two_states,
    "gru": _one_state(_gru),
    "rnn_tanh": _one_state(_rnn(relu=False)),
    "rnn_relu": _one_state(_rnn(relu=True)),
}
CELLS: dict[str, Callable[..., Any]] = {"lstm_cell": _lstm_cell, "gru_cell": _gru_cell}
LOOPS = (LSTM, GRU, GRUResetFirst, RNN)
