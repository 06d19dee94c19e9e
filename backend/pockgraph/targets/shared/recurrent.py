"""What one step of a recurrent loop computes, for every target that has loops.

A target gives its own helpers, `emit`: these formulas are written in them, once for all.
`emit.loop` runs a body over the steps of sequences `[T, …]`; see there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ...recurrent.operators import ops

Values = Sequence[Any]


def rules(emit: Any) -> dict[Any, Callable[..., Any]]:
    """Operator -> its rule, as `rule_table` calls it; `emit` has the target's helpers."""
    steps = _Steps(emit)
    return {
        ops.lstm.default: steps.lstm,
        ops.lstm_backward.default: steps.lstm_backward,
        ops.gru.default: steps.gru,
        ops.gru_backward.default: steps.gru_backward,
        ops.gru_reset_first.default: steps.gru_reset_first,
        ops.gru_reset_first_backward.default: steps.gru_reset_first_backward,
        ops.rnn.default: steps.rnn,
        ops.rnn_backward.default: steps.rnn_backward,
        ops.before.default: steps.before,
        ops.lengths.default: steps.lengths,
    }


def results_read(node: fx.Node) -> set[int]:
    """Which results of a call somebody reads."""
    return {u.args[1] for u in node.users if u.target is operator.getitem}  # pyright: ignore


def _chosen(made: Values, used: set[int]) -> list[Any]:
    return [made[i] for i in sorted(used)]


def _placed(made: Values, used: set[int], count: int) -> tuple[Any, ...]:
    """The results at their places, None where nobody reads one."""
    result: list[Any] = [None] * count
    for i, value in zip(sorted(used), made, strict=True):
        result[i] = value
    return tuple(result)


def _given(*sequences: Any) -> list[Any]:
    return [s for s in sequences if s is not None]


