"""The loop of an LSTM and its backward, as operators; `operators.py` says what they take and give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .loops import add_later_gradient, define, require_shapes, steps_of, steps_or_none


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
        *(
            steps_of(s, reverse)
            for s in (gates, activated, activated[:, :, : 2 * hidden], *parts, c_all, h_all)
        ),
        steps_or_none(valid, gates, reverse),
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
    require_shapes({
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
        *(steps_of(s, not reverse) for s in (dh, *parts, slope_c, f, totals, dgates, memory, output)),
        steps_or_none(dc, dh, not reverse),
        steps_or_none(hold, dh, not reverse),
    )
    later: Any = None
    for y, of_memory, of_output, of_c, forget, total, d, d_memory, d_output, extra, share in steps:
        if later is None:
            total.copy_(y)
        else:
            add_later_gradient(y, later, w_hh, total)
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
    require_shapes({
        (steps, samples, 4 * hidden): [slopes],
        (steps, samples, hidden): [slope_c, dc],
        (steps, samples, outputs if w_hr is not None else hidden): [dh],
        (4 * hidden, outputs): [w_hh],
        (outputs, hidden): [w_hr],
        (steps, samples, 1): [hold],
    })  # fmt: skip
    return slopes.new_empty(slopes.shape), f.new_empty(f.shape[1:]), dh.new_empty(dh.shape)


define(
    "lstm(Tensor gates, Tensor h0, Tensor c0, Tensor w_hh, Tensor? w_hr, bool reverse, "
    "Tensor? valid=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _lstm,
    _lstm_meta,
)
define(
    "lstm_backward(Tensor dh, Tensor? dc, Tensor slopes, Tensor slope_c, Tensor f, Tensor w_hh, "
    "Tensor? w_hr, bool reverse, Tensor? hold=None) -> (Tensor, Tensor, Tensor)",
    _lstm_backward,
    _lstm_backward_meta,
)
