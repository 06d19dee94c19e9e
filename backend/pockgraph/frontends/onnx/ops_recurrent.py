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

from .rules import NotRunnable, op

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
    """One node: its sequence and first states as torch takes them, its results as ONNX gives them."""

    def __init__(
        self, x: Tensor, w: Tensor, r: Tensor, lengths: np.ndarray | None, direction: str, layout: int
    ) -> None:
        self.layout, self.backwards = layout, direction == "reverse"
        self.both = direction == "bidirectional"
        x = x.transpose(0, 1) if layout else x
        self.steps, self.samples = x.shape[:2]
        self.directions, self.hidden = w.shape[0], r.shape[2]
        if lengths is not None and not (np.asarray(lengths) == self.steps).all():
            raise NotRunnable(
                f"sequence_lens={np.asarray(lengths).tolist()} are not all the {self.steps} steps of the "
                "input, and shorter sequences are not supported: export the model without them, and mask "
                "what lies behind each length in the loss"
            )
        self.x = x.flip(0) if self.backwards else x

    def state(self, given: Tensor | None) -> Tensor:
        if given is None:
            return self.x.new_zeros(self.directions, self.samples, self.hidden)
        return given.transpose(0, 1) if self.layout else given

    def results(self, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """outputs [T, N, K H] and states [K, N, H] -> Y and the last states."""
        y = outputs.flip(0) if self.backwards else outputs
        y = y.reshape(self.steps, self.samples, self.directions, self.hidden)
        if self.layout:
            return y.transpose(0, 1), *(s.transpose(0, 1) for s in states)
        return y.transpose(1, 2), *states


@op(
    "LSTM", *_VERSIONS, host=("sequence_lens",), leaves=_LEAVES, buffers=("initial_h", "initial_c"),
    outputs=3, check=_defaults("Sigmoid", "Tanh", "Tanh", input_forget=0),
)  # fmt: skip
def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, sequence_lens: np.ndarray | None = None,
    initial_h: Tensor | None = None, initial_c: Tensor | None = None, *, hidden_size: int = 0,
    direction: str = "forward", layout: int = 0, input_forget: int = 0, activations: Sequence[str] = (),
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gates stand in the order i, o, f, c. Peepholes, an eighth input, are not supported."""
    call = _Call(x, w, r, sequence_lens, direction, layout)
    state = [call.state(initial_h), call.state(initial_c)]
    weights = _parameters(w, r, b, (0, 2, 3, 1))
    return call.results(*torch.lstm(call.x, state, weights, b is not None, 1, 0.0, False, call.both, False))


@op(
    "GRU", *_VERSIONS, host=("sequence_lens",),
    leaves={k: v for k, v in _LEAVES.items() if k != "initial_c"}, buffers=("initial_h",), outputs=2,
    check=_defaults("Sigmoid", "Tanh"),
)  # fmt: skip
def gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, sequence_lens: np.ndarray | None = None,
    initial_h: Tensor | None = None, *, hidden_size: int = 0, direction: str = "forward", layout: int = 0,
    linear_before_reset: int = 0, activations: Sequence[str] = (),
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gates stand in the order z, r, h."""
    call = _Call(x, w, r, sequence_lens, direction, layout)
    state, weights = call.state(initial_h), _parameters(w, r, b, (1, 0, 2))
    if linear_before_reset:
        return call.results(
            *torch.gru(call.x, state, weights, b is not None, 1, 0.0, False, call.both, False)
        )
    each = len(weights) // call.directions
    sides, last = [], []
    for k in range(call.directions):
        own = weights[k * each : (k + 1) * each]
        side = _reset_first(call.x.flip(0) if k else call.x, state[k], *own)
        sides.append(side.flip(0) if k else side)
        last.append(side[-1])
    return call.results(torch.cat(sides, 2), torch.stack(last))


def _reset_first(x: Tensor, h: Tensor, w: Tensor, r: Tensor, *biases: Tensor) -> Tensor:
    """One direction with the reset gate applied before the product, which torch has no layer for."""
    gates = torch.nn.functional.linear(x, w, sum(biases) if biases else None)  # pyright: ignore
    r_rz, r_n = r[: 2 * h.shape[1]].t(), r[2 * h.shape[1] :].t()
    states = []
    for step in gates.unbind(0):
        x_rz, x_n = step.split([2 * h.shape[1], h.shape[1]], 1)
        reset, z = torch.sigmoid(x_rz + h @ r_rz).chunk(2, 1)
        n = torch.tanh(x_n + (reset * h) @ r_n)
        h = n + z * (h - n)
        states.append(h)
    return torch.stack(states)


@op(
    "RNN", *_VERSIONS, host=("sequence_lens",),
    leaves={k: v for k, v in _LEAVES.items() if k != "initial_c"}, buffers=("initial_h",), outputs=2,
    check=_rnn_activations,
)  # fmt: skip
def rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, sequence_lens: np.ndarray | None = None,
    initial_h: Tensor | None = None, *, hidden_size: int = 0, direction: str = "forward", layout: int = 0,
    activations: Sequence[str] = ("Tanh",),
) -> tuple[Tensor, ...]:  # fmt: skip
    call = _Call(x, w, r, sequence_lens, direction, layout)
    run = torch.rnn_relu if str(activations[0]).lower() == "relu" else torch.rnn_tanh
    weights = _parameters(w, r, b, (0,))
    result = run(call.x, call.state(initial_h), weights, b is not None, 1, 0.0, False, call.both, False)
    return call.results(*result)