class _Steps:
    def __init__(self, emit: Any) -> None:
        self.emit = emit

    def _zeros(self, *size: int, like: Any) -> Any:
        return self.emit.full(0, size, self.emit.dtype(like))

    def _held(self, sliced: Values, new: Values, old: Values) -> Values:
        """The new state where a step is valid, which the second of its sequences says if there is one."""
        if len(sliced) == 1:
            return new
        return [self.emit.select(sliced[1], a, b) for a, b in zip(new, old)]

    # ---------------------------------------------------------------- LSTM

    def lstm(
        self, ctx: Any, node: fx.Node, gates: Any, h0: Any, c0: Any, w_hh: Any, w_hr: Any, reverse: bool,
        valid: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        e, used = self.emit, results_read(node)
        fixed = [e.swap(w) for w in (w_hh, w_hr) if w is not None]

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            h, c = carried
            i, f, g, o = e.pieces(e.addmm(sliced[0], h, weights[0]), 4, 1)
            i, f, g, o = e.native.sigmoid(i), e.native.sigmoid(f), e.native.tanh(g), e.native.sigmoid(o)
            c = e.add(e.mul(f, c), e.mul(i, g))
            h = e.mul(o, e.native.tanh(c))
            if len(weights) > 1:
                h = e.matmul(h, weights[1])
            h, c = self._held(sliced, (h, c), carried)
            return (h, c), _chosen((h, c, i, f, g, o), used)

        made, _ = e.loop(_given(gates, valid), [h0, c0], fixed, step, reverse)
        return _placed(made, used, 6)

    def lstm_backward(
        self, ctx: Any, node: fx.Node, dh: Any, dc: Any, slopes: Any, slope_c: Any, f: Any, w_hh: Any,
        w_hr: Any, reverse: bool, hold: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        e, used = self.emit, results_read(node) - {1}
        samples, hidden = e.shape(f)[1:]
        fixed, extra = _given(w_hh, w_hr), dc is not None
        start = [
            self._zeros(samples, 4 * hidden, like=f), self._zeros(samples, hidden, like=f)
        ]  # fmt: skip
        if hold is not None:
            start.append(self._zeros(samples, e.shape(dh)[2], like=dh))

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            y, slope, slope_c, f, *more = sliced
            later, dc, *held = carried
            total = e.addmm(y, later, weights[0])
            if held:
                total = e.add(total, held[0])
            dm = e.matmul(total, weights[1]) if len(weights) > 1 else total
            dc = e.add(dc, e.mul(dm, slope_c))
            if extra:
                dc = e.add(dc, more[0])
            dgates = e.mul(e.concat([dc, dc, dc, dm], 1), slope)
            after = [dgates, e.mul(dc, f)] + ([e.mul(total, more[-1])] if held else [])
            return after, _chosen((dgates, None, total), used)

        sliced = _given(dh, slopes, slope_c, f, dc, hold)
        made, (_, dc0, *_) = e.loop(sliced, start, fixed, step, not reverse)
        dgates, _, total = _placed(made, used, 3)
        return dgates, dc0, total

    # ---------------------------------------------------------------- GRU

    def gru(
        self, ctx: Any, node: fx.Node, gates: Any, h0: Any, w_hh: Any, b_hh: Any, reverse: bool,
        valid: Any = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        e, used = self.emit, results_read(node)
        hidden = e.shape(h0)[1]
        fixed = [e.swap(w_hh)] + ([] if b_hh is None else [e.reshape(b_hh, [1, -1])])

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            (h,) = carried
            share = e.matmul(h, weights[0])
            if len(weights) > 1:
                share = e.add(share, weights[1])
            x = sliced[0]
            rz = e.native.sigmoid(e.add(e.cut(x, 1, 0, 2 * hidden), e.cut(share, 1, 0, 2 * hidden)))
            r, z = e.pieces(rz, 2, 1)
            share = e.cut(share, 1, 2 * hidden, 3 * hidden)
            n = e.native.tanh(e.add(e.cut(x, 1, 2 * hidden, 3 * hidden), e.mul(r, share)))
            (h,) = self._held(sliced, [e.add(n, e.mul(z, e.sub(h, n)))], carried)
            return (h,), _chosen((h, r, z, n, share), used)

        made, _ = e.loop(_given(gates, valid), [h0], fixed, step, reverse)
        return _placed(made, used, 5)

    def gru_backward(
        self, ctx: Any, node: fx.Node, dh: Any, slopes: Any, z: Any, w_hh: Any, reverse: bool
    ) -> tuple[Any, ...]:
        e, used = self.emit, results_read(node)
        samples, hidden = e.shape(z)[1:]
        start = [self._zeros(samples, 3 * hidden, like=z), self._zeros(samples, hidden, like=z)]

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            y, slope, z = sliced
            later, direct = carried
            total = e.add(e.addmm(y, later, weights[0]), direct)
            dhidden = e.mul(e.concat([total] * 3, 1), slope)
            return (dhidden, e.mul(total, z)), _chosen((dhidden, total), used)

        made, _ = e.loop([dh, slopes, z], start, [w_hh], step, not reverse)
        return _placed(made, used, 2)

    def gru_reset_first(
        self, ctx: Any, node: fx.Node, gates: Any, h0: Any, w_hh: Any, reverse: bool, valid: Any = None
    ) -> tuple[Any, ...]:
        e, used = self.emit, results_read(node)
        hidden = e.shape(h0)[1]
        w = e.swap(w_hh)
        fixed = [e.cut(w, 1, 0, 2 * hidden), e.cut(w, 1, 2 * hidden, 3 * hidden)]

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            (h,), x = carried, sliced[0]
            r, z = e.pieces(e.native.sigmoid(e.addmm(e.cut(x, 1, 0, 2 * hidden), h, weights[0])), 2, 1)
            n = e.native.tanh(e.addmm(e.cut(x, 1, 2 * hidden, 3 * hidden), e.mul(r, h), weights[1]))
            (h,) = self._held(sliced, [e.add(n, e.mul(z, e.sub(h, n)))], carried)
            return (h,), _chosen((h, r, z, n), used)

        made, _ = e.loop(_given(gates, valid), [h0], fixed, step, reverse)
        return _placed(made, used, 4)

    def gru_reset_first_backward(
        self, ctx: Any, node: fx.Node, dh: Any, slopes: Any, r: Any, z: Any, w_hh: Any, reverse: bool
    ) -> tuple[Any, ...]:
        e = self.emit
        samples, hidden = e.shape(z)[1:]
        fixed = [e.cut(w_hh, 0, 0, 2 * hidden), e.cut(w_hh, 0, 2 * hidden, 3 * hidden)]

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            y, slope, r, z = sliced
            total = e.add(y, carried[0])
            of_r, of_z, of_n = e.pieces(slope, 3, 1)
            d_n = e.mul(total, of_n)
            through = e.matmul(d_n, weights[1])
            d_rz = e.concat([e.mul(through, of_r), e.mul(total, of_z)], 1)
            before = e.addmm(e.add(e.mul(total, z), e.mul(through, r)), d_rz, weights[0])
            return (before,), [e.concat([d_rz, d_n], 1)]

        start = [self._zeros(samples, hidden, like=z)]
        made, (dh0,) = e.loop([dh, slopes, r, z], start, fixed, step, not reverse)
        return made[0], dh0

    # ---------------------------------------------------------------- RNN

    def rnn(
        self, ctx: Any, node: fx.Node, gates: Any, h0: Any, w_hh: Any, relu: bool, reverse: bool,
        valid: Any = None,
    ) -> Any:  # fmt: skip
        e = self.emit

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            h = e.addmm(sliced[0], carried[0], weights[0])
            (h,) = self._held(sliced, [e.native.relu(h) if relu else e.native.tanh(h)], carried)
            return (h,), [h]

        made, _ = e.loop(_given(gates, valid), [h0], [e.swap(w_hh)], step, reverse)
        return made[0]

    def rnn_backward(
        self, ctx: Any, node: fx.Node, dh: Any, slopes: Any, w_hh: Any, reverse: bool, hold: Any = None
    ) -> Any:
        e = self.emit

        def step(sliced: Values, carried: Values, weights: Values) -> tuple[Values, Values]:
            y, slope, *share = sliced
            total = e.addmm(y, carried[0], weights[0])
            if share:
                total = e.add(total, carried[1])
            dgates = e.mul(total, slope)
            return [dgates, *(e.mul(total, s) for s in share)], [dgates]

        sliced = _given(dh, slopes, hold)
        start = [self._zeros(*e.shape(slopes)[1:], like=slopes) for _ in sliced[1:]]
        made, _ = e.loop(sliced, start, [w_hh], step, not reverse)
        return made[0]

    # ---------------------------------------------------------------- states before each step, lengths

    def before(self, ctx: Any, node: fx.Node, sequence: Any, first: Any, reverse: bool) -> Any:
        e = self.emit
        first, count = e.unsqueeze(first, [0]), e.shape(sequence)[0]
        if count == 1:
            return first
        if reverse:
            return e.concat([e.cut(sequence, 0, 1, count), first], 0)
        return e.concat([first, e.cut(sequence, 0, 0, count - 1)], 0)

    def lengths(self, ctx: Any, node: fx.Node, lengths: Any, *limits: Any) -> Any:
        return self.emit.convert(lengths, torch.int64)
