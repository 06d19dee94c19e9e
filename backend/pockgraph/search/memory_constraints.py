"""The memory of a step at one point of its schedule, as a linear expression of what a plan trains.

Which operators remain, and which activations stay alive, follows from the deepest trained tensors. This
says for any point of the schedule how many bytes are alive there, for all plans at once, where
`profile.py` says it for one plan and all points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..cost.clamp_masks import clamp_masks_alive
from ..profile import Profile, pruning_rules
from ..profile.operator_cost import Operator
from ..profile.pruning_rules import Reader, When, amounts, any_of, when_exists
from .linear_solver import NEVER, Linear
from .plan_variables import PlanVariables, bits


class SchedulePoint(NamedTuple):
    """When a step's bytes are counted: while operator `at` runs, or right after it.

    Attributes:
        after: `""` for the operator itself; `"mask"` or `"select"` for the operator after it that makes a
            clamp mask of its result, or selects channels of it.
    """

    at: int
    after: str = ""


class LinearMemory:
    """Bytes of a profile's steps as linear expressions of plan variables; may add variables that follow."""

    def __init__(self, profile: Profile, variables: PlanVariables) -> None:
        self.p, self.v = profile, variables
        self._readers = pruning_rules.readers(profile)
        self._input_readers = pruning_rules.input_readers(profile)
        self._weight_readers = pruning_rules.weight_readers(profile)
        self._comparing = {o.compared: o for o in profile.operators if o.compared >= 0}

    # ------------------------------------------------------------------ points of the schedule

    def peak_point(self, choice: Mapping[str, float]) -> SchedulePoint:
        """The point of a plan's exact peak."""
        curve = self.p.live_bytes(choice)
        peak = max(range(len(curve)), key=lambda i: curve[i][2])
        number = {o.name: n for n, o in enumerate(self.p.operators)}
        name = curve[peak][0]
        if name in number:
            return SchedulePoint(number[name])
        # A joined weight is alive together with all else in the operator that reads it.
        onward = name.startswith(("join_", "select_joined_"))
        steps = curve[peak:] if onward else curve[peak::-1]
        at = next((number[step] for step, *_ in steps if step in number), 0)
        return SchedulePoint(at, "" if onward else "select" if name.startswith("select_") else "mask")

    def live_bytes(self, point: SchedulePoint) -> Linear:
        """Bytes alive at a point, without weights, their trained parts and optimizer state."""
        t, after = point

        def still_to_come(readers: list[Reader]) -> list[Reader]:
            return [r for r in readers if r.at > t or (r.at == t and not after)]

        total = Linear()
        source = self.p.operators[t].storage if after else -1
        if after:
            self._add_source(source, point, total)
        for n, o in enumerate(self.p.operators[: t + 1]):
            if o.storage != n or o.bytes == 0 or n == source:
                continue
            later = still_to_come(self._readers[n])
            if n == t:
                if o.elementwise and self._reuses(n):
                    continue
                later = later or [Reader(t, when_exists(o))]
            self._add_storage(n, later, total)
        self._add_parts(still_to_come(self._input_readers), total)
        self._add_joined(t, total)
        return total

    def saved_bytes(self) -> Linear:
        """Bytes of activations that the forward pass hands on to the backward pass."""
        last = max(n for n, o in enumerate(self.p.operators) if o.forward)
        total = Linear()
        for n, o in enumerate(self.p.operators[: last + 1]):
            if o.storage == n and o.bytes:
                self._add_storage(n, [r for r in self._readers[n] if r.at > last], total)
        self._add_parts([r for r in self._input_readers if r.at > last], total)
        self._add_joined(last, total)
        return total

    def resident_bytes(self) -> Linear:
        """Bytes of trained parts beside their weights, with the indices that place them."""
        total = Linear()
        for i in self.v.variables_by_share:
            channels = self.p.tensors[i].channels or 0
            for share, literal in self.v.variables_of(i):
                if share < 1:
                    total.add(literal, pruning_rules.part_bytes(self.p, i, share, round(share * channels)))
        return total

    def state_bytes(self) -> Linear:
        """Bytes of optimizer state."""
        total = Linear(constant=float(self.p.scalar_bytes))
        for i in self.v.variables_by_share:
            for share, literal in self.v.variables_of(i):
                total.add(literal, pruning_rules.state_bytes(self.p, i, share))
        return total

    # ------------------------------------------------------------------ what is alive

    def _add_source(self, n: int, point: SchedulePoint, total: Linear) -> None:
        """Storage `n` while a clamp mask or a selection is made of it, and those of them made before."""
        # The source is alive. Counting it for plans that make nothing of it is no stricter than their
        # point of the operator itself.
        t, after = point
        o = self.p.operators[n]
        total.constant += o.bytes
        bounds = [o.bounds for o in self.p.operators if o.compared == n]
        if bounds:
            masks = sum(clamp_masks_alive(b) if after == "mask" else 1 for b in bounds)
            self.add_clamp_masks(n, o.clamp_mask_bytes * masks, total)
        if after == "select":
            self._add_parts([r for r in self._readers[n] if r.at > t], total)

    def _add_storage(self, n: int, later: list[Reader], total: Linear) -> None:
        """Storage `n`, or what is kept instead of it, while any of `later` is still to come."""
        if not later:
            return
        o = self.p.operators[n]
        own = -1 if o.forward else o.only_served()
        if own >= 0:
            for share, literal in self.v.variables_of(own):
                total.add(literal, amounts(self.p, n, own, share, self.p.moves[own])[0])
            return
        read = self._literal(any_of(r.when for r in later if not r.compares))
        if not any(r.compares for r in later):
            total.add(read, o.bytes)
        else:
            if read is None:
                total.constant += o.bytes
            else:
                self._add_clamped(o, self._compared(n), read, self._kept(n), total)
            self.add_clamp_masks(n, o.clamp_mask_bytes, total)
        self._add_parts(later, total)

    def _add_parts(self, later: list[Reader], total: Linear) -> None:
        """Selected channels of a storage that are kept instead of all of it."""
        for reader in later:
            for share, literal in self.v.variables_of(reader.of):
                if share < 1:
                    total.add(literal, reader.part_bytes * share)

    def _add_clamped(self, o: Operator, compared: int, later: int, kept: int | None, total: Linear) -> None:
        """A clamped result that a backward operator still compares.

        Where it is kept for others at any time (`kept`) it stays until then; otherwise its clamp mask does.
        """
        trained = self.v.any_trained(compared)
        if kept is None:
            total.add(trained if later == NEVER else later, o.bytes)
        elif kept != NEVER:
            both = self._both(trained, kept)
            total.add(kept if later == kept else self._either(both, later), o.bytes)

    def add_clamp_masks(self, n: int, amount: int, total: Linear) -> None:
        """Count an amount for the plans that keep a clamp mask of operator `n`, and not its result."""
        compared, kept = self._compared(n), self._kept(n)
        if kept is not None:
            total.add(
                self.v.any_trained(compared) if kept == NEVER else self.v.any_trained_unless(compared, kept),
                amount,
            )

    def _add_joined(self, t: int, total: Linear) -> None:
        """Weights joined from constant and trained channels: alive while anything will read them."""
        for i in self.v.variables_by_share:
            later = [r for r in self._weight_readers[i] if r.at >= t]
            if self.p.first_reader[i] > t or not later:
                continue
            when = any_of(r.when for r in later)
            for share, literal in self.v.variables_of(i):
                if share < 1:
                    read = self._literal(when)
                    total.add(self._both(literal, read), self.p.tensors[i].nbytes)

    # ------------------------------------------------------------------ conditions as variables

    def _literal(self, when: When) -> int | None:
        """A variable that is 1 for the plans of a condition; None: for all."""
        if when.always:
            return None
        return self.v.any_of(when.trained, bits(when.whole))

    def _both(self, a: int | None, b: int | None) -> int | None:
        """A variable that is 1 when `a` and `b` both are."""
        if NEVER in (a, b):
            return NEVER
        return b if a is None else a if b is None else self.v.both_of(a, b)

    def _either(self, a: int | None, b: int | None) -> int | None:
        """A variable that is 1 when `a` or `b` is."""
        if a is None or b is None:
            return None
        return b if a == NEVER else a if b == NEVER else self.v.either_of(a, b)

    def _compared(self, n: int) -> int:
        """The tensors whose gradients need the comparison of storage `n` with bounds."""
        return self._comparing[n].serves

    def _kept(self, n: int) -> int | None:
        """A variable that is 1 when storage `n` itself is kept though it is compared; None: it always is."""
        return self._literal(pruning_rules.when_kept(self._comparing[n], self._readers[n]))

    def _reuses(self, n: int) -> bool:
        """Could operator `n` write over an operand that it is the last to read?"""
        o = self.p.operators[n]
        return any(
            self.p.operators[s].bytes == o.bytes and max(r.at for r in self._readers[s]) == n
            for s in o.operands
        )
