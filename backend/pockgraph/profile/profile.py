"""Profile: what every plan of a task would cost, without making its graph.

A profile is the whole training graph reduced to numbers: a record per operator with its size, its
operands, its work and the tensors it serves. From that, `figures` derives what `train_graph/prune.py`
would do for a plan and runs the same liveness over the result: milliseconds instead of a new graph,
byte for byte the same answer. It imports no torch and travels as JSON, so a study can be planned on a
machine that has neither model nor framework.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..cost.liveness import liveness
from ..errors import PlanError, reason, suggest
from ..notebook_html import size_text, summary
from ..plan import BatchSpec, Plan, Trained
from ..plan.channels import checked_part, count_of
from ..plan.plan import BatchNorm
from ..plan.tensor_info import TensorInfo
from .memory_model import MemoryAmounts, MemoryModel, ProcessMemory, backward_weights, memory_amounts
from .operator_cost import SCALAR_BYTES, WORK_KINDS, Amounts, Operator
from .operator_table import OperatorTable
from .plan_cost import pruned_step
from .profile_json import json_of, values_of
from .time_model import TimeModel
from .validation import check

__all__ = ["SCALAR_BYTES", "WORK_KINDS", "Figures", "Operator", "Profile", "TensorInfo", "TimeModel"]


@dataclass(frozen=True)
class Figures:
    """What one plan costs a step.

    Attributes:
        peak_bytes: modelled peak, weights included.
        extra_bytes: saved activations and optimizer state.
        saved_bytes: activations kept from the forward to the backward pass.
        flops: of the step, a multiply-add counts two.
        step_ms: predicted time, None while nothing was timed.
        process_bytes: predicted peak of the process, None while nothing was measured.
    """

    peak_bytes: int
    extra_bytes: int
    saved_bytes: int
    flops: int
    step_ms: float | None = None
    process_bytes: int | None = None


@dataclass(frozen=True)
class Profile:
    """Everything that planning needs to know of a task's training graph.

    Attributes:
        task, batch, optimizer, batch_norm, dropout: as in a plan.
        tensors: the trainable ones, in forward order.
        channel_order: per tensor, channels by falling weight norm (empty: it has none).
        operators: the whole training graph in schedule order.
        moves: per tensor: operator -> the operands its channel selection moves to, see `channel_slicing.py`.
            An operand of -1 is the weight itself, whose part is at hand; -1 - b is another input of b bytes.
        other_moves: per tensor, the same for selections along each of its other dimensions.
        roots: per tensor, the operator that makes its gradient.
        first_reader: per tensor, the operator of the forward pass that reads the weight first.
        resident_bytes: weights, constants and batch; `backward_constants`: (bytes, readers) of those
            that only the backward pass reads.
        state_bytes: of each tensor's optimizer state: (what stays, what shrinks with the trained channels).
        path_weights: per tensor, by dimension: operator -> the trainable tensors among the inputs that it
            reads when a selection along that dimension passes it: j the channels of one, -1 - j all of it.
        other_state, other_fixed: per tensor, by dimension: `state_bytes`, and (bytes, flops, work) of
            operators that does not shrink with a share along it; where these differ from the channels' only.
        scalar_bytes: of the optimizer state that all tensors share.
        time, memory: how long work takes, and what a process holds, once measured.
    """

    task: str
    batch: dict[str, BatchSpec]
    optimizer: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
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
    path_weights: tuple[dict[int, dict[int, tuple[int, ...]]], ...] = ()
    other_state: tuple[dict[int, tuple[int, int]], ...] = ()
    other_fixed: tuple[dict[int, dict[int, Amounts]], ...] = ()
    memory: MemoryModel | None = None

    # ------------------------------------------------------------------ plans

    def tensor(self, fqn: str) -> TensorInfo:
        return self.tensors[self.index(fqn)]

    def index(self, fqn: str) -> int:
        """The position of a tensor in `tensors`.

        Raises:
            PlanError: no such tensor; with suggestions.
        """
        if fqn not in self._index:
            raise PlanError(f"The model has no trainable tensor {fqn!r}.{suggest(fqn, self._index)}")
        return self._index[fqn]

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {tensor.fqn: i for i, tensor in enumerate(self.tensors)}

    def plan(
        self,
        choice: Mapping[str, float],
        provenance: Mapping[str, str] | None = None,
        figures: Figures | None = None,
    ) -> Plan:
        """A plan file from FQN -> ratio, with explicit channels: those of the largest L2 norm.

        Args:
            figures: those of the choice, where they are known.

        Returns:
            A plan whose `predicted` holds the figures, and the parts of the process's memory where there is a
            memory model, as `process_state_bytes`; `provenance["process_target"]` is that model's target.

        Raises:
            PlanError: an unknown tensor, or a part of one that has no channels.
        """
        tensors = {}
        for i, tensor in enumerate(self.tensors):
            ratio = choice.get(tensor.fqn, 0.0)
            if ratio <= 0:
                continue
            count = self._count(i, ratio)
            if count is None:
                tensors[tensor.fqn] = Trained()
            else:
                channels = tuple(sorted(self.channel_order[i][:count]))
                tensors[tensor.fqn] = Trained(dim=tensor.channel_dim, channels=channels)
        figures = figures or self.figures(choice)
        predicted = {k: float(v) for k, v in asdict(figures).items() if isinstance(v, int | float)}
        account, said = self.process_memory(choice), dict(provenance or {})
        if self.memory is not None and account is not None:
            predicted |= {f"process_{part}_bytes": float(n) for part, n in account.parts().items()}
            said["process_target"] = self.memory.target
        return Plan(
            task=self.task,
            model={r.fqn: r.shape for r in self.tensors},
            batch=self.batch,
            optimizer=self.optimizer,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
            tensors=tensors,
            predicted=predicted,
            provenance=said,
        )

    def ratios_of(self, plan: Plan) -> dict[str, float]:
        """FQN -> ratio of a plan made for this model.

        Raises:
            PlanError: another model's plan, or one with channels that a ratio does not mean (along
                another dimension, as heads are); `figures(plan.choice())` tells what that costs.
        """
        plan.check_fits({r.fqn: r.shape for r in self.tensors})
        for fqn, trained in plan.tensors.items():
            tensor = self.tensor(fqn)
            dim = tensor.channel_dim
            if trained.dim not in (None, dim):
                raise PlanError(
                    f"The plan trains channels of {fqn!r} along dim {trained.dim}; a ratio means channels "
                    f"along {'no dim' if dim is None else f'dim {dim}'}, so it is "
                    "no plan that ratios describe. Compile it as it is, or plan that tensor by a ratio."
                )
        return {fqn: plan.ratio(fqn) for fqn in plan.tensors}

    choice = ratios_of  # its name in earlier versions

    @functools.cached_property
    def has_layers(self) -> bool:
        """Whether operators know their layer and name; those of earlier versions did not."""
        return any(o.op for o in self.operators)

    def part(self, i: int, what: float | Trained) -> tuple[int, int] | None:
        """(dimension, channels) of a part of a tensor; None: the whole tensor."""
        tensor = self.tensors[i]
        if not isinstance(what, Trained):
            count = self._count(i, what)
            return None if count is None or tensor.channel_dim is None else (tensor.channel_dim, count)
        what = checked_part(tensor, what)
        return None if what.dim is None or what.channels is None else (what.dim, len(what.channels))

    def share(self, i: int, ratio: float) -> float:
        """The share of a tensor's channels that a ratio means, which are whole."""
        count = self._count(i, ratio)
        return 1.0 if count is None else count / (self.tensors[i].channels or 1)

    def moves_along(self, i: int, dim: int) -> dict[int, tuple[int, ...]]:
        """Where a selection along `dim` of tensor i moves, as `moves` has it for its channel dimension.

        Raises:
            PlanError: the profile comes from a version that knew no other dimension.
        """
        if dim == self.tensors[i].channel_dim:
            return self.moves[i]
        if not self.other_moves:
            raise self._made_earlier(i, dim)
        return self.other_moves[i].get(dim, {})

    def state_along(self, i: int, dim: int) -> tuple[int, int]:
        """`state_bytes` of tensor i for a share along `dim`.

        Raises:
            PlanError: the profile comes from a version that knew it for channels only.
        """
        if dim == self.tensors[i].channel_dim:
            return self.state_bytes[i]
        if not self.other_state and any(
            stays or shrinks % tensor.nbytes
            for (stays, shrinks), tensor in zip(self.state_bytes, self.tensors)
        ):
            raise self._made_earlier(i, dim)  # some state has not its tensor's shape
        return self.other_state[i].get(dim, self.state_bytes[i]) if self.other_state else self.state_bytes[i]

    def fixed_along(self, i: int, dim: int) -> dict[int, Amounts]:
        """`other_fixed` of tensor i for a share along `dim`."""
        own = dim == self.tensors[i].channel_dim or not self.other_fixed
        return {} if own else self.other_fixed[i].get(dim, {})

    def weights_along(self, i: int, dim: int) -> dict[int, tuple[int, ...]]:
        """`path_weights` of tensor i for a share along `dim`."""
        return self.path_weights[i].get(dim, {}) if self.path_weights else {}

    def _made_earlier(self, i: int, dim: int) -> PlanError:
        return PlanError(
            f"What channels of {self.tensors[i].fqn!r} along dim {dim} cost is not in this profile: an "
            "earlier version made it. Derive it again from the training graph."
        )

    def _count(self, i: int, ratio: float) -> int | None:
        """Channels trained at a ratio; None: the whole tensor."""
        tensor = self.tensors[i]
        if ratio > 1:
            raise PlanError(f"{tensor.fqn!r}: a ratio lies between 0 and 1, got {ratio}.")
        if ratio == 1:
            return None
        if tensor.channels is None:
            raise PlanError(f"{tensor.fqn!r} can only be trained whole or not at all, got the ratio {ratio}.")
        count = count_of(ratio, tensor.channels)
        return None if count == tensor.channels else count

    # ------------------------------------------------------------------ showing

    def __repr__(self) -> str:
        timed = "not timed" if self.time is None else f"timed on {self.time.target!r}"
        return (
            f"Profile({self.task!r}, {len(self.tensors)} tensors, {len(self.operators)} operators, {timed})"
        )

    def _repr_html_(self) -> str:
        full = {tensor.fqn: 1.0 for tensor in self.tensors}
        known = {"head": self.presets.get("head"), "preset": self.presets.get("preset"), "full": full}
        rows = []
        for name, choice in known.items():
            if choice:
                f = self.figures(choice)
                flops = f"{f.flops / 1e9:.3g} GFLOP"
                time = "" if f.step_ms is None else f"{f.step_ms:.1f} ms"
                rows.append((name, size_text(f.peak_bytes), size_text(f.extra_bytes), flops, time))
        alive = [float(alive) for _, _, alive in self.live_bytes(full)]
        columns = ("plan", "peak", "training memory", "compute", "step")
        return summary(repr(self), columns, rows, alive, "alive over the step of full training")

    # ------------------------------------------------------------------ figures

    def figures(self, choice: Mapping[str, float | Trained]) -> Figures:
        """What a plan with these ratios costs; the same bytes as `graph.prune(plan)` gives.

        Args:
            choice: FQN -> ratio in (0, 1], or explicit channels; tensors left out (or 0) are frozen.
        """
        step = pruned_step(self, choice)
        curve = liveness(step.schedule, [self.operators[self.loss].storage])
        return Figures(
            peak_bytes=int(curve.live_bytes.max(initial=0)) + step.resident_bytes,
            extra_bytes=curve.saved_bytes + step.state_bytes,
            saved_bytes=curve.saved_bytes,
            flops=step.flops,
            step_ms=None if self.time is None else self.time.predict(step.work),
            process_bytes=None
            if self.memory is None
            else self.memory.predict(memory_amounts(self, choice, step)).peak_bytes,
        )

    def process_memory(self, choice: Mapping[str, float | Trained]) -> ProcessMemory | None:
        """The predicted peak of a process that trains this plan, in four parts; None while nothing was
        measured."""
        return None if self.memory is None else self.memory.predict(self.memory_amounts(choice))

    @functools.cached_property
    def backward_weights(self) -> dict[int, int]:
        """Set of tensors -> bytes of weights that a step reads to compute gradients of inputs, if it trains
        any of the set."""
        return backward_weights(self)

    def memory_amounts(self, choice: Mapping[str, float | Trained]) -> MemoryAmounts:
        """What the memory model is linear in."""
        return memory_amounts(self, choice, pruned_step(self, choice))

    def work(self, choice: Mapping[str, float | Trained]) -> tuple[int, ...]:
        """Amount of each of `WORK_KINDS` in a step of this plan: what the time model is linear in."""
        return tuple(pruned_step(self, choice).work)

    def live_bytes(self, choice: Mapping[str, float | Trained]) -> list[tuple[str, bool, int]]:
        """(operator, is forward, bytes alive) over the schedule, weights included."""
        step = pruned_step(self, choice)
        curve = liveness(step.schedule, [self.operators[self.loss].storage])
        live_bytes = (curve.live_bytes + step.resident_bytes).tolist()
        return list(zip(step.names(self), step.schedule.forward.tolist(), live_bytes, strict=True))

    @functools.cached_property
    def table(self) -> OperatorTable:
        """The operators as arrays."""
        return OperatorTable(self)

    # ------------------------------------------------------------------ files

    def to_json(self) -> str:
        return json_of(self)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """
        Raises:
            PlanError: the text is no profile, or one with values that cannot be.
        """
        try:
            profile = cls(**values_of(text))
            check(profile)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
            raise PlanError(
                f"This is no profile ({type(e).__name__}: {reason(e)}). Analyse the task again, or take "
                "another copy."
            ) from e
        return profile

    def with_time(self, time: TimeModel) -> Profile:
        """The same profile with a time model."""
        return replace(self, time=time)

    def with_memory(self, memory: MemoryModel | None) -> Profile:
        """The same profile with a memory model."""
        return replace(self, memory=memory)
