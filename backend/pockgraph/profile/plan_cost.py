"""Pruning on numbers: which operators remain for one plan, at which size, and what is added.

What `train_graph/prune.py` makes of a graph, this makes of a profile's operators, to the byte. What an
operator reads and costs in a plan, `pruning_rules.py` says; here is the schedule that comes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..cost.liveness import Step
from ..cost.masks import MASK_STEPS
from ..plan import Trained
from .operator_cost import SCALAR_BYTES, WORK_KINDS, Amounts, Operator
from .pruning_rules import amounts, part_bytes, selection, state_bytes

if TYPE_CHECKING:
    from .profile import Profile


_BEHIND_ALL = 1 << 32  # an order that no count of steps reaches


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
        self.fixed: dict[int, dict[int, Amounts]] = {}
        self.weights: dict[int, dict[int, tuple[int, ...]]] = {}
        self.joined: dict[int, int] = {}  # tensor trained in part -> storage of the whole weight
        for fqn, what in choice.items():
            if not isinstance(what, Trained) and what <= 0:
                continue
            i = profile.index(fqn)
            self.trained |= 1 << i
            part = profile.part(i, what)
            tensor = profile.tensors[i]
            share, dim = 1.0, None
            if part is not None:
                dim, count = part
                share = self.parts[i] = count / tensor.shape[dim]
                self.moves[i], self.fixed[i] = profile.moves_along(i, dim), profile.fixed_along(i, dim)
                self.weights[i] = profile.weights_along(i, dim)
                # The trained part stands beside the whole weight, with the indices that place it.
                self.resident += part_bytes(profile, i, share, count)
            self.state += state_bytes(profile, i, share, dim)
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
        self._join_parts()
        for i, share in sorted(self.parts.items()):
            self.gradients[i] = self._select(self.p.roots[i], i, share)
        self._keep_wholes(exists)
        masks = self._masks(exists)
        for n, o in enumerate(operators):
            if not exists[n]:
                continue
            i = self._part_of(o)
            size, flops, work = self._amounts(n, o, i)
            operands = self._operands(n, o, i)
            if n in masks:
                operands = tuple(masks[n] if s == operators[o.masks].storage else s for s in operands)
            if o.reads and n not in self.moved:
                operands += self._joined(o.reads)
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

    def _amounts(self, n: int, o: Operator, i: int = -1) -> Amounts:
        """(bytes, flops, work) of operator `n`; `i` as `_part_of` gives it."""
        if n in self.moved:
            share, *_ = self.moved[n]
            return round(o.bytes * share), round(o.flops * share), round(o.work * share)
        if i < 0 or n in self.twice:
            return o.bytes, o.flops, o.work
        return amounts(self.p, n, i, self.parts[i], self.moves[i], self.fixed[i])

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
            source = (self._resolved(o.storage),)
            if not (o.bytes or o.inputs):  # a view of a weight
                source += self._joined(o.reads)
            storage = self._add(n, 1, self._nearer(), f"select_{o.name}", size, source,
                                False, o.forward, size // o.item_bytes)  # fmt: skip
        else:
            reads = selection(o, onward)
            operands = tuple(self._select(m, i, share) for m in reads.selected)
            weights = self.weights[i].get(n, ())
            inputs = list(reads.input_bytes)
            for j in (j for j in weights if j in self.joined):
                inputs.remove(self.p.tensors[j].nbytes)
                operands += (self._select_joined(j, i, share),)
            for nbytes in inputs:
                size = round(nbytes * share)
                operands += (self._add(-1, 1, self._nearer(), "select_input", size, (),
                                       False, True, size // SCALAR_BYTES),)  # fmt: skip
            kept = tuple(self._resolved(self.p.operators[m].storage) for m in reads.whole)
            kept += self._joined(-1 - j for j in weights if j < 0)
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

    def _join_parts(self) -> None:
        """Whole weights made of constant and trained channels."""
        for i in self.parts:
            size = self.p.tensors[i].nbytes
            at, order = self.p.first_reader[i], 2 * i * _BEHIND_ALL
            self.joined[i] = self._add(
                at, -1, order, f"join_{self.p.tensors[i].fqn}", size, (), False, True, size // SCALAR_BYTES
            )

    def _joined(self, tensors: Iterable[int]) -> tuple[int, ...]:
        """The storages of those of these weights that are joined."""
        return tuple(self.joined[i] for i in tensors if i in self.joined)

    def _select_joined(self, j: int, i: int, share: float) -> int:
        """The storage that holds the channels of the joined weight j that the gradient of tensor i needs."""
        if (-1 - j, i) not in self.selected:
            size, order = round(self.p.tensors[j].nbytes * share), 2 * j * _BEHIND_ALL + self._nearer()
            self.selected[-1 - j, i] = self._add(
                self.p.first_reader[j], -1, order, f"select_joined_{self.p.tensors[j].fqn}", size,
                (self.joined[j],), False, True, size // SCALAR_BYTES,
            )  # fmt: skip
        return self.selected[-1 - j, i]

    def _nearer(self) -> int:
        """The order of a selection: behind masks, and nearer to what it selects from than those before it."""
        return _BEHIND_ALL - len(self.events)

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
                                      True, True, y.bytes // y.item_bytes))  # fmt: skip
            out[n] = made[-1]
        return out

    def _reads_part(self, reader: int, y: int) -> bool:
        """Does a sliced reader take selected channels of `y` instead of `y`?"""
        if reader not in self.moved:
            return False
        storage = self.p.operators[y].storage
        return storage not in self._operands(reader, self.p.operators[reader])
