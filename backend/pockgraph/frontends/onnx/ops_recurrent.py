"""LSTM, GRU and RNN with their default activations; the gates are put in PyTorch's order.

T steps, N samples, D inputs, H hidden units, K directions. A node's own weights are parameters, its first
states are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import rnn as rnn_utils

from ...recurrent.layers import gru_reset_first
from ...recurrent.operators import ops as loops
from .operator_rules import op

Lengths = np.ndarray | Tensor | None
_VERSIONS = (7, 14, 22)
_LEAVES = {
    "w": "weight_ih", "r": "weight_hh", "b": "bias", "initial_h": "initial_h", "initial_c": "initial_c"
}  # fmt: skip
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def _defaults(*names: str, **zero: int) -> Callable[[Mapping[str, Any]], str]:
    """A check: these activations in each direction, and these attributes as given."""

    def check(attributes: Mapping[str, Any]) -> str:
        count = _DIRECTIONS.get(attributes.get("direction", "forward"))
        if count is None:
            return f"direction={attributes['direction']!r} is not supported"
        given = [str(a) for a in attributes.get("activations", ())]
        if given and [a.lower() for a in given] != [n.lower() for n in names] * count:
            return f"activations={given} are not supported, only {list(names)} in each direction"
        wrong = [n for n, value in zero.items() if attributes.get(n, value) != value]
        return f"{wrong[0]}={attributes[wrong[0]]!r} is not supported, only {zero[wrong[0]]}" if wrong else ""

    return check


def _rnn_activations(attributes: Mapping[str, Any]) -> str:
    given = {str(a).lower() for a in attributes.get("activations", ("Tanh",))}
    name = "Relu" if given == {"relu"} else "Tanh"
    return _defaults(name)(attributes)


def _ordered(x: Tensor, order: Sequence[int]) -> Tensor:
    """The gates along the first dimension, put in another order."""
    parts = x.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def _parameters(w: Tensor, r: Tensor, b: Tensor | None, order: Sequence[int]) -> list[Tensor]:
    """What torch takes for each direction: input and hidden weights, and their biases."""
    found = []
    for k in range(w.shape[0]):
        found += [_ordered(w[k], order), _ordered(r[k], order)]
        if b is not None:
            found += [_ordered(half, order) for half in b[k].chunk(2)]
    return found


class _Call:
    """One node: its sequence and first states as torch takes them, its results as ONNX gives them.

    Where samples have lengths of their own, a layer runs on a packed sequence; after a length outputs are 0.
    """

    def __init__(
        self, x: Tensor, w: Tensor, r: Tensor, lengths: Lengths, direction: str, layout: int
    ) -> None:
        self.layout, self.backwards = layout, direction == "reverse"
        self.both = direction == "bidirectional"
        x = x.transpose(0, 1) if layout else x
        self.steps, self.samples = x.shape[:2]
        self.directions, self.hidden = w.shape[0], r.shape[2]
        if isinstance(lengths, np.ndarray):
            lengths = None if (lengths == self.steps).all() else torch.from_numpy(lengths.astype(np.int64))
        self.lengths = lengths
        self.x = self._flipped(x) if self.backwards else x

    def _flipped(self, x: Tensor) -> Tensor:
        """Each sample's own steps in the other direction."""
        if self.lengths is None:
            return x.flip(0)
        steps = torch.arange(self.steps).unsqueeze(1)
        order = torch.where(steps < self.lengths, self.lengths - 1 - steps, steps)
        return x.gather(0, order.unsqueeze(2).expand(-1, -1, x.shape[2]))

    def state(self, given: Tensor | None) -> Tensor:
        if given is None:
            return self.x.new_zeros(self.directions, self.samples, self.hidden)
        return given.transpose(0, 1) if self.layout else given

    def run(
        self, layer: Callable[..., Any], state: Sequence[Tensor], weights: Sequence[Tensor], has_bias: bool
    ) -> tuple[Tensor, ...]:
        """One of torch's layers, given one state or a pair."""
        how = has_bias, 1, 0.0, False, self.both
        if self.lengths is None:
            first = state if len(state) > 1 else state[0]
            return self.results(*layer(self.x, first, weights, *how, False))
        packed = rnn_utils.pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)
        to, back = packed.sorted_indices, packed.unsorted_indices
        assert to is not None  # as they need not be sorted
        assert back is not None
        state = [s.index_select(1, to) for s in state]
        first = state if len(state) > 1 else state[0]
        outputs, *last = layer(packed.data, packed.batch_sizes, first, weights, *how)
        made = rnn_utils.PackedSequence(outputs, packed.batch_sizes, to, back)
        outputs, _ = rnn_utils.pad_packed_sequence(made, total_length=self.steps)
        return self.results(outputs, *(s.index_select(1, back) for s in last))

    def reset_first(self, state: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """A GRU with the reset gate applied before the product."""
        valid = None
        if self.lengths is not None:
            lengths = loops.lengths.default(self.lengths, self.steps, False, False)
            valid = (torch.arange(self.steps).unsqueeze(1) < lengths).unsqueeze(2)
        each = len(weights) // self.directions
        sides, last = [], []
        for k in range(self.directions):
            w, r, *biases = weights[k * each : (k + 1) * each]
            bias = biases[0] + biases[1] if biases else None
            states = gru_reset_first(self.x, state[k], w, r, bias, bool(k), valid)
            sides.append(states)
            last.append(states[0 if k else -1])
        outputs = torch.cat(sides, 2)
        outputs = outputs if valid is None else outputs.masked_fill(~valid, 0)
        return self.results(outputs, torch.stack(last))

    def results(self, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """outputs [T, N, K H] and states [K, N, H] -> Y and the last states."""
        y = self._flipped(outputs) if self.backwards else outputs
        y = y.reshape(self.steps, self.samples, self.directions, self.hidden)
        if self.layout:
            return y.transpose(0, 1), *(s.transpose(0, 1) for s in states)
        return y.transpose(1, 2), *states


@op(
    "LSTM", *_VERSIONS, computed=("sequence_lens",), leaves=_LEAVES, buffers=("initial_h", "initial_c"),
    outputs=3, check=_defaults("Sigmoid", "Tanh", "Tanh", input_forget=0),
)  # fmt: skip
def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, sequence_lens: Lengths = None,
    initial_h: Tensor | None = None, initial_c: Tensor | None = None, *, hidden_size: int = 0,
    direction: str = "forward", layout: int = 0, input_forget: int = 0, activations: Sequence[str] = (),
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gates stand in the order i, o, f, c. Peepholes, an eighth input, are not supported."""
    call = _Call(x, w, r, sequence_lens, direction, layout)
    state = [call.state(initial_h), call.state(initial_c)]
    weights = _parameters(w, r, b, (0, 2, 3, 1))
    return call.run(torch.lstm, state, weights, b is not None)


@op(
    "GRU", *_VERSIONS, computed=("sequence_lens",),
    leaves={k: v for k, v in _LEAVES.items() if k != "initial_c"}, buffers=("initial_h",), outputs=2,
    check=_defaults("Sigmoid", "Tanh"),
)  # fmt: skip
def gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, sequence_lens: Lengths = None,
    initial_h: Tensor | None = None, *, hidden_size: int = 0, direction: str = "forward", layout: int = 0,
    linear_before_reset: int = 0, activations: Sequence[str] = (),
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gates stand in the order z, r, h."""
    call = _Call(x, w, r, sequence_lens, direction, layout)
    state, weights = call.state(initial_h), _parameters(w, r, b, (1, 0, 2))
    if linear_before_reset:
        return call.run(torch.gru, [state], weights, b is not None)
    return call.reset_first(state, weights)


@op(
    "RNN", *_VERSIONS, computed=("sequence_lens",),
    leaves={k: v for k, v in _LEAVES.items() if k != "initial_c"}, buffers=("initial_h",), outputs=2,
    check=_rnn_activations,
)  # fmt: skip
def rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, sequence_lens: Lengths = None,
    initial_h: Tensor | None = None, *, hidden_size: int = 0, direction: str = "forward", layout: int = 0,
    activations: Sequence[str] = ("Tanh",),
) -> tuple[Tensor, ...]:  # fmt: skip
    call = _Call(x, w, r, sequence_lens, direction, layout)
    run = torch.rnn_relu if str(activations[0]).lower() == "relu" else torch.rnn_tanh
    weights = _parameters(w, r, b, (0,))
    return call.run(run, [call.state(initial_h)], weights, b is not None)
