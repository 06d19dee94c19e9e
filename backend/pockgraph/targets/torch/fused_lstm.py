"""LSTMs in PyTorch on the CPU: oneDNN's kernels in the place of loops, where they compute the same.

A graph holds an LSTM's direction as a loop and ordinary operators around it (`recurrent/operators.py`).
PyTorch's own kernels, `aten.mkldnn_rnn_layer` and its backward, take the layer's inputs and give its
outputs, and all gradients at once. Each loop is replaced whose surroundings are operator for operator
those that `recurrent.LSTM` makes: nothing is assumed of a graph from a file, and what differs stays the
loop that it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ...ir.graph import aten
from ...recurrent.operators import ops

_LSTM_MODE = 2  # of PyTorch's modes of recurrent layers
Pattern = Any  # a node itself, (operator, *patterns of its arguments), a list of patterns, or a constant


def fuse_lstms(code: fx.Graph, constants: Mapping[fx.Node, Tensor]) -> None:
    """Replace what can be, in place. `code` runs on a CPU with oneDNN.

    Args:
        constants: inputs of `code` that keep their value.
    """
    found = [_Layer.around(n, constants) for n in code.nodes if n.target is ops.lstm.default]
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
        constants: see `fuse_lstms`.
        last: nodes that are the memory after the last step.
        backward: the loop that runs back, if there is one; `dc` the gradient of the last memory.
        gradients: node -> what stands in its place, of all gradients (dx, dw_ih, dw_hh, db, dh0, dc0).
    """

    loop: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    constants: Mapping[fx.Node, Tensor]
    last: list[fx.Node] = field(default_factory=list)
    backward: fx.Node | None = None
    dc: fx.Node | None = None
    gradients: dict[fx.Node, Callable[[fx.Graph, list[fx.Node]], fx.Node]] = field(default_factory=dict)

    @staticmethod
    def around(loop: fx.Node, constants: Mapping[fx.Node, Tensor]) -> _Layer | None:
        """The layer of a loop; None where PyTorch's kernel does not compute all that is asked of it."""
        gates, _, _, _, projection, _, *valid = loop.args
        if projection is not None or valid or loop.meta["val"][0].dtype != torch.float32:
            return None
        found = _inputs(loop, gates)
        if found is None or any(u.target is not operator.getitem for u in loop.users):
            return None
        layer = _Layer(loop, *found, constants)
        layer.last = [u for n in loop.users if n.args[1] == 1 for u in n.users if layer._is_last(u)]
        inner = {n for n in loop.users if n.args[1] != 0 and not {*n.users} <= {*layer.last}}
        return None if inner and not layer._runs_back(inner) else layer

    def _is_last(self, node: fx.Node) -> bool:
        return node.target is aten.select.int and node.args[1:] == (0, self._end)

    @property
    def _end(self) -> int:
        """Where the last step stands, as `recurrent` writes it."""
        return 0 if self.loop.args[5] else -1

    def _runs_back(self, inner: set[fx.Node]) -> bool:
        """Whether one backward loop alone reads states and gates, by the formulas of `recurrent.LSTM`."""
        loop = self.loop
        h, c, i, f, g, o = ((operator.getitem, loop, k) for k in range(6))
        arguments: Any = loop.args
        _, h0, c0, w_hh, _, reverse = arguments
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
        wanted = ((aten.cat.default, slopes, 2), _times(o, _tanh_slope(tanh_c)), f, w_hh, None, reverse)
        if not _all_match(self.backward.args[2:], wanted, seen) or not self._takes_memory(
            self.backward.args[1]
        ):
            return False
        closed: set[Any] = {n for n in seen if n.op == "call_function"} - {w_hh, c0, h0, loop}
        readers = {u for n in closed | inner for u in n.users}
        if not readers <= {*closed, *self.last, self.backward}:
            return False
        results = list(self.backward.users)
        return all(u.target is operator.getitem and self._reads(u, (h, h0, reverse)) for u in results)

    def _takes_memory(self, dc: Any) -> bool:
        """Whether of all memories only the last has a gradient from outside."""
        if dc is None:
            return True
        self.dc = dc.args[0] if dc.target is aten.select_backward.default else None
        return self.dc is not None and dc.args[2:] == (0, self._end)

    def _reads(self, result: fx.Node, states: tuple[Any, ...]) -> bool:
        """Note what is made of a result of the backward loop; False where a kernel does not give it."""
        if result.args[1] == 1:
            self.gradients[result] = lambda _, made: made[5]
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
        if _match(user, (aten.sum.dim_IntList, node, dims, True), set()):
            self.gradients[user] = lambda code, made: code.call_function(
                aten.reshape.default, (made[3], shape)
            )
            return True
        first = -1 if self.loop.args[5] else 0
        if user.target is aten.select.int and user.args == (node, 0, first):
            products = [_match(u, (aten.mm.default, user, self.loop.args[3]), set()) for u in user.users]
            self.gradients.update(dict.fromkeys(user.users, lambda _, made: made[4]))
            return all(products)
        if user.target is aten.mm.default and user.args[0] is node and self._is_weight(user.args[1]):
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
        elif (channels := self._columns(other)) is not None:
            self.gradients[user] = lambda code, made: code.call_function(
                aten.index_select.default, (made[2], 1, channels)
            )
        elif other.target is aten.index_select.default and other.args[:2] == (self.x, 1):
            self.gradients[user] = lambda code, made: code.call_function(
                aten.index_select.default, (made[1], 1, other.args[2])
            )
        else:
            return False
        return True

    def _columns(self, rows: fx.Node) -> fx.Node | None:
        """The columns, where `rows` are some columns of the states before each step."""
        before: Any = rows.args[0] if rows.target is aten.reshape.default else None
        if getattr(before, "target", None) is not ops.before.default:
            return None
        h, h0, reverse = before.args
        channels = h.args[2] if h.target is aten.index_select.default else None
        if not isinstance(channels, fx.Node) or reverse != self.loop.args[5]:
            return None
        states: Any = self.loop.args[1]
        if not _match(h, (aten.index_select.default, (operator.getitem, self.loop, 0), 2, channels), set()):
            return None
        if _match(h0, (aten.index_select.default, states, 1, channels), set()):
            return channels
        known = [self.constants.get(n) for n in (h0, states, channels)]
        if any(v is None for v in known):
            return None
        return channels if torch.equal(known[0], known[1].index_select(1, known[2])) else None  # pyright: ignore

    def _is_weight(self, node: Any) -> bool:
        """Whether `node` [4H, D] is the weight of the inputs."""
        for a, b in ((node, self.weight), (self.weight, node)):
            if _match(a, (aten.permute.default, b, [1, 0]), set()):
                return True
        here, there = self.constants.get(node), self.constants.get(self.weight)
        return here is not None and there is not None and torch.equal(here, there.t())

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
        for node in self.last:
            with code.inserting_before(node):
                node.replace_all_uses_with(code.call_function(operator.getitem, (made, 2)))
        if self.backward is None:
            return
        with code.inserting_before(self.backward):
            result = code.call_function(run_backward, (*given, made, self.backward.args[0], self.dc))
            gradients = [code.call_function(operator.getitem, (result, k)) for k in range(6)]
        for node, replacement in self.gradients.items():
            with code.inserting_before(node):
                node.replace_all_uses_with(replacement(code, gradients))


