"""The memory of a step at one point of its schedule, as a linear expression of what a plan trains.

Which operators remain, and which activations stay alive, follows from the deepest trained tensors. This
says for any point of the schedule how many bytes are alive there, for all plans at once, where
`profile.py` says it for one plan and all points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..cost.masks import masks_alive
from ..profile import Profile
from ..profile.operator_cost import Operator
from .linear_solver import NEVER, Linear
from .plan_variables import PlanVariables, bits


class SchedulePoint(NamedTuple):
    """When a step's bytes are counted: while operator `at` runs, or right after it.

    Attributes:
        after: `""` for the operator itself; `"mask"` or `"select"` for the operator after it that makes a
            mask of its result, or selects channels of it.
    """

    at: int
    after: str = ""


class _Use(NamedTuple):
    """An operator that reads a storage.

    Attributes:
        at: its position.
        serves: set of the tensors whose update needs it; 0 when the loss does.
        own: the tensor that, trained in part, makes it read selected channels instead; -1: none does.
        part_bytes: of all those channels.
        compares: it only compares the storage, so that a mask would do.
    """

    at: int
    serves: int
    own: int = -1
    part_bytes: int = 0
    compares: bool = False


class LinearMemory:
    """Bytes of a profile's steps as linear expressions of plan variables; may add variables that follow."""

    def __init__(self, profile: Profile, variables: PlanVariables) -> None:
        self.p, self.v = profile, variables
        self._uses = self._whole_uses()
        self._clamps = {o.masks: o for o in profile.operators if o.masks >= 0}
        self._inputs = self._selected_inputs()

    def _whole_uses(self) -> list[list[_Use]]:
        """Per storage, who reads it, in schedule order."""
        operators = self.p.operators
        uses: list[list[_Use]] = [[] for _ in operators]
        for n, o in enumerate(operators):
            own = _owner(o)
            moved = self.p.moves[own].get(n, ()) if own >= 0 else ()
            part_bytes = {operators[m].storage: operators[m].size_bytes for m in moved if m >= 0}
            for s in o.operands:
                reader = own if s in part_bytes else -1
                serves = 0 if o.needed else o.serves
                uses[s].append(_Use(n, serves, reader, part_bytes.get(s, 0), compares=o.masks == s))
            if o.needed:
                uses[o.storage].append(_Use(n, 0))
        uses[operators[self.p.loss].storage].append(_Use(len(operators), 0))  # a result stays
        return uses

    def _selected_inputs(self) -> list[_Use]:
        """Who reads selected channels of the batch, which stand beside it from the start."""
        return [
            _Use(n, 1 << i, i, sum(-1 - code for code in codes if code < -1))
            for i, moved in enumerate(self.p.moves)
            for n, codes in moved.items()
            if _owner(self.p.operators[n]) == i
        ]

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
        onward = name.startswith("join_")
        steps = curve[peak:] if onward else curve[peak::-1]
        at = next((number[step] for step, *_ in steps if step in number), 0)
        return SchedulePoint(at, "" if onward else "select" if name.startswith("select_") else "mask")

    def live_bytes(self, point: SchedulePoint) -> Linear:
        """Bytes alive at a point, without weights, their trained parts and optimizer state."""
        t, after = point

        def still_to_come(uses: list[_Use]) -> list[_Use]:
            return [u for u in uses if u.at > t or (u.at == t and not after)]

        total = Linear()
        source = self.p.operators[t].storage if after else -1
        if after:
            self._add_source(source, point, total)
        for n, o in enumerate(self.p.operators[: t + 1]):
            if o.storage != n or o.bytes == 0 or n == source:
                continue
            later = still_to_come(self._uses[n])
            if n == t:
                if o.elementwise and self._reuses(n):
                    continue
                later = later or [_Use(t, 0 if o.needed else o.serves)]
            self._add_storage(n, later, total)
        self._add_parts(still_to_come(self._inputs), total)
        self._add_joined(t, total)
        return total

    def saved_bytes(self) -> Linear:
        """Bytes of activations that the forward pass hands on to the backward pass."""
        last = max(n for n, o in enumerate(self.p.operators) if o.forward)
        total = Linear()
        for n, o in enumerate(self.p.operators[: last + 1]):
            if o.storage == n and o.bytes:
                self._add_storage(n, [u for u in self._uses[n] if u.at > last], total)
        self._add_parts([u for u in self._inputs if u.at > last], total)
        self._add_joined(last, total)
        return total

    def resident_bytes(self) -> Linear:
        """Bytes of trained parts beside their weights, with the indices that place them."""
        total = Linear()
        for i in self.v.variables_by_share:
            tensor = self.p.tensors[i]
            for share, literal in self.v.variables_of(i):
                if share < 1:
                    total.add(literal, tensor.nbytes * share + 8 * share * (tensor.channels or 0))
        return total

    def state_bytes(self) -> Linear:
        """Bytes of optimizer state."""
        total = Linear(constant=float(self.p.scalar_bytes))
        for i in self.v.variables_by_share:
            stays, shrinks = self.p.state_bytes[i]
            for share, literal in self.v.variables_of(i):
                total.add(literal, stays + shrinks * share)
        return total

    # ------------------------------------------------------------------ what is alive

    def _add_source(self, n: int, point: SchedulePoint, total: Linear) -> None:
        """Storage `n` while a mask or a selection is made of it, and those of them made before."""
        # The source is alive. Counting it for plans that make nothing of it is no stricter than their
        # point of the operator itself.
        t, after = point
        o = self.p.operators[n]
        total.constant += o.bytes
        bounds = [o.clamps for o in self.p.operators if o.masks == n]
        if bounds:
            masks = sum(masks_alive(b) if after == "mask" else 1 for b in bounds)
            self._add_masks(o.mask_bytes * masks, self._clamps[n].serves, self._read_whole(n), total)
        if after == "select":
            self._add_parts([u for u in self._uses[n] if u.at > t], total)

    def _add_storage(self, n: int, later: list[_Use], total: Linear) -> None:
        """Storage `n`, or what is kept instead of it, while any of `later` is still to come."""
        if not later:
            return
        o = self.p.operators[n]
        own = _owner(o)
        reading = [u for u in later if not u.compares]
        compared = self._clamps[n].serves if len(reading) < len(later) else 0
        if any(use.serves == 0 for use in later):
            total.constant += o.bytes
            if compared:  # its mask is there already
                self._add_masks(o.mask_bytes, compared, self._read_whole(n), total)
        elif own >= 0 and not o.forward:
            for share, literal in self.v.variables_of(own):
                total.add(literal, o.part(share)[0] if self._shrinks(n, own) else o.bytes)
            return
        else:
            kept = self._read_by(reading)
            if compared:
                self._add_clamped(o, compared, kept, self._read_whole(n), total)
            else:
                total.add(kept, o.bytes)
        self._add_parts(later, total)

    def _add_parts(self, later: list[_Use], total: Linear) -> None:
        """Selected channels of a storage that are kept instead of all of it."""
        for use in later:
            for share, literal in self.v.variables_of(use.own):
                if share < 1:
                    total.add(literal, use.part_bytes * share)

    def _add_clamped(
        self, o: Operator, compared: int, later: int | None, ever: int | None, total: Linear
    ) -> None:
        """A clamped result that a backward operator still compares.

        Whoever reads it whole at any time (`ever`) keeps it until then; otherwise its mask is kept.
        """
        trained = self.v.any_trained(compared)
        if ever is None:
            total.add(trained if later == NEVER else later, o.bytes)
        elif ever != NEVER:
            both = ever if trained is None else self.v.both_of(trained, ever)
            kept = both if later == NEVER else ever if later == ever else self.v.either_of(both, later)
            total.add(kept, o.bytes)
        self._add_masks(o.mask_bytes, compared, ever, total)

    def _add_masks(self, size: int, compared: int, ever: int | None, total: Linear) -> None:
        """Masks kept for the tensors of `compared`, where nothing keeps the result itself."""
        if ever is not None:
            total.add(
                self.v.any_trained(compared) if ever == NEVER else self.v.any_trained_unless(compared, ever),
                size,
            )

    def _add_joined(self, t: int, total: Linear) -> None:
        """Weights joined from constant and trained channels: alive while anything will read them."""
        for i in self.v.variables_by_share:
            if self.p.first_reader[i] > t:
                continue
            reads = [(n, o) for n, o in enumerate(self.p.operators[t:], t) if i in o.reads]
            later = [o for n, o in reads if _owner(o) != i or n not in self.p.moves[i]]
            if not later:
                continue
            # A weight that is used twice is read whole on the way to its own gradient.
            always = any(o.needed or (o.serves >> i & 1 and n not in self.p.moves[i]) for n, o in reads)
            deeper = 0
            for o in later:
                deeper |= o.serves & ~(1 << i)
            for share, literal in self.v.variables_of(i):
                if share < 1:
                    trained = None if always else self.v.any_trained(deeper)
                    joined = literal if trained is None else self.v.both_of(literal, trained)
                    total.add(joined, self.p.tensors[i].nbytes)

    # ------------------------------------------------------------------ who reads it

    def _read_by(self, uses: list[_Use]) -> int | None:
        """A variable that is 1 when any of these uses reads the whole storage; None: one always does."""
        if not uses:
            return NEVER
        tensors = whole = 0
        for use in uses:
            if use.own >= 0:
                whole |= use.serves
            else:
                tensors |= use.serves
        return self.v.any_of(tensors, bits(whole))

    def _read_whole(self, n: int) -> int | None:
        """A variable that is 1 when a backward operator reads storage `n` for more than a comparison."""
        return self._read_by([u for u in self._uses[n] if u.serves and not u.compares])

    def _reuses(self, n: int) -> bool:
        """Could operator `n` write over an operand that it is the last to read?"""
        o = self.p.operators[n]
        return any(
            self.p.operators[s].bytes == o.bytes and max(u.at for u in self._uses[s]) == n for s in o.operands
        )

    def _shrinks(self, n: int, tensor: int) -> bool:
        """Does an operator that serves one tensor alone have the size of its trained part?"""
        return n > self.p.roots[tensor] or n in self.p.moves[tensor]


def _owner(o: Operator) -> int:
    """The one tensor an operator serves, or -1."""
    return o.serves.bit_length() - 1 if o.serves and o.serves & (o.serves - 1) == 0 and not o.needed else -1
