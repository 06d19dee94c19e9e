"""Pruning on numbers: which operators remain for one plan, at which size, and what is added.

What `train_graph/prune.py` makes of a graph, this makes of a profile's operators, to the byte. What an
operator reads and costs in a plan, `pruning_rules.py` says; here is the schedule that comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..cost.liveness import Step
from ..cost.masks import MASK_STEPS
from ..plan import Trained
from .operator_cost import SCALAR_BYTES, WORK_KINDS, Operator
from .pruning_rules import amounts, part_bytes, selection, state_bytes

if TYPE_CHECKING:
    from .profile import Profile


class PrunedStep(NamedTuple):
    """A plan's step.

    Attributes:
        steps: its schedule, as `liveness` takes it.
        flops: of the step; `work`: amount of each of `WORK_KINDS`.
        resident_bytes: alive all the time, `state_bytes` included.
    """

    steps: list[Step]
    flops: int
    work: list[int]
    resident_bytes: int
    state_bytes: int


def pruned_step(profile: Profile, choice: Mapping[str, float | Trained]) -> PrunedStep:
    """What pruning to a plan leaves; `choice` as for `Profile.figures`."""
    return _Pruning(profile, choice).run()


class _Pruning:
    """Prunes to one plan: which operators remain, at what size, and what is added."""

    def __init__(self, profile: Profile, choice: Mapping[str, float | Trained]) -> None:
        self.p = profile
        self.trained = 0
        self.parts: dict[int, float] = {}
        self.resident = profile.resident_bytes
        self.state = 0
        self.moves: dict[int, dict[int, tuple[int, ...]]] = {}
        for fqn, what in choice.items():
            if not isinstance(what, Trained) and what <= 0:
                continue
            i = profile.index(fqn)
            self.trained |= 1 << i
            part = profile.part(i, what)
            tensor = profile.tensors[i]
            share = 1.0
            if part is not None:
                dim, count = part
                share = self.parts[i] = count / tensor.shape[dim]
                self.moves[i] = profile.moves_along(i, dim)
                # The trained part stands beside the whole weight, with the indices that place it.
                self.resident += part_bytes(profile, i, share, count)
            self.state += state_bytes(profile, i, share)
        if self.trained:
            self.state += profile.scalar_bytes
        self.resident += self.state
        # (position, -1 before / 0 itself / 1 behind, order) -> step; storages of added steps count on.
        self.events: list[tuple[tuple[int, int, int], Step]] = []
        self.next_storage = len(profile.operators)
        self.flops = 0
        self.work = [0] * len(WORK_KINDS)
        self.gradients: dict[int, int] = {}  # tensor trained in part -> storage of what is selected of it
        self.selected: dict[tuple[int, int], int] = {}
        self.moved: dict[int, tuple[float, tuple[int, ...], tuple[int, ...]]] = {}  # share, parts, wholes
        self.twice: set[int] = set()  # operators that a part is computed of, and the whole
        self.storage: dict[int, int] = {}

    def run(self) -> PrunedStep:
        operators, trained = self.p.operators, self.trained
        exists = [o.needed or bool(o.serves & trained) for o in operators]  # `when_there`, of this plan
        self._join_norms(exists)
        for i, share in sorted(self.parts.items()):
            self.gradients[i] = self._select(self.p.roots[i], i, share)
        self._keep_wholes(exists)
        joined = self._join_parts()
        masks = self._masks(exists)
        for n, o in enumerate(operators):
            if not exists[n]:
                continue
            i = self._part_of(o)
            size, flops, work = self._amounts(n, o, i)
            operands = self._operands(n, o, i)
            if n in masks:
                operands = tuple(masks[n] if s == operators[o.masks].storage else s for s in operands)
            operands += tuple(joined[r] for r in o.reads if r in joined and n not in self.moved)
            storage = self._resolved(n) if o.storage == n else self._resolved(o.storage)
            if n in self.moved and o.storage != n:
                storage = operands[0] if operands else n
                size = 0
            step = Step(o.name, storage, size if storage == n else 0, operands, o.elementwise, o.forward)
            self.events.append(((n, 0, 0), step))
            self.flops += flops
            self.work[o.kind] += work
        self.resident += sum(
            size for size, readers in self.p.backward_constants if any(exists[r] for r in readers)
        )
        self.events.sort(key=lambda e: e[0])
        return PrunedStep([s for _, s in self.events], self.flops, self.work, self.resident, self.state)

    def _amounts(self, n: int, o: Operator, i: int = -1) -> tuple[int, int, int]:
        """(bytes, flops, work) of operator `n`; `i` as `_part_of` gives it."""
        if n in self.moved:
            share, *_ = self.moved[n]
            return round(o.bytes * share), round(o.flops * share), round(o.work * share)
        if i < 0 or n in self.twice:
            return o.bytes, o.flops, o.work
        return amounts(self.p, n, i, self.parts[i], self.moves[i])

    def _operands(self, n: int, o: Operator, i: int = -1) -> tuple[int, ...]:
        """The storages that operator `n` reads; `i` as `_part_of` gives it."""
        if n in self.moved:
            _, parts, wholes = self.moved[n]
            return (*parts, *wholes)
        operands = [self._resolved(s) for s in o.operands] if self.storage else o.operands
        if i >= 0 and n > self.p.roots[i]:  # an update reads the selected gradient
            whole = self.p.operators[self.p.roots[i]].storage
            operands = [self.gradients[i] if s == whole else r for s, r in zip(o.operands, operands)]
        return tuple(operands)

    def _part_of(self, o: Operator) -> int:
        """The tensor that a backward operator alone serves, if only a part of it is trained; else -1."""
        i = -1 if o.forward or not self.parts else o.sole(self.trained)
        return i if i in self.parts else -1

    def _resolved(self, storage: int) -> int:
        return self.storage.get(storage, storage)

    def _join_norms(self, exists: list[bool]) -> None:
        """Leave out sums of the gradients' norm that have only one operand."""
        for n, o in enumerate(self.p.operators):
            if o.joins < 0 or not exists[n]:
                continue
            there = [m for m in o.inputs if self._makes(m)]
            if len(there) < len(o.inputs):
                exists[n] = False
                self.storage[n] = self._resolved(there[0]) if there else -1

    def _makes(self, n: int) -> bool:
        """Is there a value where operator `n` has one?"""
        return bool(self.p.operators[n].serves & self.trained) and self.storage.get(n) != -1

    def _add(self, at: int, side: int, order: int, name: str, size: int, operands: tuple[int, ...],
             elementwise: bool, forward: bool, flops: int) -> int:  # fmt: skip
        storage = self.next_storage
        self.next_storage += 1
        self.events.append(((at, side, order), Step(name, storage, size, operands, elementwise, forward)))
        self.flops += flops
        self.work[WORK_KINDS.index("forward" if forward else "stream")] += flops if forward else size
        return storage

    def _select(self, n: int, i: int, share: float) -> int:
        """`channel_slicing.Slicer.select`: the storage that holds the selected channels of operator `n`."""
        if (n, i) in self.selected:
            return self.selected[n, i]
        o = self.p.operators[n]
        onward = self.moves[i].get(n)
        if onward is None or o.sole(self.trained) != i:
            size = round(o.size_bytes * share)
            # Later selections stand nearer to what they select from.
            at = len(self.events)
            storage = self._add(n, 1, 1000 - at, f"select_{o.name}", size, (self._resolved(o.storage),),
                                False, o.forward, size // SCALAR_BYTES)  # fmt: skip
        else:
            reads = selection(o, onward)
            operands = tuple(self._select(m, i, share) for m in reads.selected)
            for nbytes in reads.input_bytes:
                size, at = round(nbytes * share), 1000 - len(self.events)
                operands += (
                    self._add(-1, 1, at, "select_input", size, (), False, True, size // SCALAR_BYTES),
                )
            kept = tuple(self._resolved(self.p.operators[m].storage) for m in reads.whole)
            self.moved[n] = share, operands, kept
            # A view of an input stands alone in the whole graph; here it may look at a selected part.
            view = o.storage != n or not (o.bytes or o.inputs)
            storage = operands[0] if view and operands else n
            if view:
                self.storage[n] = storage
        self.selected[n, i] = storage
        return storage

    def _keep_wholes(self, exists: list[bool]) -> None:
        """Where somebody reads all of an operator whose channels are selected, both are computed."""
        operators = self.p.operators
        read = {s for n, o in enumerate(operators) if exists[n] and n not in self.moved for s in o.operands}
        read |= {s for _, _, wholes in self.moved.values() for s in wholes}
        read -= {operators[self.p.roots[i]].storage for i in self.parts}  # an update reads the part
        for n in sorted(n for n in self.moved if operators[n].storage == n and n in read):
            o, part = operators[n], self.next_storage
            self.next_storage += 1
            size, flops, work = self._amounts(n, o)
            step = Step(f"part_{o.name}", part, size, self._operands(n, o), o.elementwise, o.forward)
            self.events.append(((n, -1, 0), step))
            self.flops += flops
            self.work[o.kind] += work
            self.twice.add(n)
            del self.moved[n]
            for m, (of, operands, kept) in self.moved.items():
                self.moved[m] = of, tuple(part if s == n else s for s in operands), kept

    def _join_parts(self) -> dict[int, int]:
        """Whole weights made of constant and trained channels: tensor -> storage."""
        joined = {}
        for i in self.parts:
            size = self.p.tensors[i].nbytes
            at = self.p.first_reader[i]
            joined[i] = self._add(
                at, -1, i, f"join_{self.p.tensors[i].fqn}", size, (), False, True, size // SCALAR_BYTES
            )
        return joined

    def _masks(self, exists: list[bool]) -> dict[int, int]:
        """Clamp backwards that compare a kept mask: operator -> the mask's storage."""
        out = {}
        operators = self.p.operators
        for n, o in enumerate(operators):
            if o.masks < 0 or not exists[n]:
                continue
            y = operators[o.masks]
            if any(exists[r] and not self._reads_part(r, o.masks) for r in o.late):
                continue
            made: list[int] = []
            for order, step in enumerate(MASK_STEPS[o.clamps]):
                reads = tuple(made[k] for k in step.reads) or (y.storage,)
                made.append(self._add(o.masks, 1, order, f"{step.name}_{y.name}", y.mask_bytes, reads,
                                      True, True, y.bytes // SCALAR_BYTES))  # fmt: skip
            out[n] = made[-1]
        return out

    def _reads_part(self, reader: int, y: int) -> bool:
        """Does a sliced reader take selected channels of `y` instead of `y`?"""
        if reader not in self.moved:
            return False
        storage = self.p.operators[y].storage
        return storage not in self._operands(reader, self.p.operators[reader])
