"""ElasticTrainer's selection: the tensors whose update promises most within a time (MobiSys 2023).

A tensor's importance is what its update is expected to take off the loss (`importance.py`). A plan's time is
what its gradients take, and the way back to the deepest of them; a dynamic programme over tensors and
time finds the best plan of every time at once. ElasticTrainer is given a time. Here the longest time is
taken whose plan keeps to the budget, so that it can be compared with others at equal memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import PlanError, suggest
from ..plan import Budget, Plan
from ..profile import Profile
from .within_budget import fits, largest, within

BUCKETS = 2000  # of time, up to that of training everything, and one a tensor


def elastic(profile: Profile, importance: Mapping[str, float], budget: Budget) -> Plan:
    """The plan that ElasticTrainer's selection makes for a budget; the head is always trained.

    Times are counted in floating-point operations: a fit of milliseconds to a few plans says little of single
    tensors.

    Args:
        importance: FQN -> importance, as `importance.importance` gives. Tensors left out stay frozen.

    Raises:
        BudgetError: not even the head alone fits.
        PlanError: `importance` names a tensor that the model lacks.
    """
    known = {t.fqn for t in profile.tensors}
    for fqn in importance:
        if fqn not in known:
            raise PlanError(f"The model has no trainable tensor {fqn!r}.{suggest(fqn, known)}")
    wanted = [f for f, value in importance.items() if value > 0 and f not in profile.head]
    selections = _Selections(profile, {fqn: importance[fqn] for fqn in wanted})

    def choice(time: int) -> dict[str, float]:
        return dict.fromkeys([*profile.head, *selections.best(time)], 1.0)

    time = largest(selections.buckets, lambda n: fits(profile, choice(n), budget))
    made_by = f"ElasticTrainer's selection, within {within(budget)}"
    return profile.plan(choice(time), provenance={"made_by": made_by})


class _Selections:
    """The best selection of every time.

    Tensors are taken in the order in which the backward pass reaches them. `value[n, t]` is the most
    importance that gradients of the first n tensors give in t buckets of time, the way to them not counted.
    """

    def __init__(self, profile: Profile, importance: Mapping[str, float]) -> None:
        way, own = _times(profile, list(importance))
        self.order = sorted(importance, key=lambda fqn: way[fqn])
        self.buckets = BUCKETS + len(self.order)
        unit = max((way[f] + sum(own.values()) for f in self.order), default=1.0) / BUCKETS
        self.way = [int(way[f] / unit) for f in self.order]
        self.own = [1 + int(own[f] / unit) for f in self.order]  # what is free would be trained in no time
        self.importance = [importance[f] for f in self.order]
        self.value = np.zeros((len(self.order) + 1, self.buckets + 1))
        for n, (cost, gain) in enumerate(zip(self.own, self.importance)):
            self.value[n + 1] = self.value[n]
            taken = self.value[n, : self.buckets + 1 - cost] + gain
            self.value[n + 1, cost:] = np.maximum(self.value[n + 1, cost:], taken)

    def best(self, time: int) -> list[str]:
        """What to train in `time` buckets."""
        deepest, most = -1, 0.0
        for n, (way, own, gain) in enumerate(zip(self.way, self.own, self.importance)):
            left = time - way - own
            if left >= 0 and self.value[n, left] + gain > most:
                deepest, most = n, self.value[n, left] + gain
        if deepest < 0:
            return []
        chosen, left = [self.order[deepest]], time - self.way[deepest] - self.own[deepest]
        for n in reversed(range(deepest)):
            if self.value[n + 1, left] > self.value[n, left]:
                chosen.append(self.order[n])
                left -= self.own[n]
        return chosen


def _times(profile: Profile, names: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Per tensor: the operations of the way back to it, and those of its own gradient and update."""
    head = profile.figures(dict.fromkeys(profile.head, 1.0)).flops
    way, own = {}, {}
    for fqn in names:
        more = profile.figures(dict.fromkeys([*profile.head, fqn], 1.0)).flops - head
        own[fqn] = float(min(profile.tensor(fqn).flops, max(more, 0)))
        way[fqn] = max(more, 0) - own[fqn]
    return way, own
