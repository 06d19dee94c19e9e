"""What a plan's step holds in memory: every value, from when to when, and which trained tensors keep it.

The same schedule and the same rules as `Profile.figures`, so the highest moment is the modelled peak to the
byte. A *moment* is the time while one step of the schedule runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..cost.liveness import Integers, lifetimes, liveness
from ..plan import Trained
from .operator_cost import Phase
from .plan_cost import pruned_step

if TYPE_CHECKING:
    from .profile import Profile

PHASES: tuple[Phase, ...] = ("forward", "backward", "update")


class Moment(NamedTuple):
    """A step of the schedule.

    Attributes:
        name: of the operator; `op`, `layer`: as `Operator` has them, those of the operator that an added step
            stands beside.
        place: where the operator stands among all of the whole training graph; an added step stands where
            its operator does, one that reads the batch at -1.
        is_added: the plan has added it, to select channels, to join a weight that is trained in part, or to
            make a clamp mask.
        phase: of the training step.
    """

    name: str
    op: str
    layer: str
    place: int
    is_added: bool
    phase: Phase


class Value(NamedTuple):
    """A value in memory at one moment.

    Attributes:
        made: the moment that makes it. last: the last one that reads it.
        nbytes: its size.
        in_use: the forward pass or the loss still reads it, whatever is trained.
        kept_for: the trained tensors whose gradients and updates still read it.
    """

    made: int
    last: int
    nbytes: int
    in_use: bool
    kept_for: tuple[str, ...]


class StepMemory:
    """Bytes alive over the step of one plan.

    Args:
        choice: FQN -> ratio in (0, 1], or explicit channels, as for `Profile.figures`.

    Attributes:
        moments: [S].
        live_bytes: [S], all that is alive, resident memory included.
        resident_bytes: weights, constants, the batch and optimizer state: alive all the time.
        state_bytes: of these, optimizer state.
        trained: the tensors that the plan trains, as a set of positions.
    """

    def __init__(self, profile: Profile, choice: Mapping[str, float | Trained]) -> None:
        step = pruned_step(profile, choice)
        kept = [profile.operators[profile.loss].storage]
        curve = liveness(step.schedule, kept)
        self._profile, self._step = profile, step
        life = self._lifetimes = lifetimes(step.schedule, kept)
        there = np.flatnonzero(life.nbytes)
        self._by_size = there[np.lexsort((life.made[there], -life.nbytes[there]))]
        order = np.lexsort((step.schedule.readers, step.schedule.reads))
        self._reads, self._readers = step.schedule.reads[order], step.schedule.readers[order]
        self.resident_bytes, self.state_bytes = step.resident_bytes, step.state_bytes
        self.live_bytes: Integers = curve.live_bytes + step.resident_bytes
        self.saved_bytes = curve.saved_bytes
        self.trained = 0
        for fqn, what in choice.items():
            self.trained |= (isinstance(what, Trained) or what > 0) << profile.index(fqn)
        self.moments = tuple(
            self._moment(n, name, forward)
            for n, name, forward in zip(step.operators, step.names(profile), step.schedule.forward.tolist())
        )

    def _moment(self, n: int, name: str, forward: bool) -> Moment:
        at = n if n >= 0 else self._step.causes[-1 - n][0]
        if at < 0:
            return Moment(name, "", "", at, True, "forward")
        o = self._profile.operators[at]
        phase = o.phase if n >= 0 else "forward" if forward else "backward"
        return Moment(name, o.op, o.layer, at, n < 0, phase)

    @property
    def peak(self) -> int:
        """The moment at which most is alive: the first of them."""
        return int(self.live_bytes.argmax())

    @property
    def peak_bytes(self) -> int:
        """The modelled peak, as `Profile.figures` has it."""
        return int(self.live_bytes.max(initial=self.resident_bytes))

    def made_in(self, phase: Phase) -> Integers:
        """[S]: of what is alive, the bytes that this phase has made. The three phases and `resident_bytes`
        add up to `live_bytes`."""
        life, schedule = self._lifetimes, self._step.schedule
        mine = np.array([m.phase == phase for m in self.moments], bool)
        owns = np.where(mine, schedule.owns_bytes, 0)
        count = len(owns)
        freed = np.zeros(count + 1, np.int64)
        maker = life.made[:-1]
        made = (maker < count) & mine[np.minimum(maker, count - 1)]
        np.add.at(freed, life.dies[:-1][made], life.nbytes[:-1][made])
        gone = np.cumsum(freed[:count])
        return np.cumsum(owns) - gone + freed[:count] - np.where(life.written_over, owns, 0)

    def alive(self, moment: int, most: int | None = None) -> list[Value]:
        """What is alive at a moment beside `resident_bytes`, the largest first; they add up to what
        `live_bytes` says. A result that takes an operand's place is counted as that operand.

        Args:
            most: that many of them; None: all.
        """
        life, found = self._lifetimes, self._by_size
        there = (life.made[found] <= moment) & (life.dies[found] >= moment)
        if life.written_over[moment]:
            there &= found != self._step.schedule.storage[moment]
        return [self._value(s, moment) for s in found[there][:most].tolist()]

    def _value(self, storage: int, moment: int) -> Value:
        """A storage, and who reads it from a moment on."""
        life = self._lifetimes
        first, end = np.searchsorted(self._reads, [storage, storage + 1])
        readers = [r for r in self._readers[first:end].tolist() if r >= moment]
        made = int(life.made[storage])
        if made == moment:
            readers.append(moment)  # who makes it has its reasons, too
        in_use, serves = storage == self._profile.operators[self._profile.loss].storage, 0
        for reader in readers:
            n = self._step.operators[reader]
            if n >= 0:
                o = self._profile.operators[n]
                in_use, serves = in_use or o.needed, serves | o.serves
            else:
                serves |= self._step.causes[-1 - n][1]
        maker = self._step.operators[made]
        if maker < 0:  # an added step's result is gone with the tensors that it was added for
            in_use, serves = False, self._step.causes[-1 - maker][1]
        last = min(int(life.dies[storage]), len(self.moments) - 1)
        return Value(made, last, int(life.nbytes[storage]), in_use, self._names(serves & self.trained))

    def _names(self, tensors: int) -> tuple[str, ...]:
        return tuple(t.fqn for i, t in enumerate(self._profile.tensors) if tensors >> i & 1)


class Freezing(NamedTuple):
    """What freezing tensors does to a plan's memory.

    Attributes:
        trains, freezes: the step that trains them, and the one that does not; all else is equal.
        peak_bytes, extra_bytes, state_bytes: by how much each is less when they are frozen.
        own_bytes: alive at the peak of `trains` for none but these tensors, beside optimizer state.
        still: of the values that the forward pass keeps for these tensors, those that stay for others, the
            largest first; `made` and `last` are moments of `freezes`.
    """

    trains: StepMemory
    freezes: StepMemory
    peak_bytes: int
    extra_bytes: int
    state_bytes: int
    own_bytes: int
    still: tuple[Value, ...]


def freezing(profile: Profile, choice: Mapping[str, float], tensors: Collection[str]) -> Freezing:
    """Compare a plan that trains these tensors with the same plan without them; where `choice` freezes one,
    it is trained whole for the comparison."""
    without = {fqn: share for fqn, share in choice.items() if share > 0 and fqn not in tensors}
    before = StepMemory(profile, without | {fqn: choice.get(fqn, 0) or 1.0 for fqn in tensors})
    after = StepMemory(profile, without)
    mine = set(tensors)
    own = sum(
        v.nbytes
        for v in before.alive(before.peak)
        if not v.in_use and v.kept_for and mine.issuperset(v.kept_for)
    )
    return Freezing(
        before,
        after,
        before.peak_bytes - after.peak_bytes,
        before.saved_bytes + before.state_bytes - after.saved_bytes - after.state_bytes,
        before.state_bytes - after.state_bytes,
        own,
        _still_kept(before, after, mine),
    )


def _still_kept(before: StepMemory, after: StepMemory, tensors: set[str]) -> tuple[Value, ...]:
    """Of what `before` keeps over the end of the forward pass for some tensors, what `after` keeps, too."""
    kept = {before.moments[v.made].name: v for v in _saved(before) if tensors.intersection(v.kept_for)}
    return tuple(v for v in _saved(after) if after.moments[v.made].name in kept)


def _saved(memory: StepMemory) -> list[Value]:
    """What the forward pass has made and the rest of the step reads."""
    later = [i for i, m in enumerate(memory.moments) if m.phase != "forward"]
    last_forward = max((i for i, m in enumerate(memory.moments) if m.phase == "forward"), default=-1)
    first = next((i for i in later if i > last_forward), None)
    if first is None:
        return []
    return [v for v in memory.alive(first) if memory.moments[v.made].phase == "forward"]
