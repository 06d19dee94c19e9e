"""The update phase of a training graph: each tensor's rule, and what stands around it.

For one trained tensor p with gradient g, where an option is in use:

    s  = where(first micro-step, 0, s) + g / n        accumulate: s stands for the gradient from here on
    g' = s * min(1, clip_norm / (norm + 1e-6))        clip_norm: needs every tensor's s
    p', state' = rule(p, g', state)
    p' = where(n-th micro-step, p', p)                and so for every state
    e' = decay e + (1 - decay) p'                     ema_decay
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from ..ir.graph import Builder, aten
from ..ir.slot_names import EMA
from .base import ACCUMULATED, MICRO_STEP, Optimizer, Shape, State


def tensor_state(optimizer: Optimizer, shape: Shape) -> dict[str, Shape]:
    """All states of a trained tensor (or trained part) of this shape: the rule's and those around it."""
    own = dict(optimizer.tensor_state(shape))
    if optimizer.accumulate > 1:
        own[ACCUMULATED] = shape
    if optimizer.ema_decay is not None:
        own[EMA] = shape
    return own


def scalar_state(optimizer: Optimizer) -> dict[str, float]:
    """All states shared by the trained tensors, with their initial value."""
    counter = {MICRO_STEP: 0.0} if optimizer.accumulate > 1 else {}
    return {**optimizer.scalar_state, **counter}


class Updates:
    """Adds the nodes of one graph's update phase; the caller says where.

    Args:
        optimizer: whose updates.
        lr: the graph's learning rate.
        scalars: the graph's shared states.
    """

    def __init__(self, optimizer: Optimizer, lr: fx.Node, scalars: State) -> None:
        self._optimizer, self._lr, self._scalars = optimizer, lr, scalars
        self._advanced: State = {}
        self._starts: fx.Node | None = None
        self._applies: fx.Node | None = None
        self._clip: fx.Node | None = None

    def begin(self, b: Builder) -> State:
        """Once a step, before all else; returns the next value of the shared states that change."""
        n = self._optimizer.accumulate
        own = {k: v for k, v in self._scalars.items() if k != MICRO_STEP}
        self._advanced = {**own, **self._optimizer.advance(b, own)}
        changed = {k: v for k, v in self._advanced.items() if v is not own[k]}
        if n == 1:
            return changed
        seen = self._scalars[MICRO_STEP]
        self._starts = b.call(aten.eq.Scalar, seen, 0.0)
        seen = b.call(aten.add.Scalar, seen, 1.0)
        self._applies = b.call(aten.ge.Scalar, seen, float(n))
        changed = {k: self._chosen(b, v, own[k]) for k, v in changed.items()}
        return changed | {MICRO_STEP: b.call(aten.masked_fill.Scalar, seen, self._applies, 0.0)}

    def gradient(self, b: Builder, grad: fx.Node, state: State) -> fx.Node:
        """The gradient to update with: a step's own, or the sum so far of its cycle's."""
        if self._starts is None:
            return grad
        # Emptied when a cycle starts, not when one ends: the sum lives in the state's place alone.
        kept = b.call(aten.masked_fill.Scalar, state[ACCUMULATED], self._starts, 0.0)
        share = b.call(aten.mul.Scalar, grad, 1 / self._optimizer.accumulate)
        return b.call(aten.add.Tensor, kept, share)

    def square(self, b: Builder, fqn: str, grad: fx.Node) -> fx.Node:
        """Clipping only: a gradient's part in the squared norm."""
        part = b.call(aten.sum.default, b.call(aten.mul.Tensor, grad, grad))
        part.meta["norm_of"] = fqn
        return part

    def clip(self, b: Builder, squares: Sequence[fx.Node]) -> None:
        """Clipping only: the factor of all gradients from the parts of their squared norm."""
        assert self._optimizer.clip_norm is not None
        total = squares[0]
        for part in squares[1:]:
            total = b.call(aten.add.Tensor, total, part)
            total.meta["adds_norm_of"] = part.meta["norm_of"]
        norm = b.call(aten.add.Scalar, b.call(aten.sqrt.default, total), 1e-6)
        factor = b.call(aten.mul.Scalar, b.call(aten.reciprocal.default, norm), self._optimizer.clip_norm)
        self._clip = b.call(aten.clamp_max.default, factor, 1.0)

    def update(
        self, b: Builder, fqn: str, p: fx.Node, grad: fx.Node, state: State
    ) -> tuple[fx.Node, Mapping[str, fx.Node]]:
        """The next value of a tensor and of its states; `grad` as `gradient` returned it."""
        rule, lr_scale = self._optimizer.for_tensor(fqn)
        own = {k: v for k, v in state.items() if k not in (ACCUMULATED, EMA)}
        lr = self._lr if lr_scale == 1 else b.call(aten.mul.Scalar, self._lr, lr_scale)
        clipped = grad if self._clip is None else b.call(aten.mul.Tensor, grad, self._clip)
        new, changed = rule.update(b, p, clipped, own, self._advanced, lr)
        new = self._chosen(b, new, p)
        changed = {k: self._chosen(b, v, own[k]) for k, v in changed.items()}
        if ACCUMULATED in state:
            changed[ACCUMULATED] = grad
        decay = self._optimizer.ema_decay
        if decay is not None:
            average = b.call(aten.add.Tensor, b.call(aten.mul.Scalar, state[EMA], decay),
                             b.call(aten.mul.Scalar, new, 1 - decay))  # fmt: skip
            changed[EMA] = self._chosen(b, average, state[EMA])
        return new, changed

    def _chosen(self, b: Builder, new: fx.Node, old: fx.Node) -> fx.Node:
        """`new` in the step that ends a cycle, `old` before."""
        return new if self._applies is None else b.call(aten.where.self, self._applies, new, old)
