"""Profile: what every plan of a task would cost, without making its graph.

A profile is the whole training graph reduced to numbers: a row per operator with its size, its
operands, its work and the tensors it serves. From that, `figures` replays what `prune.py` would do for
a plan and runs the same liveness over the result: milliseconds instead of a new graph, byte for byte
the same answer. It imports no torch and travels as JSON, so a study can be planned on a machine that
has neither model nor framework.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .channels import checked_part, count_of
from .errors import PlanError, suggest
from .liveness import Step, liveness
from .plan import BatchNorm, BatchSpec, Plan, Trained
from .rows import TensorRow

WORK_KINDS = ("forward", "dx_matrix", "dx_depthwise", "dw_matrix", "dw_depthwise", "stream")
SCALAR_BYTES = 4


@dataclass(slots=True)
class Operator:
    """One operator of the whole training graph.

    Attributes:
        name: the node's.
        storage: index of the operator that owns its memory (its own index unless it is a view).
        bytes: what it allocates (0 for a view); size_bytes: of its result, views included.
        flops: of computing it.
        operands: storages it reads; `inputs`: the operators it reads, views included.
        serves: bit set of the tensors (by row) whose update needs it.
        forward: phase; `needed`: the loss needs it, whatever the plan.
        elementwise: it may write over an operand.
        kind: index into `WORK_KINDS`; `work`: its amount, FLOPs or (for `stream`) bytes moved.
        masks: the operator whose result it only compares, for the backward of a clamp; else -1.
        clamps: how many comparisons that takes.
        late: the backward operators that read that result for more than a comparison.
        reads: rows of the weights it reads.
        fixed_bytes, fixed_flops, fixed_work: of an operator that serves one tensor alone, what does not
            shrink when only some channels of that tensor are trained.
        joins: the row whose part in the norm of all gradients it adds to a sum. It exists when that row
            and an earlier one are trained; otherwise the sum is the one operand that there is. Else -1.
    """

    name: str
    storage: int
    bytes: int
    size_bytes: int
    flops: int
    operands: tuple[int, ...]
    inputs: tuple[int, ...]
    serves: int
    forward: bool
    needed: bool
    elementwise: bool
    kind: int
    work: int
    masks: int = -1
    clamps: int = 0
    late: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    fixed_bytes: int = 0
    fixed_flops: int = 0
    fixed_work: int = 0
    joins: int = -1

    def part(self, share: float) -> tuple[int, int, int]:
        """(bytes, flops, work) when a share of its tensor's channels is trained."""
        amounts = (self.bytes, self.fixed_bytes), (self.flops, self.fixed_flops), (self.work, self.fixed_work)
        size, flops, work = (fixed + round((whole - fixed) * share) for whole, fixed in amounts)
        return size, flops, work


@dataclass(frozen=True)
class Figures:
    """What one plan costs a step.

    Attributes:
        peak_bytes: modelled peak, weights included; `peak_at`: the operator that runs then.
        extra_bytes: saved activations and optimizer state.
        saved_bytes: activations kept from the forward to the backward pass.
        flops: of the step, a multiply-add counts two.
        step_ms: predicted time, None while nothing was timed.
    """

    peak_bytes: int
    extra_bytes: int
    saved_bytes: int
    flops: int
    peak_at: str
    step_ms: float | None = None


@dataclass(frozen=True)
class TimeModel:
    """Milliseconds of a step as a linear function of the work of each kind.

    Attributes:
        target: what was timed.
        overhead_ms: of a step without work.
        ms_per_unit: milliseconds per unit of work, one for each of `WORK_KINDS`.
        error_ratio: median of |predicted - measured| / measured over the plans it was fitted on.
        points: how many plans were timed.
    """

    target: str
    overhead_ms: float
    ms_per_unit: tuple[float, ...]
    error_ratio: float
    points: int

    def predict(self, work: Sequence[int]) -> float:
        return self.overhead_ms + sum(c * w for c, w in zip(self.ms_per_unit, work, strict=True))


