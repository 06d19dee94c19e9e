"""The loops of recurrent layers as operators, `torch.ops.pockgraph`: the one exception to core ATen.

Only what must run step after step is inside. The inputs' share of the gates is computed for all steps
beforehand, and the gradients of all weights behind, by ordinary operators that a plan can keep or drop.

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
before the product with its weights, and not behind, is ONNX's of `linear_before_reset=0`. *Slopes* are the
derivatives of what a step makes by its gates: they are known for all steps when the backward loop begins.

Sequences of several lengths: where `valid` (bool `[T, N, 1]`) is not set, a step leaves the state as it is.
In backward loops the slopes are zero there, and `hold` (`[T, N, 1]`) is 1: the share of the gradient of a
step's state that goes to the state before as it is. A GRU's update gate, 1 there, is that share already.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("pockgraph", "DEF")
ops = torch.ops.pockgraph


def _operator(schema: str, kernel: Callable[..., Any], meta: Callable[..., Any]) -> None:
    _library.define(schema)
    name = schema.partition("(")[0]
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(name, meta, "Meta")


def _require(shapes: dict[tuple[int, ...], Sequence[Tensor | None]]) -> None:
    """Every tensor has its shape: the loops write where they are told to.

    Raises:
        RuntimeError: one has not.
    """
    for shape, tensors in shapes.items():
        for t in tensors:
            if t is not None and tuple(t.shape) != shape:
                raise RuntimeError(f"a recurrent loop takes {shape} where {tuple(t.shape)} stands")


def _time(sequence: Tensor, reverse: bool) -> Any:
    """The steps of a sequence in the order in which the loop takes them."""
    steps = sequence.unbind(0)
    return reversed(steps) if reverse else steps


def _each(sequence: Tensor | None, like: Tensor, reverse: bool) -> Any:
    """`_time`, or None for each step of `like` where there is no such sequence."""
    return itertools.repeat(None, len(like)) if sequence is None else _time(sequence, reverse)


def _from_later(y: Tensor, later: tuple[Tensor, ...], w_hh: Tensor, total: Tensor) -> None:
    """`total` becomes the gradient of a step's state, the following step being (its dgates, total, share)."""
    torch.addmm(y, later[0], w_hh, out=total)
    if later[2] is not None:
        total.addcmul_(later[1], later[2])


# ---------------------------------------------------------------- LSTM


