"""LSTMs in PyTorch on the CPU: oneDNN's kernels in the place of loops, where they compute the same.

A graph holds an LSTM's direction as a loop and ordinary operators around it (`recurrent_ops`). PyTorch's own
kernels, `aten.mkldnn_rnn_layer` and its backward, take the layer's inputs and give its outputs, and all
gradients at once. Each loop is replaced whose surroundings are operator for operator those that
`recurrent.LSTM` makes: nothing is assumed of a graph from a file, and what differs stays the loop that it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ..graph import aten
from ..recurrent_ops import ops

_LSTM_MODE = 2  # of PyTorch's modes of recurrent layers
Pattern = Any  # a node itself, (operator, *patterns of its arguments), a list of patterns, or a constant


def fuse_lstms(code: fx.Graph) -> None:
    """Replace what can be, in place. `code` runs on a CPU with oneDNN."""
    found = [_Layer.around(n) for n in code.nodes if n.target is ops.lstm.default]
    for layer in found:
        if layer is not None:
            layer.replace(code)
    if any(found):
        code.eliminate_dead_code()


@dataclass
class _Layer:
    """One direction: the loop, what goes in, and what is made of the gradients of its gates.

    Attributes:
        x: [T N, D], the inputs; `weight` [D, 4H], `bias` [4H] or None.
        backward: the loop that runs back, if there is one.
        gradients: node -> what stands in its place, made of all gradients (dx, dw_ih, dw_hh, db, dc0).
    """

    loop: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    backward: fx.Node | None = None
    gradients: dict[fx.Node, Callable[[fx.Graph, list[fx.Node]], fx.Node]] = field(default_factory=dict)

    @staticmethod
    def around(loop: fx.Node) -> _Layer | None:
        """The layer of a loop; None where PyTorch's kernel does not compute all that is asked of it."""
        gates, _, _, _, projection, _, *valid = loop.args
        if projection is not None or valid or loop.meta["val"][0].dtype != torch.float32:
            return None
        layer = _inputs(loop, gates)
        if layer is None:
            return None
        inner = {u for u in loop.users if u.target is operator.getitem and u.args[1] != 0}
        if any(u.target is not operator.getitem for u in loop.users):
            return None
        if inner and not layer._runs_back(inner):
            return None
        return layer

    def _runs_back(self, inner: set[fx.Node]) -> bool:
        """Whether one backward loop alone reads states and gates, by the formulas of `recurrent.LSTM`."""
        loop = self.loop
        h, c, i, f, g, o = ((operator.getitem, loop, k) for k in range(6))
        _, h0, c0, w_hh, _, reverse = loop.args
        tanh_c = (aten.tanh.default, c)
        slopes = [
            _times(g, _slope(i)), _times((ops.before.default, c, c0, reverse), _slope(f)),
            _times(i, _tanh_slope(g)), _times(tanh_c, _slope(o)),
        ]  # fmt: skip
        backward = [u for n in inner for u in n.users if u.target is ops.lstm_backward.default]
        if not backward or any(b is not backward[0] for b in backward):
            return False
        self.backward = backward[0]
        seen: set[fx.Node] = set()
        wanted = (None, (aten.cat.default, slopes, 2), _times(o, _tanh_slope(tanh_c)), f, w_hh, None, reverse)
        if not _match(self.backward.args[1:], wanted, seen):
            return False
        closed = {n for n in seen if n.op == "call_function"} - {w_hh, c0, h0, loop}
        if not all(u in closed or u is self.backward for n in closed | inner for u in n.users):
            return False
        results = list(self.backward.users)
        return all(u.target is operator.getitem and self._reads(u, (h, h0, reverse)) for u in results)

    def _reads(self, result: fx.Node, states: tuple[Any, ...]) -> bool:
        """Note what is made of a result of the backward loop; False where a kernel does not give it."""
        if result.args[1] == 1:
            self.gradients[result] = lambda _, made: made[4]
            return True
        if result.args[1] != 0:
            return not result.users
        steps, samples, gates = result.meta["val"].shape
        pending, rows = [result], steps * samples
        while pending:
            node = pending.pop()
            for user in node.users:
                if user.target is aten.reshape.default and [*user.args[1]] == [rows, gates]:  # pyright: ignore
                    pending.append(user)
                elif user.target is aten.permute.default and node is not result and user.args[1] == [1, 0]:
                    if not all(self._reads_weight(u, user, states) for u in user.users):
                        return False
                elif not self._reads_rows(user, node, [0, 1] if node is result else [0]):
                    return False
        return True

    def _reads_rows(self, user: fx.Node, node: fx.Node, dims: list[int]) -> bool:
        shape = [*user.meta["val"].shape] if isinstance(user.meta.get("val"), Tensor) else []
        if user.target is aten.sum.dim_IntList and user.args[0] is node and [*user.args[1]] == dims:  # pyright: ignore
            self.gradients[user] = lambda code, made: code.call_function(
                aten.reshape.default, (made[3], shape)
            )
            return True
        if _match(user, (aten.mm.default, node, _transposed(self.weight)), set()):
            self.gradients[user] = lambda code, made: code.call_function(
                aten.reshape.default, (made[0], shape)
            )
            return True
        return False

    def _reads_weight(self, user: fx.Node, node: fx.Node, states: tuple[Any, ...]) -> bool:
        """A gradient of a weight, or some columns of the one by the inputs."""
        if user.target is not aten.mm.default or user.args[0] is not node:
            return False
        other: Any = user.args[1]
        rows = (aten.reshape.default, (ops.before.default, *states), [*other.meta["val"].shape])
        if other is self.x:
            self.gradients[user] = lambda _, made: made[1]
        elif _match(other, rows, set()):
            self.gradients[user] = lambda _, made: made[2]
        elif other.target is aten.index_select.default and other.args[:2] == (self.x, 1):
            self.gradients[user] = lambda code, made: code.call_function(
                aten.index_select.default, (made[1], 1, other.args[2])
            )
        else:
            return False
        return True

    def replace(self, code: fx.Graph) -> None:
        _, h0, c0, w_hh, _, reverse = self.loop.args
        steps = self.loop.meta["val"][0].shape[0]
        given = self.x, self.weight, w_hh, self.bias, h0, c0, steps, reverse
        with code.inserting_before(self.loop):
            made = code.call_function(run_forward, (*given, self.backward is not None))
            outputs = code.call_function(operator.getitem, (made, 0))
        for user in list(self.loop.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(outputs)
        if self.backward is None:
            return
        with code.inserting_before(self.backward):
            result = code.call_function(run_backward, (*given, made, self.backward.args[0]))
            gradients = [code.call_function(operator.getitem, (result, k)) for k in range(5)]
        for node, replacement in self.gradients.items():
            with code.inserting_before(node):
                node.replace_all_uses_with(replacement(code, gradients))


def _inputs(loop: fx.Node, gates: Any) -> _Layer | None:
    """The product that the gates are: `addmm`, or `mm` with or without a bias behind it."""
    bias = None
    if gates.target is aten.add.Tensor and not gates.kwargs and isinstance(gates.args[1], fx.Node):
        gates, bias = gates.args
    if gates.target is not aten.reshape.default or not isinstance(gates.args[0], fx.Node):
        return None
    product = gates.args[0]
    if product.kwargs:
        return None
    if product.target is aten.addmm.default and bias is None:
        bias, x, weight = product.args
    elif product.target is aten.mm.default:
        x, weight = product.args
    else:
        return None
    steps, samples, width = loop.meta["val"][0].shape
    fits = [*gates.meta["val"].shape] == [steps, samples, 4 * width] and len(x.meta["val"]) == steps * samples
    if not fits or (bias is not None and tuple(bias.meta["val"].shape) != (4 * width,)):
        return None
    return _Layer(loop, x, weight, bias)


# ---------------------------------------------------------------- patterns


def _times(a: Pattern, b: Pattern) -> Pattern:
    return aten.mul.Tensor, a, b


def _slope(y: Pattern) -> Pattern:
    return _times(y, (aten.rsub.Scalar, y, 1))


def _tanh_slope(y: Pattern) -> Pattern:
    return aten.rsub.Scalar, _times(y, y), 1


def _transposed(weight: fx.Node) -> Pattern:
    """What `weight` is the transpose of."""
    if weight.target is aten.permute.default and weight.args[1] == [1, 0]:
        return weight.args[0]
    return aten.permute.default, weight, [1, 0]


def _match(value: Any, pattern: Pattern, seen: set[fx.Node]) -> bool:
    """Whether a value is computed as the pattern says; `seen` then holds its nodes."""
    if isinstance(pattern, fx.Node):
        return value is pattern
    if isinstance(pattern, tuple) and not isinstance(value, fx.Node):
        return len(value) == len(pattern) and all(_match(v, p, seen) for v, p in zip(value, pattern))
    if isinstance(pattern, tuple):
        seen.add(value)
        target, *args = pattern
        return value.target is target and not value.kwargs and _match(value.args, tuple(args), seen)
    if isinstance(pattern, list):
        return len(value) == len(pattern) and all(_match(v, p, seen) for v, p in zip(value, pattern))
    return type(value) is type(pattern) and value == pattern


# ---------------------------------------------------------------- kernels


def _arguments(
    x: Tensor, weight: Tensor, w_hh: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor, steps: int
) -> tuple[Tensor, ...]:
    none = w_hh.new_zeros(len(w_hh))
    sequence = x.reshape(steps, -1, x.shape[1]).contiguous()
    bias = none if bias is None else bias
    return sequence, weight.t().contiguous(), w_hh.contiguous(), bias, none, h0.contiguous(), c0.contiguous()


def run_forward(
    x: Tensor, weight: Tensor, w_hh: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor, steps: int,
    reverse: bool, train: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The outputs [T, N, H], the last states, and what the backward pass needs."""
    given = _arguments(x, weight, w_hh, bias, h0, c0, steps)
    how = _LSTM_MODE, h0.shape[1], 1, True, False, False, train
    with torch.set_grad_enabled(train):  # where it is not, the kernel keeps nothing for the backward pass
        return aten.mkldnn_rnn_layer.default(*given, reverse, [], *how)


def run_backward(
    x: Tensor, weight: Tensor, w_hh: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor, steps: int,
    reverse: bool, made: tuple[Tensor, ...], dh: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of x [T, N, D], the weights, the bias, and the first memory."""
    given = _arguments(x, weight, w_hh, bias, h0, c0, steps)
    outputs, h, c, workspace = made
    how = reverse, _LSTM_MODE, h0.shape[1], 1, True, True, False, [], False
    dx, dw_ih, dw_hh, db, _, _, dc0 = aten.mkldnn_rnn_layer_backward.default(
        *given, outputs, h, c, dh.contiguous(), None, None, *how, workspace
    )
    return dx, dw_ih, dw_hh, db, dc0
