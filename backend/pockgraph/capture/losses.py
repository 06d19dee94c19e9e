"""Losses of `torch.nn.functional` whose PyTorch code no static graph can hold, written so that one can.

`F.ctc_loss` hands its lengths to a kernel as numbers; `F.gaussian_nll_loss` looks at the values of its
variances to raise an error; labels of uint8 have no form without data. While a model is traced, calls of them
come here. Their values and gradients
are PyTorch's; the comparison that every artefact carries is with PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import refusals

IMPOSSIBLE = -1e30  # the log-probability of what cannot be: as good as -inf, and its gradient is no NaN

Lengths = Tensor | Sequence[int]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """`F.ctc_loss` for log-probabilities [T, N, C] and targets [N, S], or without N.

    The forward algorithm over the labels with blanks around them (Graves et al., 2006), a step of T at a
    time, on logarithms.

    Raises:
        NotOneGraph: the targets of several samples stand one after the other.
    """
    batched = log_probs.ndim == 3
    if not batched:
        log_probs, targets = log_probs.unsqueeze(1), targets.reshape(1, -1)
    samples = log_probs.shape[1]
    if targets.ndim == 1:
        raise refusals.NotOneGraph(refusals.CTC_IN_A_ROW.format(samples=samples))
    inputs, spoken = (_lengths(v, samples, targets) for v in (input_lengths, target_lengths))
    loss = _ctc_of_each(log_probs, targets.to(torch.int64), inputs, spoken, blank)
    loss = torch.where(loss > -IMPOSSIBLE / 2, 0.0 if zero_infinity else math.inf, loss)
    match reduction:
        case "mean":
            return (loss / spoken.clamp_min(1).to(loss.dtype)).mean()
        case "sum":
            return loss.sum()
        case "none":
            return loss if batched else loss.squeeze(0)
    raise ValueError(f"{reduction!r} is not a valid reduction")


def _lengths(lengths: Lengths, samples: int, like: Tensor) -> Tensor:
    """[N], int64."""
    if not isinstance(lengths, Tensor):
        lengths = torch.tensor(list(lengths), device=like.device)
    return lengths.to(torch.int64).reshape(-1).expand(samples)


def _ctc_of_each(log_probs: Tensor, targets: Tensor, inputs: Tensor, spoken: Tensor, blank: int) -> Tensor:
    """The loss of each sample, [N]."""
    steps, longest = log_probs.shape[0], targets.shape[1]
    number = torch.arange(longest, device=targets.device)
    labels = torch.where(number < spoken[:, None], targets, blank)
    blanks = torch.full_like(labels, blank)
    path = F.pad(torch.stack([blanks, labels], 2).flatten(1), (0, 1), value=blank)  # [N, 2 S + 1]
    # From label to label a blank may be left out, unless they are the same.
    skips = torch.zeros_like(path, dtype=torch.bool)
    if longest > 1:
        differs = F.pad(labels[:, 1:] != labels[:, :-1], (1, 0))
        skips = F.pad(torch.stack([torch.zeros_like(differs), differs], 2).flatten(1), (0, 1))
    toll = torch.where(skips, 0.0, IMPOSSIBLE).to(log_probs.dtype)
    emitted = log_probs.gather(2, path.expand(steps, -1, -1))  # [T, N, 2 S + 1]
    place = torch.arange(path.shape[1], device=path.device)
    starts = (place == 0) | ((place == 1) & (spoken[:, None] > 0))
    alpha = torch.where(starts, emitted[0], IMPOSSIBLE)
    for t in range(1, steps):
        before = [alpha, F.pad(alpha, (1, -1), value=IMPOSSIBLE)]
        if longest > 1:
            before.append(F.pad(alpha, (2, -2), value=IMPOSSIBLE) + toll)
        reached = torch.logsumexp(torch.stack(before), 0) + emitted[t]
        alpha = torch.where(t < inputs[:, None], reached, alpha)
    last = alpha.gather(1, 2 * spoken[:, None])
    label = alpha.gather(1, (2 * spoken[:, None] - 1).clamp_min(0))
    label = torch.where(spoken[:, None] > 0, label, IMPOSSIBLE)
    loss = -torch.logsumexp(torch.cat([last, label], 1), 1)
    # PyTorch's gradient is that of a log_softmax's input: that of the sum of probabilities comes with it.
    within = torch.arange(steps, device=path.device)[:, None] < inputs
    total = torch.where(within, log_probs.exp().sum(2), 0.0).sum(0)
    return loss + (total - total.detach())


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """`F.gaussian_nll_loss`. A negative variance, an error in PyTorch, makes the loss NaN."""
    var = torch.full_like(input, var) if isinstance(var, float | int) else var
    refused = (var < 0).any()
    if var.size() != input.size() and input.size()[:-1] == var.size():
        var = var.unsqueeze(-1)
    var = var + (var.clamp_min(eps) - var).detach()  # what is clamped passes its gradient on, as in PyTorch
    loss = 0.5 * (torch.log(var) + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    loss = torch.where(refused, math.nan, loss)
    match reduction:
        case "mean":
            return loss.mean()
        case "sum":
            return loss.sum()
        case "none":
            return loss
    raise ValueError(f"{reduction!r} is not a valid reduction")


def _of_labels(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`loss` of scores [N, C] or [C], whose labels may be uint8: PyTorch takes such, its tracing does not."""

    def of_labels(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plain = input.ndim <= 2 and target.dtype == torch.uint8 and target.ndim < input.ndim
        return loss(input, target.long() if plain else target, *args, **kwargs)

    return of_labels


LOSSES: dict[Any, Callable[..., Tensor]] = {
    F.ctc_loss: ctc_loss,
    F.gaussian_nll_loss: gaussian_nll_loss,
    F.cross_entropy: _of_labels(F.cross_entropy),
    F.nll_loss: _of_labels(F.nll_loss),
}
