"""Undo and redo: what was settled, one entry per finished edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pockgraph.plan import Budget, Plan
from pockgraph.search import Constraints

UNDO_STEPS = 100


class Snapshot(NamedTuple):
    """What undo brings back."""

    budget: Budget
    locked: Mapping[str, float]
    rules: Constraints
    plan: Plan
    origin: str

    def same_choice(self, other: Snapshot) -> bool:
        """Would going from one to the other change anything that a person chose?"""
        mine, others = ((s.budget, dict(s.locked), s.rules, s.plan.tensors) for s in (self, other))
        return mine == others


class History:
    """The snapshot that stands, those before it, and those that were undone.

    Attributes:
        now: what the last finished edit left, or None before there was a plan.
    """

    def __init__(self, now: Snapshot | None = None) -> None:
        self.now = now
        self._past: list[Snapshot] = []
        self._future: list[Snapshot] = []

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        return bool(self._future)

    def renew(self, change: Callable[[Snapshot], Snapshot]) -> None:
        """Change all snapshots alike, those that were undone, too."""
        self.now = None if self.now is None else change(self.now)
        self._past, self._future = [*map(change, self._past)], [*map(change, self._future)]

    def settle(self, snapshot: Snapshot) -> None:
        """A finished edit. One that changed nothing, such as a click on a handle, is no step."""
        if self.now is not None and not snapshot.same_choice(self.now):
            self._past = [*self._past, self.now][-UNDO_STEPS:]
            self._future = []
        self.now = snapshot

    def back(self) -> Snapshot | None:
        """The snapshot before, which stands from here on; None if there is none."""
        return self._travel(self._past, self._future)

    def forward(self) -> Snapshot | None:
        """The snapshot that was undone last."""
        return self._travel(self._future, self._past)

    def _travel(self, source: list[Snapshot], target: list[Snapshot]) -> Snapshot | None:
        if not source or self.now is None:
            return None
        target.append(self.now)
        self.now = source.pop()
        return self.now
