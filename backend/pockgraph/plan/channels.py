"""Which channels of a tensor to train: from a ratio, by a method or by scores, or as given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanError, suggest

if TYPE_CHECKING:
    from .plan import Trained
    from .plannable import PlannableGraph
    from .tensor_info import TensorInfo

METHODS = ("magnitude", "first", "random")
Method = str | Mapping[str, Sequence[float]]


def count_of(ratio: float, channels: int) -> int:
    """How many channels a ratio means: `max(1, round(ratio * channels))`."""
    return max(1, round(ratio * channels))


def resolve_channels(
    graph: PlannableGraph, tensor: TensorInfo, what: float | Sequence[int], method: Method, seed: int
) -> tuple[int, ...] | None:
    """Sorted channel indices; empty for the whole tensor, None for a frozen one.

    Raises:
        PlanError: a ratio outside [0, 1], unknown channels, a tensor without channels, or scores that
            do not fit.
    """
    if method == "fisher":
        raise PlanError(
            "Fisher information needs batches: pass channels=pockgraph.fisher_scores(graph, batches) "
            'instead of channels="fisher".'
        )
    if isinstance(method, str) and method not in METHODS:
        raise PlanError(f"Unknown way {method!r} to pick channels; known are {', '.join(METHODS)}.")
    if isinstance(what, int | float) and not isinstance(what, bool):
        if not 0 <= what <= 1:
            raise PlanError(f"{tensor.fqn!r}: a ratio lies between 0 and 1, got {what}.")
        if what == 0:
            return None
        if what == 1:
            return ()
        channels = _needs_channels(tensor, "ratio below 1")
        count = count_of(what, channels)
        return () if count == channels else pick(graph, tensor, count, method, seed)
    listed = (
        list(what) if isinstance(what, Iterable) and not isinstance(what, str | bytes | Mapping) else None
    )
    if listed is None or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in listed):
        raise PlanError(
            f"{tensor.fqn!r}: give a ratio from 0 to 1 or a list of channel numbers, not {what!r}."
        )
    indices = sorted({int(i) for i in listed})
    if not indices:
        return None
    channels = _needs_channels(tensor, "list of channels")
    if indices[0] < 0 or indices[-1] >= channels:
        bad = [i for i in indices if not 0 <= i < channels]
        raise PlanError(
            f"{tensor.fqn!r} has channels 0 to {channels - 1} along dim {tensor.channel_dim}; got {bad[:8]}."
        )
    return () if len(indices) == channels else tuple(indices)


def checked_part(tensor: TensorInfo, what: Trained) -> Trained:
    """Channels along a dimension of the planner's choosing; the whole tensor when they are all there are.

    Raises:
        PlanError: the tensor has no such dimension, or no such channel along it.
    """
    if what.dim is None or what.channels is None:
        return what
    if what.dim >= len(tensor.shape):
        raise PlanError(
            f"{tensor.fqn!r} of shape {tensor.shape} has no dim {what.dim}: dimensions are counted from 0."
        )
    channels = tensor.shape[what.dim]
    if what.channels[-1] >= channels:
        bad = [i for i in what.channels if i >= channels]
        raise PlanError(
            f"{tensor.fqn!r} has channels 0 to {channels - 1} along dim {what.dim}; got {bad[:8]}."
        )
    return what if len(what.channels) < channels else type(what)()


def _needs_channels(tensor: TensorInfo, what: str) -> int:
    if tensor.channels is None:
        raise PlanError(
            f"{tensor.fqn!r} ({tensor.kind}, shape {tensor.shape}) has no channels of its own: it is trained "
            f"whole or not at all, but got a {what}. Use 1.0, leave it out, or name a dimension: "
            "Trained(dim=…, channels=…)."
        )
    return tensor.channels


def pick(graph: PlannableGraph, tensor: TensorInfo, count: int, method: Method, seed: int) -> tuple[int, ...]:
    """`count` sorted channels of a tensor: of the best score, the largest L2 norm, the first, or random."""
    assert tensor.channels is not None
    assert tensor.channel_dim is not None
    if not isinstance(method, str):
        chosen = np.argsort(-_scores(method, tensor), kind="stable")[:count]
    elif method == "first":
        chosen = np.arange(count)
    elif method == "random":
        # The tensor's own stream: adding a tensor to a plan does not change the others' channels.
        if not isinstance(seed, int) or seed < 0:
            raise PlanError(f"seed={seed!r} must be a whole number that is not negative.")
        rng = np.random.default_rng([seed, *tensor.fqn.encode()])
        chosen = rng.choice(tensor.channels, count, replace=False)
    else:
        weight = (
            graph.initial(tensor.fqn).detach().transpose(0, tensor.channel_dim).reshape(tensor.channels, -1)
        )
        norms = weight.norm(dim=1).cpu().numpy()
        chosen = np.argsort(-norms, kind="stable")[:count]
    return tuple(int(i) for i in np.sort(chosen))


def _scores(table: Mapping[str, Sequence[float]], tensor: TensorInfo) -> np.ndarray:
    if tensor.fqn not in table:
        raise PlanError(
            f"There are no channel scores for {tensor.fqn!r}.{suggest(tensor.fqn, table)} "
            "Score it, or list its channels."
        )
    try:
        scores = np.asarray(table[tensor.fqn], dtype=np.float64)
    except (TypeError, ValueError):
        raise PlanError(
            f"The channel scores for {tensor.fqn!r} are not all numbers. Pass one a channel."
        ) from None
    if scores.shape != (tensor.channels,) or np.isnan(scores).any():
        raise PlanError(
            f"{tensor.fqn!r} needs {tensor.channels} channel scores, each a number, but got "
            f"shape {scores.shape} with {int(np.isnan(scores).sum())} that are not numbers."
        )
    return scores
