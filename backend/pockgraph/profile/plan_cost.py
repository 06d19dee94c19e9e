"""Pruning on numbers: which operators remain for one plan, at which size, and what is added.

What `train_graph/prune.py` makes of a graph, this makes of a profile's operators, to the byte. What an
operator reads and costs in a plan, `pruning_rules.py` says; here is the schedule that comes of it. Most
operators remain as they are: those are rows of `OperatorTable`, and only what a trained part or a clamp mask
changes is gone through one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cost.clamp_masks import CLAMP_MASK_STEPS
from ..cost.liveness import Flags, Integers, Schedule, Step
from ..plan import Trained
from .operator_cost import SCALAR_BYTES, WORK_KINDS, Amounts, Operator
from .pruning_rules import amounts, part_bytes, selection, state_bytes

if TYPE_CHECKING:
    from .profile import Profile


_AFTER_ALL = 1 << 32  # an order that no count of steps reaches


class PrunedStep(NamedTuple):
    """A plan's step.

    Attributes:
        schedule: its steps.
        operators: of each step, the operator of the profile that it is; those below 0 are added ones.
        added: the added steps, that of -1 first. causes: of each, the operator that it stands beside, and the
            set of tensors that it is there for.
        flops: of the step; `work`: amount of each of `WORK_KINDS`.
        operator_flops: [N], of each operator of the profile, where the step has it. added_flops: as `added`.
        resident_bytes: alive all the time, `state_bytes` included.
    """

    schedule: Schedule
    operators: list[int]
    added: list[Step]
    causes: list[tuple[int, int]]
    flops: int
    operator_flops: Integers
    added_flops: list[int]
    work: list[int]
    resident_bytes: int
    state_bytes: int

    def names(self, profile: Profile) -> list[str]:
        """Of its steps."""
        return [profile.operators[n].name if n >= 0 else self.added[-1 - n].name for n in self.operators]


def pruned_step(profile: Profile, choice: Mapping[str, float | Trained]) -> PrunedStep:
    """What pruning to a plan leaves; `choice` as for `Profile.figures`."""
    return _Pruning(profile, choice).run()


class _Pruning:
    """Prunes to one plan: which operators remain, at what size, and what is added."""

    def __init__(self, profile: Profile, choice: Mapping[str, float | Trained]) -> None:
        self.p, self.table = profile, profile.table
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
        # Added steps, as (operator, -1 before / 1 after it, order); their storages count on.
        self.added: list[tuple[tuple[int, int, int], Step]] = []
        self.causes: dict[int, tuple[int, int]] = {}  # storage of an added step -> as `PrunedStep` has them
        self.next_storage = len(profile.operators)
        self.added_flops: dict[int, int] = {}  # by storage
        self.work = [0] * len(WORK_KINDS)  # beside that of operators that remain as they are
        self.gradients: dict[int, int] = {}  # tensor trained in part -> storage of what is selected of it
        self.selected: dict[tuple[int, int], int] = {}
        self.moved: dict[int, tuple[float, tuple[int, ...], tuple[int, ...]]] = {}  # share, parts, wholes
        self.twice: set[int] = set()  # operators that a part is computed of, and the whole
        self.storage: dict[int, int] = {}

    def run(self) -> PrunedStep:
        table, operators = self.table, self.p.operators
        exists = table.existing(self.trained).tolist()
        self._sum_norms(exists)
        self._join_parts()
        for i, share in sorted(self.parts.items()):
            self.gradients[i] = self._select(self.p.roots[i], i, share)
        self._keep_wholes(exists)
        masks = self._clamp_masks(exists)
        there, size, own_flops = np.array(exists, bool), table.bytes.copy(), table.work[:, 0].copy()
        resolved = np.arange(len(operators))
        resolved[list(self.storage)] = list(self.storage.values())
        storage = resolved[table.storage]
        pairs = [(n, s) for i, s in self.joined.items() for n in table.weight_readers[i]
                 if exists[n] and n not in self.moved]  # fmt: skip
        rewired = np.zeros(len(operators), bool)
        for n, i in (dict.fromkeys([*self.moved, *masks], -1) | self._in_part()).items():
            if not exists[n]:
                continue
            o = operators[n]
            nbytes, flops, work = self._amounts(n, o, i)
            own_flops[n] = flops
            self.work[o.kind] += work - o.work
            operands = self._operands(n, o, i)
            if n in masks:
                operands = tuple(masks[n] if s == operators[o.compared].storage else s for s in operands)
            rewired[n] = True
            pairs += [(n, s) for s in operands]
            size[n] = nbytes
            if n in self.moved and o.storage != n:
                storage[n] = operands[0] if operands else n
                size[n] = 0
        size[storage != np.arange(len(operators))] = 0
        _, *work = (there @ table.work).tolist()
        self.resident += sum(
            nbytes for nbytes, readers in self.p.backward_constants if any(exists[r] for r in readers)
        )
        plain = (there & ~rewired)[table.readers]
        readers, reads = np.array(pairs, np.int64).reshape(-1, 2).T
        readers = np.concatenate([table.readers[plain], readers])
        reads = np.concatenate([resolved[table.reads[plain]], reads])
        schedule, order = self._schedule(there, storage, size, readers, reads)
        work = [a + b for a, b in zip(work, self.work, strict=True)]
        added = [step for _, step in self.added]
        causes = [self.causes[step.storage] for step in added]
        added_flops = [self.added_flops[step.storage] for step in added]
        flops = int(own_flops[there].sum()) + sum(added_flops)
        return PrunedStep(
            schedule, order, added, causes, flops, own_flops, added_flops, work, self.resident, self.state
        )

    def _schedule(
        self, there: Flags, storage: Integers, size: Integers, readers: Integers, reads: Integers
    ) -> tuple[Schedule, list[int]]:
        """The operators that are there with the added steps between them, as `PrunedStep` has them."""
        table, count = self.table, len(there)
        self.added.sort(key=lambda event: event[0])
        added = [step for _, step in self.added]
        onward = np.array([at + (side > 0) for (at, side, _), _ in self.added], np.int64)
        before = np.concatenate([[0], np.cumsum(there)])  # operators that are there before one
        place = before[:-1] + np.searchsorted(onward, np.arange(count), "right")
        places = np.concatenate([place[there], before[onward] + np.arange(len(added))])

        def merged(of_operators: NDArray[Any], of_added: list[Any]) -> NDArray[Any]:
            found = np.empty(len(places), of_operators.dtype)
            found[places] = np.concatenate([of_operators[there], np.array(of_added, of_operators.dtype)])
            return found

        pairs = [(j, s) for j, step in enumerate(added) for s in step.operands]
        readers_added, reads_added = np.array(pairs, np.int64).reshape(-1, 2).T
        schedule = Schedule(
            merged(storage, [s.storage for s in added]),
            merged(size, [s.owns_bytes for s in added]),
            merged(table.elementwise, [s.elementwise for s in added]),
            merged(table.forward, [s.forward for s in added]),
            np.concatenate([place[readers], places[len(places) - len(added) :][readers_added]]),
            np.concatenate([reads, reads_added]),
        )
        return schedule, merged(np.arange(count), [-1 - j for j in range(len(added))]).tolist()

    def _in_part(self) -> dict[int, int]:
        """Operators after a gradient, or passed by its selection, that serve one tensor trained in part."""
        if not self.parts:
            return {}
        found: dict[int, int] = {}
        for i, operators in self.table.serving_one(self.trained):
            if i in self.parts:
                root, moves = self.p.roots[i], self.moves[i]
                found |= {n: i for n in operators if n > root or n in moves}
        return {
            n: i for n, i in found.items() if not (self.p.operators[n].forward or self.p.operators[n].needed)
        }

    def _amounts(self, n: int, o: Operator, i: int = -1) -> Amounts:
        """(bytes, flops, work) of operator `n`; `i` as `_in_part` gives it."""
        if n in self.moved:
            share, *_ = self.moved[n]
            return round(o.bytes * share), round(o.flops * share), round(o.work * share)
        if i < 0 or n in self.twice:
            return o.bytes, o.flops, o.work
        return amounts(self.p, n, i, self.parts[i], self.moves[i], self.fixed[i])

    def _operands(self, n: int, o: Operator, i: int = -1) -> tuple[int, ...]:
        """The storages that operator `n` reads; `i` as `_in_part` gives it."""
        if n in self.moved:
            _, parts, wholes = self.moved[n]
            return (*parts, *wholes)
        operands = [self._resolved(s) for s in o.operands] if self.storage else o.operands
        if i >= 0 and n > self.p.roots[i]:  # an update reads the selected gradient
            whole = self.p.operators[self.p.roots[i]].storage
            operands = [self.gradients[i] if s == whole else r for s, r in zip(o.operands, operands)]
        return tuple(operands)

    def _resolved(self, storage: int) -> int:
        return self.storage.get(storage, storage)

    def _sum_norms(self, exists: list[bool]) -> None:
        """Leave out sums of the gradients' norm that have only one operand."""
        for n in self.table.norm_sums:
            if not exists[n]:
                continue
            o = self.p.operators[n]
            there = [m for m in o.inputs if self._makes(m)]
            if len(there) < len(o.inputs):
                exists[n] = False
                self.storage[n] = self._resolved(there[0]) if there else -1

    def _makes(self, n: int) -> bool:
        """Is there a value where operator `n` has one?"""
        return bool(self.p.operators[n].serves & self.trained) and self.storage.get(n) != -1

    def _add(self, at: int, side: int, order: int, name: str, size: int, operands: tuple[int, ...],
             elementwise: bool, forward: bool, flops: int, serves: int) -> int:  # fmt: skip
        storage = self.next_storage
        self.next_storage += 1
        self.causes[storage] = at, serves
        self.added.append(((at, side, order), Step(name, storage, size, operands, elementwise, forward)))
        self.added_flops[storage] = flops
        self.work[WORK_KINDS.index("forward" if forward else "stream")] += flops if forward else size
        return storage

    def _select(self, n: int, i: int, share: float) -> int:
        """`channel_slicing.Slicer.select`: the storage that holds the selected channels of operator `n`."""
        if (n, i) in self.selected:
            return self.selected[n, i]
        o = self.p.operators[n]
        onward = self.moves[i].get(n)
        if onward is None or o.only_served(self.trained) != i:
            size = round(o.size_bytes * share)
            source = (self._resolved(o.storage),)
            if not (o.bytes or o.inputs):  # a view of a weight
                source += self._joined(o.reads)
            storage = self._add(n, 1, self._nearer(), f"select_{o.name}", size, source,
                                False, o.forward, size // o.item_bytes, 1 << i)  # fmt: skip
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
                                       False, True, size // SCALAR_BYTES, 1 << i),)  # fmt: skip
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
        operators, readers = self.p.operators, self.table.readers_of
        read = {
            n for n in self.moved
            if operators[n].storage == n and any(exists[r] and r not in self.moved for r in readers[n])
        }  # fmt: skip
        read |= {s for _, _, wholes in self.moved.values() for s in wholes if s in self.moved}
        read -= {operators[self.p.roots[i]].storage for i in self.parts}  # an update reads the part
        for n in sorted(n for n in read if operators[n].storage == n):
            o, part = operators[n], self.next_storage
            self.next_storage += 1
            size, flops, work = self._amounts(n, o)
            step = Step(f"part_{o.name}", part, size, self._operands(n, o), o.elementwise, o.forward)
            self.added.append(((n, -1, 0), step))
            self.causes[part] = n, o.serves & self.trained
            self.added_flops[part] = flops
            self.work[o.kind] += work
            self.twice.add(n)
            del self.moved[n]
            for m, (of, operands, kept) in self.moved.items():
                self.moved[m] = of, tuple(part if s == n else s for s in operands), kept

    def _join_parts(self) -> None:
        """Whole weights made of constant and trained channels."""
        for i in self.parts:
            size = self.p.tensors[i].nbytes
            at, order = self.p.first_reader[i], 2 * i * _AFTER_ALL
            self.joined[i] = self._add(
                at, -1, order, f"join_{self.p.tensors[i].fqn}", size, (), False, True, size // SCALAR_BYTES,
                1 << i,
            )  # fmt: skip

    def _joined(self, tensors: Iterable[int]) -> tuple[int, ...]:
        """The storages of those of these weights that are joined."""
        return tuple(self.joined[i] for i in tensors if i in self.joined)

    def _select_joined(self, j: int, i: int, share: float) -> int:
        """The storage that holds the channels of the joined weight j that the gradient of tensor i needs."""
        if (-1 - j, i) not in self.selected:
            size, order = round(self.p.tensors[j].nbytes * share), 2 * j * _AFTER_ALL + self._nearer()
            self.selected[-1 - j, i] = self._add(
                self.p.first_reader[j], -1, order, f"select_joined_{self.p.tensors[j].fqn}", size,
                (self.joined[j],), False, True, size // SCALAR_BYTES, 1 << i,
            )  # fmt: skip
        return self.selected[-1 - j, i]

    def _nearer(self) -> int:
        """The order of a selection: after clamp masks, and nearer to its source than earlier selections."""
        return _AFTER_ALL - len(self.added)

    def _clamp_masks(self, exists: list[bool]) -> dict[int, int]:
        """Backwards of clamps that read a kept mask: operator -> the mask's storage."""
        out = {}
        operators = self.p.operators
        for n in self.table.clamp_backwards:
            if not exists[n]:
                continue
            o = operators[n]
            y = operators[o.compared]
            if any(exists[r] and not self._reads_part(r, o.compared) for r in o.kept_for):
                continue
            made: list[int] = []
            for order, step in enumerate(CLAMP_MASK_STEPS[o.bounds]):
                reads = tuple(made[k] for k in step.reads) or (y.storage,)
                made.append(self._add(
                    o.compared, 1, order, f"{step.name}_{y.name}", y.clamp_mask_bytes, reads, True, True,
                    y.bytes // y.item_bytes, o.serves & self.trained,
                ))  # fmt: skip
            out[n] = made[-1]
        return out

    def _reads_part(self, reader: int, y: int) -> bool:
        """Does a sliced reader take selected channels of `y` instead of `y`?"""
        if reader not in self.moved:
            return False
        storage = self.p.operators[y].storage
        return storage not in self._operands(reader, self.p.operators[reader])
