"""The loops of a GRU and their backward, as operators; `operators.py` says what they take and give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .loops import add_later_gradient, define, require_shapes, steps_of, steps_or_none


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
        *(steps_of(s, reverse) for s in (x_rz, x_n, rz_all, r_all, z_all, n_all, share_all, h_all)),
        steps_or_none(valid, gates, reverse),
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
    require_shapes({
        (len(gates), samples, 3 * hidden): [gates], (3 * hidden, hidden): [w_hh], (3 * hidden,): [b_hh],
        (len(gates), samples, 1): [valid],
    })  # fmt: skip
    return tuple(h0.new_empty((len(gates), *h0.shape)) for _ in range(5))


def _gru_backward(dh: Tensor, slopes: Tensor, z: Tensor, w_hh: Tensor, reverse: bool) -> tuple[Tensor, ...]:
    dhidden = torch.empty_like(slopes, memory_format=torch.contiguous_format)
    totals = torch.empty_like(dh, memory_format=torch.contiguous_format)
    apart = (3, z.shape[-1])
    stacked = slopes.unflatten(2, apart), dhidden.unflatten(2, apart)
    steps = zip(*(steps_of(s, not reverse) for s in (dh, *stacked, z, totals, dhidden)))
    later: Any = None
    for y, slope, d_apart, gate, total, d in steps:
        if later is None:
            total.copy_(y)
        else:
            add_later_gradient(y, later, w_hh, total)
        torch.mul(total.unsqueeze(1), slope, out=d_apart)
        later = d, total, gate
    return dhidden, totals


def _gru_backward_meta(
    dh: Tensor, slopes: Tensor, z: Tensor, w_hh: Tensor, reverse: bool
) -> tuple[Tensor, ...]:
    steps, samples, hidden = z.shape
    require_shapes({
        (steps, samples, hidden): [dh], (steps, samples, 3 * hidden): [slopes], (3 * hidden, hidden): [w_hh]
    })  # fmt: skip
    return slopes.new_empty(slopes.shape), dh.new_empty(dh.shape)


define(
    "gru(Tensor gates, Tensor h0, Tensor w_hh, Tensor? b_hh, bool reverse, Tensor? valid=None) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _gru,
    _gru_meta,
)
define(
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
        *(steps_of(s, reverse) for s in (x_rz, x_n, rz_all, r_all, z_all, n_all, h_all)),
        steps_or_none(valid, gates, reverse),
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
    require_shapes({
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
    for y, slope, reset, keep, d in zip(*(steps_of(s, not reverse) for s in (dh, slopes, r, z, dgates))):
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
    require_shapes({
        (steps, samples, hidden): [dh, r], (steps, samples, 3 * hidden): [slopes],
        (3 * hidden, hidden): [w_hh],
    })  # fmt: skip
    return slopes.new_empty(slopes.shape), z.new_empty(z.shape[1:])


define(
    "gru_reset_first(Tensor gates, Tensor h0, Tensor w_hh, bool reverse, Tensor? valid=None) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _gru_reset_first,
    _gru_reset_first_meta,
)
define(
    "gru_reset_first_backward(Tensor dh, Tensor slopes, Tensor r, Tensor z, Tensor w_hh, bool reverse) "
    "-> (Tensor, Tensor)",
    _gru_reset_first_backward,
    _gru_reset_first_backward_meta,
)