@dataclass(frozen=True)
class Profile:
    """Everything that planning needs to know of a task's training graph.

    Attributes:
        task, batch, optimizer, batch_norm, dropout: as in a plan.
        rows: one per trainable tensor, in forward order.
        channel_order: per row, channels by falling weight norm (empty: it has none).
        operators: the whole training graph in schedule order.
        moves: per row: operator -> the operands its channel selection moves to, see `slicing.py`. An
            operand of -1 is the weight itself, whose part is at hand; -1 - b is another input of b bytes.
        other_moves: per row, the same for selections along each of its other dimensions.
        roots: per row, the operator that makes its gradient.
        first_reader: per row, the operator of the forward pass that reads the weight first.
        resident_bytes: weights, constants and batch; `backward_constants`: (bytes, readers) of those
            that only the backward pass reads.
        state_bytes: of each row's optimizer state: (what stays, what shrinks with the trained channels).
        scalar_bytes: of the optimizer state that all tensors share.
        time: how long work takes, once measured.
    """

    task: str
    batch: dict[str, BatchSpec]
    optimizer: dict[str, Any]
    rows: tuple[TensorRow, ...]
    channel_order: tuple[tuple[int, ...], ...]
    operators: tuple[Operator, ...]
    moves: tuple[dict[int, tuple[int, ...]], ...]
    first_reader: tuple[int, ...]
    roots: tuple[int, ...]
    resident_bytes: int
    backward_constants: tuple[tuple[int, tuple[int, ...]], ...]
    state_bytes: tuple[tuple[int, int], ...]
    scalar_bytes: int
    loss: int
    head: tuple[str, ...] = ()
    presets: dict[str, dict[str, float]] = field(default_factory=dict)
    batch_norm: BatchNorm = "frozen"
    dropout: bool = False
    time: TimeModel | None = None
    other_moves: tuple[dict[int, dict[int, tuple[int, ...]]], ...] = ()

    # ------------------------------------------------------------------ plans

    def row(self, fqn: str) -> TensorRow:
        return self.rows[self.index(fqn)]

    def index(self, fqn: str) -> int:
        """The row of a tensor.

        Raises:
            PlanError: no such tensor; with suggestions.
        """
        for i, row in enumerate(self.rows):
            if row.fqn == fqn:
                return i
        raise PlanError(
            f"The model has no trainable tensor {fqn!r}.{suggest(fqn, [r.fqn for r in self.rows])}"
        )

    def plan(self, choice: Mapping[str, float], provenance: Mapping[str, str] | None = None) -> Plan:
        """A plan file from FQN -> ratio, with explicit channels: those of the largest L2 norm.

        Raises:
            PlanError: an unknown tensor, or a part of one that has no channels.
        """
        tensors = {}
        for i, row in enumerate(self.rows):
            ratio = choice.get(row.fqn, 0.0)
            if ratio <= 0:
                continue
            count = self._count(i, ratio)
            if count is None:
                tensors[row.fqn] = Trained()
            else:
                channels = tuple(sorted(self.channel_order[i][:count]))
                tensors[row.fqn] = Trained(dim=row.channel_dim, channels=channels)
        figures = self.figures(choice)
        predicted = {k: float(v) for k, v in asdict(figures).items() if isinstance(v, int | float)}
        return Plan(
            task=self.task,
            model={r.fqn: r.shape for r in self.rows},
            batch=self.batch,
            optimizer=self.optimizer,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
            tensors=tensors,
            predicted=predicted,
            provenance=dict(provenance or {}),
        )

    def choice(self, plan: Plan) -> dict[str, float]:
        """FQN -> ratio of a plan made for this model.

        Raises:
            PlanError: another model's plan, or one with channels that a ratio does not mean (along
                another dimension, as heads are); `figures(plan.choice())` tells what that costs.
        """
        plan.check_fits({r.fqn: r.shape for r in self.rows})
        for fqn, trained in plan.tensors.items():
            row = self.row(fqn)
            if trained.dim not in (None, row.channel_dim):
                raise PlanError(
                    f"The plan trains channels of {fqn!r} along dim {trained.dim}; a ratio means channels "
                    f"along {'no dim' if row.channel_dim is None else f'dim {row.channel_dim}'}, so it is "
                    "no plan that ratios describe. Compile it as it is, or plan that tensor by a ratio."
                )
        return {fqn: plan.ratio(fqn) for fqn in plan.tensors}

    def _part(self, i: int, what: float | Trained) -> tuple[int, int] | None:
        """(dimension, channels) of a part of a tensor; None: the whole tensor."""
        row = self.rows[i]
        if not isinstance(what, Trained):
            count = self._count(i, what)
            return None if count is None or row.channel_dim is None else (row.channel_dim, count)
        what = checked_part(row, what)
        return None if what.dim is None or what.channels is None else (what.dim, len(what.channels))

    def moves_along(self, i: int, dim: int) -> dict[int, tuple[int, ...]]:
        """Where a selection along `dim` of row i moves, as `moves` has it for its channel dimension.

        Raises:
            PlanError: the profile comes from a version that knew no other dimension.
        """
        if dim == self.rows[i].channel_dim:
            return self.moves[i]
        if not self.other_moves:
            raise PlanError(
                f"What channels of {self.rows[i].fqn!r} along dim {dim} cost is not in this profile: an "
                "earlier version made it. Derive it again from the training graph."
            )
        return self.other_moves[i].get(dim, {})

    def _count(self, i: int, ratio: float) -> int | None:
        """Channels trained at a ratio; None: the whole tensor."""
        row = self.rows[i]
        if ratio > 1:
            raise PlanError(f"{row.fqn!r}: a ratio lies between 0 and 1, got {ratio}.")
        if ratio == 1:
            return None
        if row.channels is None:
            raise PlanError(f"{row.fqn!r} can only be trained whole or not at all, got the ratio {ratio}.")
        count = count_of(ratio, row.channels)
        return None if count == row.channels else count

    # ------------------------------------------------------------------ figures

    def figures(self, choice: Mapping[str, float | Trained]) -> Figures:
        """What a plan with these ratios costs; the same bytes as `graph.prune(plan)` gives.

        Args:
            choice: FQN -> ratio in (0, 1], or explicit channels; tensors left out (or 0) are frozen.
        """
        steps, flops, work, resident, state = self._replay(choice)
        curve = liveness(steps, frozenset([self.operators[self.loss].storage]))
        peak = max(curve.live_bytes, default=0)
        at = steps[curve.live_bytes.index(peak)].name if steps else ""
        step_ms = None if self.time is None else self.time.predict(work)
        return Figures(peak + resident, curve.saved_bytes + state, curve.saved_bytes, flops, at, step_ms)

    def work(self, choice: Mapping[str, float | Trained]) -> tuple[int, ...]:
        """Amount of each of `WORK_KINDS` in a step of this plan: what the time model is linear in."""
        return tuple(self._replay(choice)[2])

    def live_bytes(self, choice: Mapping[str, float | Trained]) -> list[tuple[str, bool, int]]:
        """(operator, is forward, bytes alive) over the schedule, weights included."""
        steps, _, _, resident, _ = self._replay(choice)
        curve = liveness(steps, frozenset([self.operators[self.loss].storage]))
        return [(s.name, s.forward, b + resident) for s, b in zip(steps, curve.live_bytes)]

    def _replay(self, choice: Mapping[str, float | Trained]) -> tuple[list[Step], int, list[int], int, int]:
        return _Replay(self, choice).run()

    # ------------------------------------------------------------------ files

    def to_json(self) -> str:
        data = asdict(self)
        data["batch"] = {k: v.model_dump() for k, v in self.batch.items()}
        data["moves"] = [_keys_as(str, m) for m in self.moves]
        data["other_moves"] = [
            {str(d): _keys_as(str, m) for d, m in by_dim.items()} for by_dim in self.other_moves
        ]
        data["operators"] = [[getattr(o, f) for f in Operator.__slots__] for o in self.operators]
        for o in data["operators"]:
            o[_SERVES] = hex(o[_SERVES])
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        data = json.loads(text)
        operators = []
        for o in data["operators"]:
            o[_SERVES] = int(o[_SERVES], 16)
            values: Any = (tuple(v) if isinstance(v, list) else v for v in o)
            operators.append(Operator(*values))
        data |= _of_today(data, operators)
        data["operators"] = tuple(operators)
        data["rows"] = tuple(TensorRow(**{**r, "shape": tuple(r["shape"])}) for r in data["rows"])
        data["batch"] = {k: BatchSpec(**v) for k, v in data["batch"].items()}
        data["moves"] = tuple(_keys_as(int, m) for m in data["moves"])
        data["other_moves"] = tuple(
            {int(d): _keys_as(int, m) for d, m in by_dim.items()} for by_dim in data.get("other_moves", ())
        )
        data["channel_order"] = tuple(map(tuple, data["channel_order"]))
        data["backward_constants"] = tuple((n, tuple(r)) for n, r in data["backward_constants"])
        data["state_bytes"] = tuple(map(tuple, data["state_bytes"]))
        for key in ("first_reader", "roots", "head"):
            data[key] = tuple(data[key])
        if data["time"]:
            data["time"] = TimeModel(**{**data["time"], "ms_per_unit": tuple(data["time"]["ms_per_unit"])})
        return cls(**data)

    def with_time(self, time: TimeModel) -> Profile:
        """The same profile with a time model."""
        return replace(self, time=time)


