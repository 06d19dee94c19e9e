"""How far rounding alone may carry a gradient, and what an optimizer makes of it.

Several runs of the same step that differ in rounding only say how far a gradient may be off, element by
element. What the optimizer does at both ends of that span, in between and with random signs is the band in
which every correct program's weights and states lie. The excess over the band is a deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Times what the runs showed: they are few, and other programs add up in another order.
SPREAD_FACTOR = 6.0
# Storing a value rounds it, and so does each of the few operators of an update.
STORED_EPS = 3.0
# Of a tensor's typical channel: what a quiet channel is held against.
QUIET_RATIO = 1e-2
# Between them, squares are float32 numbers: such norms need no float64, which is slow.
SMALL_NORM, LARGE_NORM = 1e-12, 1e15


def typical(values: Mapping[str, Tensor]) -> float:
    """Root mean square over all elements of all tensors."""
    count = sum(v.numel() for v in values.values())
    return math.sqrt(sum(norm(v) ** 2 for v in values.values()) / max(count, 1))


def norm(value: Tensor) -> float:
    """Euclidean, of all elements."""
    return float(channel_norms(value).norm())


def channel_norms(value: Tensor) -> Tensor:
    """Norm of each channel (first dimension), float64."""
    channels = value.shape[0] if value.ndim else 1
    if not value.numel():
        return torch.zeros(channels, dtype=torch.float64)
    rows = value.reshape(channels, -1)
    found = torch.linalg.vector_norm(rows, dim=1).double()
    squares_fit = (found > SMALL_NORM) & (found < LARGE_NORM)
    if value.dtype != torch.float64 and not bool(squares_fit.all()):
        found[~squares_fit] = torch.linalg.vector_norm(rows[~squares_fit], dim=1, dtype=torch.float64)
    return found


def spans(
    center: Mapping[str, Tensor], runs: Sequence[Mapping[str, Tensor]], ratio: float, floor: float
) -> dict[str, Tensor]:
    """Name -> how far each element of a correct program's gradient may be from `center`, float64.

    Args:
        runs: the same gradients, rounded otherwise; none: nothing is known but `ratio`.
        ratio: of an element's size, that any program is allowed. An element that is zero in all runs
            stays zero in any program, unless its whole tensor is rounding.
        floor: what may be left of a sum that is zero.
    """
    return {name: span_of(c, [run[name] for run in runs], ratio, floor) for name, c in center.items()}


def span_of(center: Tensor, runs: Sequence[Tensor], ratio: float, floor: float) -> Tensor:
    """See `spans`, which does this for every tensor."""
    center = center.double()
    size = center.abs()
    rms = _rms(center)
    span = ratio * (size + 0.1 * rms) + floor
    moves = (size > 0) | (0 < rms <= floor)
    if runs:
        most = _most_error(center, runs)
        moves |= most > 0
        # A kink that one channel passes in these runs, another may pass in the next.
        by_channel = most.reshape(most.shape[0] if most.ndim else 1, -1).square().mean(1).sqrt()
        span += SPREAD_FACTOR * most.clamp_min(float(by_channel.max()))
    return torch.where(moves, span, 0.0)


def bands(
    center: Mapping[str, Tensor], span: Mapping[str, Tensor], function: Callable[..., dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `function` gives for `center`, and how far that moves while its argument stays in its span.

    Args:
        function: of a mapping like `center`.
    """
    at = function(center)
    width = {name: torch.zeros_like(value) for name, value in at.items()}
    generator = torch.Generator().manual_seed(0)

    def signs(value: Tensor) -> Tensor:
        return torch.randint(0, 2, value.shape, generator=generator, dtype=torch.int8) * 2 - 1

    ends: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda c, s: c + s, lambda c, s: c - s, lambda c, s: c.sign() * (c.abs() - s).clamp_min(0.0),
        lambda c, s: c + s * signs(c),
    ]  # fmt: skip
    for end in ends:
        moved = function({name: end(c.double(), span[name]) for name, c in center.items()})
        for name, value in moved.items():
            width[name] = torch.maximum(width[name], (value - at[name]).abs())
    return at, width


def spread(center: Tensor, runs: Sequence[Tensor]) -> Tensor:
    """How far a value of the forward pass may be off, from runs that differ in rounding."""
    if not runs:
        return torch.zeros_like(center, dtype=torch.float64)
    most = _most_error(center.double(), runs)
    return SPREAD_FACTOR * most.clamp_min(_rms(most))


def loss_spread(center: float, runs: Sequence[float]) -> float:
    """How far a loss may be off, from runs that differ in rounding."""
    errors = [abs(run - center) for run in runs]
    return SPREAD_FACTOR * max((e for e in errors if math.isfinite(e)), default=0.0)


def _most_error(center: Tensor, runs: Sequence[Tensor]) -> Tensor:
    most = torch.zeros_like(center)
    for run in runs:
        most = torch.maximum(most, (run.double() - center).abs())
    return most


@dataclass(frozen=True)
class Deviation:
    """How far a value is from where it should be.

    Attributes:
        beyond: its worst channel's distance from the band, relative to how far the channel should move.
        error: the distance from the middle; norm over the whole tensor, as the others.
        width: how large that may be within the band.
        size: how far the whole tensor should move.
    """

    beyond: float
    error: float
    width: float
    size: float

    @property
    def share(self) -> float:
        """The error, relative to how far the tensor should move."""
        return ratio(self.error, self.size)

    @property
    def allowed(self) -> float:
        """How large `share` may be within the band."""
        return ratio(self.width, self.size)


def deviation(got: Tensor, right: Tensor, moved: Tensor, width: Tensor | None = None) -> Deviation:
    """Compare a value with the band around the right one.

    Args:
        width: half the band's; None: rounding counts as well.
        moved: what deviations are relative to: by how much the value should have changed.
    """
    if not right.is_floating_point():
        same = torch.equal(got, right.to(got.dtype))
        off = 0.0 if same else math.inf
        return Deviation(off, off, 0.0, 1.0)
    size = channel_norms(moved)
    whole = float(size.norm())
    if width is None:
        error = channel_norms(got - right)
        return Deviation(_worst(error, size), float(error.norm()), 0.0, whole)
    off = (got.double() - right.double()).abs()
    over = channel_norms((off - width).clamp_min(0.0))
    return Deviation(_worst(over, size), norm(off), norm(width), whole)


def state_width(
    right: Tensor, before: Tensor, width: Tensor | None, ratio: float, dtype: torch.dtype
) -> Tensor:
    """Half the width of a state's band: what the gradient does to it, its arithmetic, and storing it.

    Args:
        width: see `bands`; None where no band is known.
        ratio: of an element's movement.
        dtype: that it is stored in.
    """
    if not right.is_floating_point():
        return torch.zeros(right.shape)
    eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    right, before = right.double(), before.double()
    stored = STORED_EPS * eps * torch.maximum(right.abs(), before.abs()) + ratio * (right - before).abs()
    return stored if width is None else width + stored


def ratio(error: float, size: float) -> float:
    return error / size if size else (math.inf if error else 0.0)


def _worst(error: Tensor, size: Tensor) -> float:
    """Error over size, by channel, where it is largest; infinite where it is not a number."""
    if not error.numel():
        return 0.0
    against = size + QUIET_RATIO * size.square().mean().sqrt()
    found = torch.where(error == 0, 0.0, error / against)
    return math.inf if bool(found.isnan().any()) else float(found.max())


def _rms(value: Tensor) -> float:
    return norm(value) / math.sqrt(value.numel()) if value.numel() else 0.0
