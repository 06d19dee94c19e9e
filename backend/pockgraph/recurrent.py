"""Recurrent layers as the steps they stand for.

PyTorch runs `nn.LSTM`, `nn.GRU` and `nn.RNN` as one operator whose kernel, and the backward of it, is
the device's own. Here each becomes a matrix product for the inputs of all steps, and one of the hidden
state for each step, so that any target can run it and a plan can train part of it.

Formulas and the order of gates are PyTorch's. T steps, N samples, D inputs, H hidden units, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = tuple[Tensor, ...]
# (gates of the input [N, G H], state, hidden-to-hidden product) -> next state, its first entry the output
Cell = Callable[[Tensor, State, Callable[[Tensor], Tensor]], State]


def lstm_cell(gates: Tensor, state: State, recur: Callable[[Tensor], Tensor]) -> State:
    h, c = state
    i, f, g, o = (gates + recur(h)).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(gates: Tensor, state: State, recur: Callable[[Tensor], Tensor]) -> State:
    (h,) = state
    r_x, z_x, n_x = gates.chunk(3, 1)
    r_h, z_h, n_h = recur(h).chunk(3, 1)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return (n + z * (h - n),)


def tanh_cell(gates: Tensor, state: State, recur: Callable[[Tensor], Tensor]) -> State:
    return (torch.tanh(gates + recur(state[0])),)


def relu_cell(gates: Tensor, state: State, recur: Callable[[Tensor], Tensor]) -> State:
    return (torch.relu(gates + recur(state[0])),)


def _direction(
    cell: Cell, x: Tensor, state: State, weights: Sequence[Tensor], has_biases: bool, backwards: bool
) -> tuple[list[Tensor], State]:
    """One layer in one direction: x [T, N, D] -> T outputs [N, H] in the order of x, the last state.

    `weights`: input [G H, D], hidden [G H, H], their two biases, and an LSTM's projection.
    """
    w_x, w_h, *rest = weights
    b_x, b_h = rest[:2] if has_biases else (None, None)
    projection = rest[-1] if len(rest) % 2 else None
    steps = F.linear(x, w_x, b_x).unbind(0)
    outputs = []
    for gates in reversed(steps) if backwards else steps:
        state = cell(gates, state, lambda h: F.linear(h, w_h, b_h))
        if projection is not None:
            state = (F.linear(state[0], projection), *state[1:])
        outputs.append(state[0])
    return (outputs[::-1] if backwards else outputs), state


def _layers(
    cell: Cell, x: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The whole stack: outputs, and the last state of every layer and direction."""
    if train and dropout and num_layers > 1:
        raise NotImplementedError("dropout between recurrent layers; set dropout=0, or evaluation mode")
    directions = 2 if bidirectional else 1
    count = len(weights) // (num_layers * directions)
    x = x.transpose(0, 1) if batch_first else x
    last: list[State] = []
    for layer in range(num_layers):
        sides: list[list[Tensor]] = []
        for backwards in range(directions):
            at = layer * directions + backwards
            own = weights[at * count : (at + 1) * count]
            start = tuple(s[at] for s in initial)
            outputs, state = _direction(cell, x, start, own, has_biases, bool(backwards))
            sides.append(outputs)
            last.append(state)
        outputs = sides[0] if directions == 1 else [torch.cat(pair, 1) for pair in zip(*sides)]
        x = torch.stack(outputs)
    states = [torch.stack(parts) for parts in zip(*last)]
    return (x.transpose(0, 1) if batch_first else x, *states)


def _one_state(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    def run(x: Tensor, initial: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return _layers(cell, x, [initial], *args)

    return run


def _lstm(x: Tensor, initial: Sequence[Tensor], *args: Any) -> tuple[Tensor, ...]:
    return _layers(lstm_cell, x, initial, *args)


aten = torch.ops.aten
STEPS: dict[Any, Callable[..., tuple[Tensor, ...]]] = {
    aten.lstm.input: _lstm,
    aten.gru.input: _one_state(gru_cell),
    aten.rnn_tanh.input: _one_state(tanh_cell),
    aten.rnn_relu.input: _one_state(relu_cell),
}
