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


def typical(values: Mapping[str, Tensor]) -> float:
    """Root mean square over all elements of all tensors."""
    count = sum(v.numel() for v in values.values())
    return math.sqrt(sum(float(v.double().square().sum()) for v in values.values()) / max(count, 1))


def spans(
    center: Mapping[str, Tensor], runs: Sequence[Mapping[str, Tensor]], ratio: float, floor_ratio: float
) -> dict[str, Tensor]:
    """Name -> how far each element of a correct program's gradient may be from `center`, float64.

    Args:
        runs: the same gradients, rounded otherwise; none: nothing is known but `ratio`.
        ratio: of an element's size, that any program is allowed. An element that is zero in all runs
            stays zero in any program.
        floor_ratio: of the whole model's gradient (root mean square), what may be left of a sum that is zero.
    """
    floor = floor_ratio * typical(center)
    return {name: _span(c, [run[name] for run in runs], ratio, floor) for name, c in center.items()}


def _span(center: Tensor, runs: Sequence[Tensor], ratio: float, floor: float) -> Tensor:
    center = center.double()
    size = center.abs()
    span = ratio * (size + 0.1 * _rms(center)) + floor
    moves = size > 0
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
        share: the distance from the middle, relative to how far the whole tensor should move.
        allowed: how large that may be within the band.
    """

    beyond: float
    share: float
    allowed: float


def deviation(got: Tensor, right: Tensor, moved: Tensor, width: Tensor) -> Deviation:
    """Compare a value with the band around the right one.

    Args:
        width: half the band's.
        moved: what deviations are relative to: by how much the value should have changed.
    """
    if not right.is_floating_point():
        same = torch.equal(got, right.to(got.dtype))
        return Deviation(0.0 if same else math.inf, 0.0 if same else math.inf, 0.0)
    moved = moved.double()
    error = (got.double() - right.double()).abs()
    over = (error - width).clamp_min(0.0)
    size = float(moved.norm())
    return Deviation(
        worst_channel(torch.where(over.isnan(), math.inf, over), moved),
        _ratio(float(error.norm()), size),
        _ratio(float(width.norm()), size),
    )


def state_width(right: Tensor, before: Tensor, width: Tensor, ratio: float, dtype: torch.dtype) -> Tensor:
    """Half the width of a state's band: what the gradient does to it, its arithmetic, and storing it.

    Args:
        width: see `bands`.
        ratio: of an element's movement.
        dtype: that it is stored in.
    """
    if not right.is_floating_point():
        return width
    eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    right, before = right.double(), before.double()
    return (
        width + STORED_EPS * eps * torch.maximum(right.abs(), before.abs()) + ratio * (right - before).abs()
    )


def _ratio(error: float, size: float) -> float:
    return error / size if size else (math.inf if error else 0.0)


def worst_channel(error: Tensor, size: Tensor) -> float:
    """Norm of the error over that of the size, in the channel (first dimension) where it is largest."""
    if not error.numel():
        return 0.0
    error, size = (t.double().reshape(t.shape[0] if t.ndim else 1, -1).norm(dim=1) for t in (error, size))
    against = size + QUIET_RATIO * size.square().mean().sqrt()
    found = torch.where(error > 0, error / against, 0.0)
    return math.inf if bool(found.isnan().any()) else float(found.max())


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt()) if value.numel() else 0.0
