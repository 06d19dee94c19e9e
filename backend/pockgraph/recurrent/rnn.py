"""The loop of a plain RNN and its backward, as operators; `operators.py` says what they take and give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .loops import add_later_gradient, define, require_shapes, steps_of, steps_or_none


def _rnn(
    gates: Tensor, h0: Tensor, w_hh: Tensor, relu: bool, reverse: bool, valid: Tensor | None = None
) -> Tensor:
    h_all = h0.new_empty((len(gates), *h0.shape))
    w, h = w_hh.t(), h0
    for x, h_new, runs in zip(
        steps_of(gates, reverse), steps_of(h_all, reverse), steps_or_none(valid, gates, reverse)
    ):
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
    steps = zip(
        *(steps_of(s, not reverse) for s in (dh, slopes, dgates)), steps_or_none(hold, dh, not reverse)
    )
    for y, slope, d, share in steps:
        total = y
        if later is not None:
            total = torch.empty_like(y)
            add_later_gradient(y, later, w_hh, total)
        later = torch.mul(total, slope, out=d), total, share
    return dgates


def _rnn_meta(
    gates: Tensor, h0: Tensor, w_hh: Tensor, relu: bool, reverse: bool, valid: Tensor | None = None
) -> Tensor:
    samples, hidden = h0.shape
    require_shapes({
        (len(gates), samples, hidden): [gates], (hidden, hidden): [w_hh], (len(gates), samples, 1): [valid]
    })  # fmt: skip
    return h0.new_empty((len(gates), *h0.shape))


def _rnn_backward_meta(
    dh: Tensor, slopes: Tensor, w_hh: Tensor, reverse: bool, hold: Tensor | None = None
) -> Tensor:
    steps, samples, hidden = slopes.shape
    require_shapes({
        (steps, samples, hidden): [dh], (hidden, hidden): [w_hh], (steps, samples, 1): [hold]
    })  # fmt: skip
    return slopes.new_empty(slopes.shape)


define(
    "rnn(Tensor gates, Tensor h0, Tensor w_hh, bool relu, bool reverse, Tensor? valid=None) -> Tensor",
    _rnn,
    _rnn_meta,
)
define(
    "rnn_backward(Tensor dh, Tensor slopes, Tensor w_hh, bool reverse, Tensor? hold=None) -> Tensor",
    _rnn_backward,
    _rnn_backward_meta,
)
