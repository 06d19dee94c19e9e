"""Plan: which tensors are trained, and which channels of each. A file people keep and share.

This module imports no torch: a device reads plans too.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, ValidationError, model_validator

from ..errors import PlanError, listing, reason, require, suggest, suggest_within, violations
from ..files import as_path, begins_with, parse_json, read_text, require_kind, write_atomically
from ..notebook_html import percent, size_text, summary
from ..strict_model import Strict, Whole, only_whole
from . import presets
from .channels import checked_part, resolve_channels
from .plannable import PlannableGraph, check_trainable, require_graph

if TYPE_CHECKING:
    from torch import nn

    from ..eager.applied_plan import AppliedPlan

SCHEMA = "pockui.plan/1"
MAX_BYTES = 1 << 28  # of a plan or a manifest that is read
BatchNorm = Literal["frozen", "batch"]


class _Strict(Strict):
    refusal = PlanError


class Trained(_Strict):
    """How one tensor is trained.

    Attributes:
        dim: the dimension that `channels` index; None when the whole tensor is trained.
        channels: explicit, sorted channel indices; None when the whole tensor is trained.
    """

    dim: Annotated[int, Field(ge=0), only_whole] | None = None
    channels: tuple[Whole, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dim is None) != (self.channels is None):
            raise ValueError("dim and channels are given together, or neither")
        if self.channels is not None:
            if not self.channels:
                raise ValueError("channels is empty: leave a frozen tensor out of the plan instead")
            if any(b <= a for a, b in zip(self.channels, self.channels[1:])):
                raise ValueError("channels must be sorted and distinct")
            if self.channels[0] < 0:
                raise ValueError("channel indices start at 0")
        return self


class BatchSpec(_Strict):
    """Shape and dtype of one batch entry."""

    shape: tuple[Whole, ...]
    dtype: str


class Plan(_Strict):
    """Which tensors a training step updates.

    Attributes:
        task: the task's name.
        model: FQN -> shape of every trainable tensor of the model the plan was made for.
        batch: what a batch holds.
        optimizer: `{"name": "sgd", "momentum": 0.9, …}`.
        batch_norm, dropout: what the training step does with those layers, see `Task`.
        tensors: FQN -> how it is trained. Tensors left out are frozen.
        predicted, measured: figures, keys with unit suffixes (`peak_bytes`, `step_ms`, …).
        provenance: who or what made the plan, free text values.
    """

    schema_: Literal["pockui.plan/1"] = Field(default=SCHEMA, alias="schema")
    task: str
    model: dict[str, tuple[Whole, ...]]
    batch: dict[str, BatchSpec]
    optimizer: dict[str, Any]
    batch_norm: BatchNorm = "frozen"
    dropout: StrictBool = False
    tensors: dict[str, Trained]
    predicted: dict[str, float] = Field(default={})
    measured: dict[str, float] = Field(default={})
    provenance: dict[str, str] = Field(default={})

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        for fqn, trained in self.tensors.items():
            if fqn not in self.model:
                near = suggest_within(fqn, self.model)
                raise ValueError(f"tensor {fqn!r} is not in the plan's model{near}")
            if trained.channels is not None and trained.dim is not None:
                shape = self.model[fqn]
                if trained.dim >= len(shape) or trained.channels[-1] >= shape[trained.dim]:
                    raise ValueError(
                        f"{fqn!r} of shape {shape} has no channel {trained.channels[-1]} "
                        f"along dim {trained.dim}"
                    )
        return self

    # ---------------------------------------------------------------- making plans

    @classmethod
    def of(
        cls,
        graph: PlannableGraph,
        choice: Mapping[str, float | Sequence[int] | Trained],
        *,
        channels: Literal["magnitude", "first", "random"] | Mapping[str, Sequence[float]] = "magnitude",
        seed: int = 0,
        provenance: Mapping[str, str] | None = None,
    ) -> Plan:
        """A plan from FQN -> ratio in (0, 1], or -> explicit channel indices, or -> `Trained`.

        `Trained(dim=0, channels=(…))` names channels along any dimension of any tensor, for example
        output channels of a linear layer (see `heads`). All channels of a dimension are the whole tensor.

        A ratio picks `max(1, round(ratio * channels))` channels of the tensor's channel dimension
        (see `TensorInfo.channel_dim`): those of the largest L2 norm, the first, random ones, or those of
        the highest score where `channels` maps FQN -> a score of each channel, as
        `pockgraph.fisher_scores` gives. A ratio of 0 leaves the tensor frozen.

        Raises:
            PlanError: an unknown name (with suggestions), a ratio outside [0, 1], a dimension or channel
                that does not exist, a ratio or list for a tensor that has no channel dimension, or scores
                that are missing or do not fit.
        """
        require_graph(graph)
        require(PlanError, "choice", choice, Mapping, "Pass ratios by name, as in {'conv.weight': 0.5}.")
        require(PlanError, "provenance", provenance or {}, Mapping, "Pass texts by name, or leave it out.")
        trainable = {tensor.fqn: tensor for tensor in graph.tensors}
        tensors: dict[str, Trained] = {}
        for fqn, what in choice.items():
            if fqn not in trainable:
                check_trainable(graph, [fqn])
                raise PlanError(f"The model has no trainable tensor {fqn!r}.{suggest(fqn, trainable)}")
            if isinstance(what, Trained):
                tensors[fqn] = checked_part(trainable[fqn], what)
                continue
            picked = resolve_channels(graph, trainable[fqn], what, channels, seed)
            if picked is None:
                continue
            whole = len(picked) == 0
            tensors[fqn] = Trained() if whole else Trained(dim=trainable[fqn].channel_dim, channels=picked)
        order = {fqn: i for i, fqn in enumerate(trainable)}
        return cls(
            task=graph.name,
            model={tensor.fqn: tensor.shape for tensor in graph.tensors},
            batch={s.fqn: BatchSpec(shape=s.shape, dtype=s.dtype) for s in graph.batch_slots},
            optimizer=graph.optimizer.to_dict(),
            batch_norm=graph.plan.batch_norm,
            dropout=graph.plan.dropout,
            tensors=dict(sorted(tensors.items(), key=lambda kv: order[kv[0]])),
            provenance={str(k): str(v) for k, v in (provenance or {}).items()},
        )

    @classmethod
    def full(cls, graph: PlannableGraph) -> Plan:
        """Every tensor."""
        require_graph(graph)
        return cls.of(graph, {r.fqn: 1.0 for r in graph.tensors}, provenance={"made_by": "full"})

    @classmethod
    def head(cls, graph: PlannableGraph) -> Plan:
        """Only the last layer with parameters."""
        require_graph(graph)
        return cls.of(graph, presets.head(graph), provenance={"made_by": "head"})

    @classmethod
    def last_k_biases(cls, graph: PlannableGraph, k: int) -> Plan:
        """The head, and the last `k` biases below it (those of norms, too).

        Raises:
            PlanError: `k` is no number of biases.
        """
        require_graph(graph)
        if not isinstance(k, int) or k < 0:
            raise PlanError(f"k={k!r} is no number of biases. Pass 0 or more.")
        return cls.of(graph, presets.last_k_biases(graph, k), provenance={"made_by": f"last_k_biases({k})"})

    @classmethod
    def preset(cls, graph: PlannableGraph) -> Plan:
        """The scheme PockEngine reports for this kind of network (arXiv 2310.17752, section 4)."""
        require_graph(graph)
        return cls.of(graph, presets.preset(graph), provenance={"made_by": "preset"})

    # ---------------------------------------------------------------- reading them

    def ratio(self, fqn: str) -> float:
        """The trained share of a tensor's channels: 0 when frozen, 1 when whole."""
        require(PlanError, "fqn", fqn, str, "Pass the name of a tensor.")
        trained = self.tensors.get(fqn)
        if trained is None:
            return 0.0
        if trained.channels is None or trained.dim is None:
            return 1.0
        return len(trained.channels) / self.model[fqn][trained.dim]

    def choice(self) -> dict[str, float | Trained]:
        """What `Plan.of` takes: FQN -> 1.0, or channel indices and the dimension they belong to."""
        return {k: 1.0 if t.channels is None else t for k, t in self.tensors.items()}

    def check_fits(self, model: Mapping[str, tuple[int, ...]], frozen: Collection[str] = ()) -> None:
        """Refuse a model whose trainable tensors are not the plan's.

        Args:
            frozen: tensors that the model has and nobody trains; a plan may know them.

        Raises:
            PlanError: with the names that differ.
        """
        require(PlanError, "model", model, Mapping, "Pass shapes by name, as `Plan.model` is.")
        if dict(self.model) == dict(model):
            return
        missing = [n for n in self.model if n not in model and (n not in frozen or n in self.tensors)]
        extra = [n for n in model if n not in self.model]
        reshaped = [
            f"{n} {tuple(self.model[n])} -> {tuple(model[n])}"
            for n in self.model
            if n in model and tuple(self.model[n]) != tuple(model[n])
        ]
        if not (missing or extra or reshaped):
            return
        parts = []
        if missing:
            parts.append(f"the plan names {listing(missing)}, which the model lacks")
        if extra:
            parts.append(f"the model has {listing(extra)}, which the plan does not know")
        if reshaped:
            parts.append(f"shapes differ: {listing(reshaped)}")
        raise PlanError(
            f"This plan was made for another model (task {self.task!r}): {'; '.join(parts)}. "
            "Make a plan for this model, or use the model it was made for."
        )

    # ---------------------------------------------------------------- PyTorch

    def apply(self, model: nn.Module) -> AppliedPlan:
        """Have the plan's channels of `model` learn, and nothing else, in any training loop of PyTorch.

        Plain loops, Hugging Face's Trainer and Lightning need no more: an optimizer of all parameters skips
        those that are frozen, and sees of a partly trained one its channels alone, so that neither weight
        decay nor momentum moves the others. Batch norm and dropout are as the plan has them, also after
        `model.train()`. Make the optimizer afterwards. Parameters that a loop replaces or shards (FSDP,
        DeepSpeed), and optimizers that are no `torch.optim.Optimizer`, are not reached.

        Returns:
            What ends it: `undo()`, or the end of a `with` block.

        Raises:
            PlanError: `model` is not the plan's, or a plan is applied to it already.
        """
        # By name: this package is without torch, and this is the one method that has to have it.
        return importlib.import_module("pockgraph.eager.applied_plan").AppliedPlan(self, model)

    # ---------------------------------------------------------------- showing

    def __repr__(self) -> str:
        parts = sum(t.channels is not None for t in self.tensors.values())
        trained = f"{len(self.tensors)} of {len(self.model)} tensors trained" + f", {parts} in part" * (
            parts > 0
        )
        peak = self.predicted.get("peak_bytes")
        return f"Plan({self.task!r}, {trained}{'' if peak is None else f', peak {size_text(peak)}'})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = [(fqn, "×".join(map(str, self.model[fqn])), percent(self.ratio(fqn))) for fqn in self.tensors]
        shares = [self.ratio(fqn) for fqn in self.model]
        return summary(
            repr(self), ("tensor", "shape", "trained"), rows, shares, "trained share, input to output"
        )

    # ---------------------------------------------------------------- files

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "plan") -> Plan:
        """Parse and validate.

        Raises:
            PlanError: not JSON, or not a plan; every violated rule with its place.
        """
        require(PlanError, where, text, str, "Pass the text of a plan file.")
        try:
            data = parse_json(text)
        except ValueError as e:
            raise PlanError(
                f"{where} is not JSON ({reason(e)}). Write it again, with pockui search --out or Plan.save, "
                "or copy it anew."
            ) from None
        if isinstance(data, dict) and data.get("schema") != SCHEMA:
            raise PlanError(f"{where} has schema {data.get('schema')!r}; this version reads {SCHEMA!r}.")
        try:
            return cls.model_validate_json(text)
        except ValidationError as e:
            raise PlanError(f"{where} is not a valid plan: {violations(e, 'plan')}.") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; a killed write leaves the old file.

        Raises:
            PlanError: the file cannot be written, or is there and no JSON; an old one is as it was.
        """
        target = as_path(path, PlanError)
        require_kind(target, "plan", begins_with(b"{"), PlanError)
        try:
            write_atomically(target, self.to_json().encode())
        except (OSError, ValueError) as e:
            raise PlanError(
                f"Cannot write the plan {path}: {reason(e)}. Choose another place, or make room there."
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], graph: PlannableGraph | None = None) -> Plan:
        """Read a plan file, and refuse it when `graph` is another model's.

        Raises:
            PlanError: unreadable, invalid, or made for another model.
        """
        if graph is not None:
            require_graph(graph)
        source = as_path(path, PlanError)
        try:
            text = read_text(source, MAX_BYTES)
        except (OSError, ValueError) as e:
            raise PlanError(f"Cannot read the plan {path}: {reason(e)}. Check the path.") from None
        plan = cls.from_json(text, where=str(path))
        if graph is not None:
            plan.check_fits({tensor.fqn: tensor.shape for tensor in graph.tensors}, graph.frozen)
        return plan


def json_schema() -> dict[str, Any]:
    """The JSON Schema of plan files; `docs/plan.schema.json` holds a copy."""
    return Plan.model_json_schema(by_alias=True)