def _lstm(
    gates: Tensor, h0: Tensor, c0: Tensor, w_hh: Tensor, w_hr: Tensor | None, reverse: bool,
    valid: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    hidden = c0.shape[-1]
    activated = torch.empty_like(gates, memory_format=torch.contiguous_format)
    c_all = c0.new_empty((len(gates), *c0.shape))
    h_all = h0.new_empty((len(gates), *h0.shape))
    w, projection = w_hh.t(), None if w_hr is None else w_hr.t()
    parts = activated.split(hidden, 2)
    steps = zip(
        *(_time(s, reverse) for s in (gates, activated, activated[:, :, : 2 * hidden], *parts, c_all, h_all)),
        _each(valid, gates, reverse),
    )
    h, c = h0, c0
    for x, a, a_if, i, f, g, o, c_new, h_new, runs in steps:
        before = h, c
        torch.addmm(x, h, w, out=a)
        a_if.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c = torch.mul(f, c, out=c_new).addcmul_(i, g)
        if projection is None:
            h = torch.mul(o, c.tanh(), out=h_new)
        else:
            h = torch.mm(o * c.tanh(), projection, out=h_new)
        if runs is not None:
            h, c = (s.copy_(torch.where(runs, s, old)) for s, old in zip((h, c), before))
    return h_all, c_all, *(p.contiguous() for p in parts)


def _lstm_meta(
    gates: Tensor, h0: Tensor, c0: Tensor, w_hh: Tensor, w_hr: Tensor | None, reverse: bool,
    valid: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    (steps, samples, _), (_, hidden), outputs = gates.shape, c0.shape, h0.shape[-1]
    _require({
        (steps, samples, 4 * hidden): [gates],
        (samples, hidden): [c0],
        (samples, outputs if w_hr is not None else hidden): [h0],
        (4 * hidden, outputs): [w_hh],
        (outputs, hidden): [w_hr],
        (steps, samples, 1): [valid],
    })  # fmt: skip
    sequence = c0.new_empty((steps, *c0.shape))
    return h0.new_empty((steps, *h0.shape)), *(torch.empty_like(sequence) for _ in range(5))


def _lstm_backward(
    dh: Tensor, dc: Tensor | None, slopes: Tensor, slope_c: Tensor, f: Tensor, w_hh: Tensor,
    w_hr: Tensor | None, reverse: bool, hold: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    hidden = f.shape[-1]
    dgates = torch.empty_like(slopes, memory_format=torch.contiguous_format)
    totals = torch.empty_like(dh, memory_format=torch.contiguous_format)
    carry = torch.zeros_like(f[0])
    memory = dgates[:, :, : 3 * hidden].unflatten(2, (3, hidden))
    output = dgates[:, :, 3 * hidden :]
    parts = slopes[:, :, : 3 * hidden].unflatten(2, (3, hidden)), slopes[:, :, 3 * hidden :]
    steps = zip(
        *(_time(s, not reverse) for s in (dh, *parts, slope_c, f, totals, dgates, memory, output)),
        _each(dc, dh, not reverse),
        _each(hold, dh, not reverse),
    )
    later: Any = None
    for y, of_memory, of_output, of_c, forget, total, d, d_memory, d_output, extra, share in steps:
        if later is None:
            total.copy_(y)
        else:
            _from_later(y, later, w_hh, total)
        dm = total if w_hr is None else total @ w_hr
        carry.addcmul_(dm, of_c)
        if extra is not None:
            carry.add_(extra)
        torch.mul(carry.unsqueeze(1), of_memory, out=d_memory)
        torch.mul(dm, of_output, out=d_output)
        carry.mul_(forget)
        later = d, total, share
    return dgates, carry, totals


def _lstm_backward_meta(
    dh: Tensor, dc: Tensor | None, slopes: Tensor, slope_c: Tensor, f: Tensor, w_hh: Tensor,
    w_hr: Tensor | None, reverse: bool, hold: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    (steps, samples, hidden), outputs = f.shape, dh.shape[-1]
    _require({
        (steps, samples, 4 * hidden): [slopes],
        (steps, samples, hidden): [slope_c, dc],
        (steps, samples, outputs if w_hr is not None else hidden): [dh],
        (4 * hidden, outputs): [w_hh],
        (outputs, hidden): [w_hr],
        (steps, samples, 1): [hold],
    })  # fmt: skip
    return slopes.new_empty(slopes.shape), f.new_empty(f.shape[1:]), dh.new_empty(dh.shape)


_operator(
    "lstm(Tensor gates, Tensor h0, Tensor c0, Tensor w_hh, Tensor? w_hr, bool reverse, "
    "Tensor? valid=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _lstm,
    _lstm_meta,
)
_operator(
    "lstm_backward(Tensor dh, Tensor? dc, Tensor slopes, Tensor slope_c, Tensor f, Tensor w_hh, "
    "Tensor? w_hr, bool reverse, Tensor? hold=None) -> (Tensor, Tensor, Tensor)",
    _lstm_backward,
    _lstm_backward_meta,
)

# ---------------------------------------------------------------- GRU


def _gru(
    gates: Tensor, h0: Tensor, w_hh: Tensor, b_hh: Tensor | None, reverse: bool, valid: Tensor | None = None
) -> tuple[Tensor, ...]:
    hidden = h0.shape[-1]
    shape = (len(gates), *h0.shape)
    rz_all = gates.new_empty((*gates.shape[:2], 2 * hidden))
    n_all, share_all, h_all = (h0.new_empty(shape) for _ in range(3))
    w = w_hh.t()
    split = [2 * hidden, hidden]
    x_rz, x_n = gates.split(split, 2)
    r_all, z_all = rz_all.split(hidden, 2)
    steps = zip(
        *(_time(s, reverse) for s in (x_rz, x_n, rz_all, r_all, z_all, n_all, share_all, h_all)),
        _each(valid, gates, reverse),
    )
    h = h0
    for rz_x, n_x, rz, r, z, n, share, h_new, runs in steps:
        product = torch.mm(h, w) if b_hh is None else torch.addmm(b_hh, h, w)
        rz_h, n_h = product.split(split, 1)
        share.copy_(n_h)
        torch.add(rz_x, rz_h, out=rz).sigmoid_()
        torch.addcmul(n_x, r, share, out=n).tanh_()
        before = h
        h = torch.addcmul(n, z, h - n, out=h_new)
        if runs is not None:
            h = h.copy_(torch.where(runs, h, before))
    return h_all, r_all.contiguous(), z_all.contiguous(), n_all, share_all


def _gru_meta(
    gates: Tensor, h0: Tensor, w_hh: Tensor, b_hh: Tensor | None, reverse: bool, valid: Tensor | None = None
) -> tuple[Tensor, ...]:
    samples, hidden = h0.shape
    _require({
        (len(gates), samples, 3 * hidden): [gates], (3 * hidden, hidden): [w_hh], (3 * hidden,): [b_hh],
        (len(gates), samples, 1): [valid],
    })  # fmt: skip
    return tuple(h0.new_empty((len(gates), *h0.shape)) for _ in range(5))


def _gru_backward(dh: Tensor, slopes: Tensor, z: Tensor, w_hh: Tensor, reverse: bool) -> tuple[Tensor, ...]:
    dhidden = torch.empty_like(slopes, memory_format=torch.contiguous_format)
    totals = torch.empty_like(dh, memory_format=torch.contiguous_format)
    apart = (3, z.shape[-1])
    stacked = slopes.unflatten(2, apart), dhidden.unflatten(2, apart)
    steps = zip(*(_time(s, not reverse) for s in (dh, *stacked, z, totals, dhidden)))
    later: Any = None
    for y, slope, d_apart, gate, total, d in steps:
        if later is None:
            total.copy_(y)
        else:
            _from_later(y, later, w_hh, total)
        torch.mul(total.unsqueeze(1), slope, out=d_apart)
        later = d, total, gate
    return dhidden, totals


def _gru_backward_meta(
    dh: Tensor, slopes: Tensor, z: Tensor, w_hh: Tensor, reverse: bool
) -> tuple[Tensor, ...]:
    steps, samples, hidden = z.shape
    _require({
        (steps, samples, hidden): [dh], (steps, samples, 3 * hidden): [slopes], (3 * hidden, hidden): [w_hh]
    })  # fmt: skip
    return slopes.new_empty(slopes.shape), dh.new_empty(dh.shape)


_operator(
    "gru(Tensor gates, Tensor h0, Tensor w_hh, Tensor? b_hh, bool reverse, Tensor? valid=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _gru,
    _gru_meta,
)
_operator(
    "gru_backward(Tensor dh, Tensor slopes, Tensor z, Tensor w_hh, bool reverse) -> (Tensor, Tensor)",
    _gru_backward,
    _gru_backward_meta,
)

# ---------------------------------------------------------------- GRU, the reset before the product


def _gru_reset_first(
    gates: Tensor, h0: Tensor, w_hh: Tensor, reverse: bool, valid: Tensor | None = None
) -> tuple[Tensor, ...]:
    hidden, count = h0.shape[-1], len(gates)
    rz_all = gates.new_empty((*gates.shape[:2], 2 * hidden))
    n_all, h_all = (h0.new_empty((count, *h0.shape)) for _ in range(2))
    w_rz, w_n = w_hh[: 2 * hidden].t(), w_hh[2 * hidden :].t()
    x_rz, x_n = gates.split([2 * hidden, hidden], 2)
    r_all, z_all = rz_all.split(hidden, 2)
    steps = zip(
        *(_time(s, reverse) for s in (x_rz, x_n, rz_all, r_all, z_all, n_all, h_all)),
        _each(valid, gates, reverse),
    )
    h = h0
    for rz_x, n_x, rz, r, z, n, h_new, runs in steps:
        before = h
        torch.addmm(rz_x, h, w_rz, out=rz).sigmoid_()
        torch.addmm(n_x, r * h, w_n, out=n).tanh_()
        h = torch.addcmul(n, z, h - n, out=h_new)
        if runs is not None:
            h = h.copy_(torch.where(runs, h, before))
    return h_all, r_all.contiguous(), z_all.contiguous(), n_all


def _gru_reset_first_meta(
    gates: Tensor, h0: Tensor, w_hh: Tensor, reverse: bool, valid: Tensor | None = None
) -> tuple[Tensor, ...]:
    samples, hidden = h0.shape
    _require({
        (len(gates), samples, 3 * hidden): [gates], (3 * hidden, hidden): [w_hh],
        (len(gates), samples, 1): [valid],
    })  # fmt: skip
    return tuple(h0.new_empty((len(gates), *h0.shape)) for _ in range(4))


def _gru_reset_first_backward(
    dh: Tensor, slopes: Tensor, r: Tensor, z: Tensor, w_hh: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    hidden = z.shape[-1]
    dgates = torch.empty_like(slopes, memory_format=torch.contiguous_format)
    w_rz, w_n = w_hh[: 2 * hidden], w_hh[2 * hidden :]
    carry = torch.zeros_like(z[0])
    for y, slope, reset, keep, d in zip(*(_time(s, not reverse) for s in (dh, slopes, r, z, dgates))):
        total = y + carry
        d_r, d_z, d_n = d.chunk(3, 1)
        of_r, of_z, of_n = slope.chunk(3, 1)
        through = torch.mul(total, of_n, out=d_n) @ w_n
        torch.mul(total, of_z, out=d_z)
        torch.mul(through, of_r, out=d_r)
        carry = torch.addmm(total * keep, d[:, : 2 * hidden], w_rz).addcmul_(through, reset)
    return dgates, carry


def _gru_reset_first_backward_meta(
    dh: Tensor, slopes: Tensor, r: Tensor, z: Tensor, w_hh: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    steps, samples, hidden = z.shape
    _require({
        (steps, samples, hidden): [dh, r], (steps, samples, 3 * hidden): [slopes],
        (3 * hidden, hidden): [w_hh],
    })  # fmt: skip
    return slopes.new_empty(slopes.shape), z.new_empty(z.shape[1:])


_operator(
    "gru_reset_first(Tensor gates, Tensor h0, Tensor w_hh, bool reverse, Tensor? valid=None) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _gru_reset_first,
    _gru_reset_first_meta,
)
_operator(
    "gru_reset_first_backward(Tensor dh, Tensor slopes, Tensor r, Tensor z, Tensor w_hh, bool reverse) "
    "-> (Tensor, Tensor)",
    _gru_reset_first_backward,
    _gru_reset_first_backward_meta,
)

# ---------------------------------------------------------------- RNN


def _rnn(
    gates: Tensor, h0: Tensor, w_hh: Tensor, relu: bool, reverse: bool, valid: Tensor | None = None
) -> Tensor:
    h_all = h0.new_empty((len(gates), *h0.shape))
    w, h = w_hh.t(), h0
    for x, h_new, runs in zip(_time(gates, reverse), _time(h_all, reverse), _each(valid, gates, reverse)):
        before = h
        h = torch.addmm(x, h, w, out=h_new)
        h = h.relu_() if relu else h.tanh_()
        if runs is not None:
            h = h.copy_(torch.where(runs, h, before))
    return h_all


def _rnn_backward(
    dh: Tensor, slopes: Tensor, w_hh: Tensor, reverse: bool, hold: Tensor | None = None
) -> Tensor:
    dgates = torch.empty_like(slopes, memory_format=torch.contiguous_format)
    later: Any = None
    steps = zip(*(_time(s, not reverse) for s in (dh, slopes, dgates)), _each(hold, dh, not reverse))
    for y, slope, d, share in steps:
        total = y
        if later is not None:
            total = torch.empty_like(y)
            _from_later(y, later, w_hh, total)
        later = torch.mul(total, slope, out=d), total, share
    return dgates


def _rnn_meta(
    gates: Tensor, h0: Tensor, w_hh: Tensor, relu: bool, reverse: bool, valid: Tensor | None = None
) -> Tensor:
    samples, hidden = h0.shape
    _require({
        (len(gates), samples, hidden): [gates], (hidden, hidden): [w_hh], (len(gates), samples, 1): [valid]
    })  # fmt: skip
    return h0.new_empty((len(gates), *h0.shape))


def _rnn_backward_meta(
    dh: Tensor, slopes: Tensor, w_hh: Tensor, reverse: bool, hold: Tensor | None = None
) -> Tensor:
    steps, samples, hidden = slopes.shape
    _require({
        (steps, samples, hidden): [dh], (hidden, hidden): [w_hh], (steps, samples, 1): [hold]
    })  # fmt: skip
    return slopes.new_empty(slopes.shape)


_operator(
    "rnn(Tensor gates, Tensor h0, Tensor w_hh, bool relu, bool reverse, Tensor? valid=None) -> Tensor",
    _rnn,
    _rnn_meta,
)
_operator(
    "rnn_backward(Tensor dh, Tensor slopes, Tensor w_hh, bool reverse, Tensor? hold=None) -> Tensor",
    _rnn_backward,
    _rnn_backward_meta,
)

# ---------------------------------------------------------------- states before each step


def _before(sequence: Tensor, first: Tensor, reverse: bool) -> Tensor:
    first = first.unsqueeze(0)
    return torch.cat([sequence[1:], first] if reverse else [first, sequence[:-1]])


def _before_meta(sequence: Tensor, first: Tensor, reverse: bool) -> Tensor:
    _require({tuple(sequence.shape[1:]): [first]})
    return sequence.new_empty(sequence.shape)


_operator(
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


_operator(
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