def _inputs(loop: fx.Node, gates: Any) -> tuple[fx.Node, fx.Node, fx.Node | None] | None:
    """The inputs, the weight and the bias of the product that the gates are."""
    bias = None
    if gates.target is not aten.reshape.default or not isinstance(gates.args[0], fx.Node):
        return None
    product = gates.args[0]
    if product.kwargs:
        return None
    if product.target is aten.addmm.default:
        bias, x, weight = product.args
    elif product.target is aten.mm.default:
        x, weight = product.args
    else:
        return None
    steps, samples, width = loop.meta["val"][0].shape
    fits = [*gates.meta["val"].shape] == [steps, samples, 4 * width] and len(x.meta["val"]) == steps * samples
    if not fits or (bias is not None and tuple(bias.meta["val"].shape) != (4 * width,)):
        return None
    return x, weight, bias


# ---------------------------------------------------------------- patterns


def _times(a: Pattern, b: Pattern) -> Pattern:
    return aten.mul.Tensor, a, b


def _slope(y: Pattern) -> Pattern:
    return _times(y, (aten.rsub.Scalar, y, 1))


def _tanh_slope(y: Pattern) -> Pattern:
    return aten.rsub.Scalar, _times(y, y), 1


def _match(value: Any, pattern: Pattern, seen: set[fx.Node]) -> bool:
    """Whether a value is computed as the pattern says; `seen` then holds its nodes."""
    if isinstance(pattern, fx.Node):
        return value is pattern
    if isinstance(pattern, tuple):
        if not isinstance(value, fx.Node) or value.target is not pattern[0] or value.kwargs:
            return False
        seen.add(value)
        return _all_match(value.args, pattern[1:], seen)
    if isinstance(pattern, list):
        return isinstance(value, list) and _all_match(value, pattern, seen)
    return type(value) is type(pattern) and value == pattern


def _all_match(values: Sequence[Any], patterns: Sequence[Pattern], seen: set[fx.Node]) -> bool:
    return len(values) == len(patterns) and all(_match(v, p, seen) for v, p in zip(values, patterns))


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
    reverse: bool, made: tuple[Tensor, ...], dh: Tensor, dc: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of x [T, N, D], the weights, the bias, and the first state and memory."""
    given = _arguments(x, weight, w_hh, bias, h0, c0, steps)
    outputs, h, c, workspace = made
    how = reverse, _LSTM_MODE, h0.shape[1], 1, True, True, False, [], False
    dx, dw_ih, dw_hh, db, _, dh0, dc0 = aten.mkldnn_rnn_layer_backward.default(
        *given, outputs, h, c, dh.contiguous(), None, dc, *how, workspace
    )
    return dx, dw_ih, dw_hh, db, dh0, dc0