def _keys_as(kind: type, moves: Mapping[Any, Sequence[int]]) -> dict[Any, tuple[int, ...]]:
    """JSON's keys are strings, its lists no tuples."""
    return {kind(k): tuple(v) for k, v in moves.items()}


_SERVES = [f.name for f in fields(Operator)].index("serves")


def _of_today(data: dict[str, Any], operators: Sequence[Operator]) -> dict[str, Any]:
    """What a profile lacks that was written when every optimizer state had its tensor's shape."""
    if "state_copies" not in data:
        return {}
    for o in operators:
        if o.bytes == SCALAR_BYTES:
            o.fixed_bytes, o.fixed_flops, o.fixed_work = o.bytes, o.flops, o.work
    copies = data.pop("state_copies")
    return {"state_bytes": [(0, SCALAR_BYTES * math.prod(r["shape"]) * copies) for r in data["rows"]]}


class _Replay:
    """Replays pruning for one plan: which operators remain, at what size, and what is added."""

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
            part = profile._part(i, what)
            row = profile.rows[i]
            share = 1.0
            if part is not None:
                dim, count = part
                share = self.parts[i] = count / row.shape[dim]
                self.moves[i] = profile.moves_along(i, dim)
                # The trained part stands beside the whole weight, with the indices that place it.
                self.resident += round(row.nbytes * share) + 8 * count
            stays, shrinks = profile.state_bytes[i]
            self.state += stays + round(shrinks * share)
        if self.trained:
            self.state += profile.scalar_bytes
        self.resident += self.state
        # (position, -1 before / 0 itself / 1 behind, order) -> step; storages of added steps count on.
        self.events: list[tuple[tuple[int, int, int], Step]] = []
        self.next_storage = len(profile.operators)
        self.flops = 0
        self.work = [0] * len(WORK_KINDS)
        self.selected: dict[tuple[int, int], int] = {}
        self.moved: dict[int, tuple[float, tuple[int, ...]]] = {}
        self.storage: dict[int, int] = {}

    def run(self) -> tuple[list[Step], int, list[int], int, int]:
        operators, trained = self.p.operators, self.trained
        exists = [o.needed or bool(o.serves & trained) for o in operators]
        self._join_norms(exists)
        gradients = {
            i: self._select(self.p.roots[i], i, share, len(self.parts))
            for i, share in sorted(self.parts.items())
        }
        joined = self._join_parts()
        masks = self._masks(exists)
        for n, o in enumerate(operators):
            if not exists[n]:
                continue
            size, flops, work, operands = o.bytes, o.flops, o.work, o.operands
            if n in self.moved:
                share, operands = self.moved[n]
                size, flops, work = round(size * share), round(flops * share), round(work * share)
            elif not o.forward and self._only(o) in self.parts and not o.needed:
                size, flops, work = o.part(self._share(n, o))
                root = self.p.roots[self._only(o)]
                if n > root:  # an update reads the selected gradient
                    whole, part = operators[root].storage, gradients[self._only(o)]
                    operands = tuple(part if s == whole else self._resolved(s) for s in operands)
                else:
                    operands = tuple(self._resolved(s) for s in operands)
            else:
                operands = tuple(self._resolved(s) for s in operands)
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
        return [s for _, s in self.events], self.flops, self.work, self.resident, self.state

    def _only(self, o: Operator) -> int:
        """The one trained row an operator serves, or -1."""
        served = o.serves & self.trained
        return served.bit_length() - 1 if served and served & (served - 1) == 0 else -1

    def _resolved(self, storage: int) -> int:
        return self.storage.get(storage, storage)

    def _share(self, n: int, o: Operator) -> float:
        """Operators behind a sliced gradient (its update) have the part's size."""
        i = self._only(o)
        return self.parts[i] if n > self.p.roots[i] or n in self.moves[i] else 1.0

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

    def _select(self, n: int, i: int, share: float, order: int) -> int:
        """`slicing.Slicer.select`: the storage that holds the selected channels of operator `n`."""
        if (n, i) in self.selected:
            return self.selected[n, i]
        o = self.p.operators[n]
        onward = self.moves[i].get(n)
        if onward is None or self._only(o) != i:
            size = round(o.size_bytes * share)
            # Later selections stand nearer to what they select from.
            at = len(self.events)
            storage = self._add(n, 1, 1000 - at, f"select_{o.name}", size, (self._resolved(o.storage),),
                                False, o.forward, size // 4)  # fmt: skip
        else:
            operands = tuple(self._select(m, i, share, order) for m in onward if m >= 0)
            for code in onward:
                if code < -1:
                    size = round((-1 - code) * share)
                    at = 1000 - len(self.events)
                    operands += (self._add(-1, 1, at, "select_input", size, (), False, True, size // 4),)
            kept = tuple(self._resolved(self.p.operators[m].storage) for m in o.inputs if m not in onward)
            self.moved[n] = (share, (*operands, *kept))
            # A view of an input stands alone in the whole graph; here it may look at a selected part.
            view = o.storage != n or not (o.bytes or o.inputs)
            storage = operands[0] if view and operands else n
            if view:
                self.storage[n] = storage
        self.selected[n, i] = storage
        return storage

    def _join_parts(self) -> dict[int, int]:
        """Whole weights made of constant and trained channels: row -> storage."""
        joined = {}
        for i in self.parts:
            size = self.p.rows[i].nbytes
            at = self.p.first_reader[i]
            joined[i] = self._add(at, -1, i, f"join_{self.p.rows[i].fqn}", size, (), False, True, size // 4)
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
            count = y.bytes // 4
            outside = self._add(o.masks, 1, 0, f"below_{y.name}", count, (y.storage,), True, True, count)
            if o.clamps == 2:
                above = self._add(o.masks, 1, 1, f"above_{y.name}", count, (y.storage,), True, True, count)
                outside = self._add(
                    o.masks, 1, 2, f"outside_{y.name}", count, (outside, above), True, True, count
                )
            out[n] = outside
        return out

    def _reads_part(self, reader: int, y: int) -> bool:
        """Does a sliced reader take selected channels of `y` instead of `y`?"""
        if reader not in self.moved:
            return False
        storage = self.p.operators[y].storage
        return storage not in self.moved[reader][1]
