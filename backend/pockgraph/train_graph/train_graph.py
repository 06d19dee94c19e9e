"""TrainGraph: forward, backward and update of a task as one graph, and what each tensor costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ..cost.flops import node_flops
from ..cost.graph_memory import Timeline, timeline
from ..errors import PlanError, TaskError, require, suggest
from ..ir.graph import Graph, Role, Slot, aten, value_bytes
from ..ir.operator_kinds import storage_of
from ..ir.reachability import served_outputs
from ..optimizer import Optimizer, check_groups, optimizer_from_dict
from ..plan import Plan
from ..plan.plannable import check_trainable
from ..plan.tensor_info import TensorInfo, block_of
from ..recurrent.operators import WEIGHTS
from .predictions import Prediction
from .prune import prune, specialise

if TYPE_CHECKING:
    from ..task import Task
    from .target_check import Check


@dataclass(frozen=True, eq=False)
class TrainGraph(Graph):
    """A training step: inputs are the batch, `lr` and state; outputs the loss and the next state.

    Made by `pockgraph.build` with every parameter trainable; `prune` derives the smaller graph of a
    plan from it. The weights are views of the model's, nothing is copied.

    Attributes:
        name: the task's name.
        task: what it was built from: the module and the batch that a compiled step is compared with.
        gradients: loss and one gradient per tensor, from which every plan's graph is derived.
        metric: the forward graph of the task's metric.
        optimizer: whose update the graph holds.
        plan: what this graph trains.
        unused: tensors the loss does not depend on; they cannot be trained.
        aliases: other names of tied tensors -> the name used here.
        frozen: tensors that the user froze, with requires_grad=False; no plan trains them.
        reference: `module:name` that makes the task again, or empty.
        predictions: the forward graphs of what the task predicts, one for each batch size.
    """

    name: str
    task: Task
    gradients: Graph
    metric: Graph
    optimizer: Optimizer
    plan: Plan
    tensors: tuple[TensorInfo, ...]
    unused: tuple[str, ...] = ()
    aliases: dict[str, str] | None = None
    frozen: tuple[str, ...] = ()
    reference: str = ""
    predictions: tuple[Prediction, ...] = ()

    # ------------------------------------------------------------------ plans

    def prune(self, plan: Plan) -> TrainGraph:
        """The training graph of `plan`: smaller, and exact.

        Raises:
            PlanError: the plan is another model's, names no tensor, or one that cannot be trained.
            TaskError: a group of the optimizer's matches no tensor.
        """
        require(PlanError, "plan", plan, Plan, "Pass a Plan, such as Plan.preset(graph) or Plan.load(path).")
        check_groups(self.optimizer, [tensor.fqn for tensor in self.tensors])
        check_trainable(self, list(plan.tensors))
        plan.check_fits({tensor.fqn: tensor.shape for tensor in self.tensors}, self.frozen)
        if not plan.tensors:
            raise PlanError(
                "The plan trains nothing. Name at least one tensor, for example with Plan.head(graph)."
            )
        for name in ("batch_norm", "dropout"):
            mine, asked = getattr(self.plan, name), getattr(plan, name)
            if mine != asked:
                raise PlanError(
                    f"The plan was made for {name}={asked!r}, this graph was built with {name}={mine!r}. "
                    f"Build it from a Task with {name}={asked!r}, or make the plan from this graph."
                )
        if _rule(self.optimizer) != _rule(optimizer_from_dict(plan.optimizer)):
            # A plan says what to train, whichever optimizer it was made with; its figures are that one's.
            changes = {"optimizer": self.optimizer.to_dict(), "predicted": {}, "measured": {}}
            plan = plan.model_copy(update=changes)
        graph = prune(self.gradients, self.optimizer, plan)
        return replace(
            self, fx=graph.fx, inputs=graph.inputs, outputs=graph.outputs, values=graph.values, plan=plan
        )

    def evaluation(self) -> Graph:
        """The metric's forward graph, reading this plan's trained tensors (or their average) as state."""
        return specialise(self.metric, self.plan, averaged=self.optimizer.ema_decay is not None)

    def prediction_graphs(self) -> tuple[Prediction, ...]:
        """The predictions, reading this plan's trained tensors (or their average) as state."""
        averaged = self.optimizer.ema_decay is not None
        return tuple(
            replace(p, graph=specialise(p.graph, self.plan, averaged=averaged)) for p in self.predictions
        )

    def without_predictions(self) -> TrainGraph:
        """The same step, of which no prediction is compiled: for measurements."""
        return replace(self, predictions=())

    def check(self, target: str) -> Check:
        """Every operator of this plan that `target` lacks, and the nearest plan that compiles.

        Raises:
            PockError: there is no such target.
        """
        from ..targets import get_target
        from .target_check import check

        return check(self, get_target(target))

    def tensor(self, fqn: str) -> TensorInfo:
        """What is known of a trainable tensor.

        Raises:
            PlanError: there is none of that name (with suggestions).
        """
        for tensor in self.tensors:
            if tensor.fqn == fqn:
                return tensor
        raise PlanError(
            f"The model has no trainable tensor {fqn!r}.{suggest(fqn, [r.fqn for r in self.tensors])}"
        )

    def initial(self, fqn: str) -> torch.Tensor:
        """A parameter's value when the graph was built.

        Raises:
            PlanError: there is no trainable tensor of that name (with suggestions).
        """
        self.tensor(fqn)
        return self.gradients.values[f"param:{fqn}"]

    @property
    def batch_slots(self) -> tuple[Slot, ...]:
        return tuple(s for s in self.inputs if s.role is Role.BATCH)

    # ------------------------------------------------------------------ figures

    @cached_property
    def timeline(self) -> Timeline:
        """Bytes alive over the schedule."""
        return timeline(self)

    @property
    def peak_bytes(self) -> int:
        """Modelled peak: all that is alive at the worst moment of the schedule, weights included.

        Not what a process measures: no allocator, no runtime, no packed weights.
        """
        return self.timeline.peak_bytes

    @property
    def extra_bytes(self) -> int:
        """What is kept only because the network trains: saved activations and optimizer state.

        Smaller than the peak: weights, and values that live for a moment, are not in it.
        """
        return self.timeline.extra_bytes

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of one step (a multiply-add counts two)."""
        return sum(node_flops(n) for n in self.nodes())

    def phase_flops(self) -> dict[str, int]:
        """FLOPs of the forward, backward and update phases."""
        out: dict[str, int] = dict.fromkeys(("forward", "backward", "update"), 0)
        for node in self.nodes():
            out[node.meta["phase"]] += node_flops(node)
        return out

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the model (names and shapes), the batch and the optimizer's kind: 16 hex digits."""
        model = {tensor.fqn: tensor.shape for tensor in self.tensors}
        batch = {s.fqn: (s.shape, s.dtype) for s in self.batch_slots}
        policies = {"batch_norm": self.plan.batch_norm, "dropout": self.plan.dropout}
        changed = [policies] if policies != {"batch_norm": "frozen", "dropout": False} else []
        text = json.dumps([self.name, model, batch, *changed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        trained = f"{len(self.plan.tensors)} of {len(self.tensors)} tensors trained"
        return (f"TrainGraph({self.name!r}, {trained}, {len(list(self.nodes()))} nodes, "
                f"peak {self.peak_bytes / 1e6:.1f} MB, {self.flops / 1e9:.2f} GFLOP)")  # fmt: skip


# ---------------------------------------------------------------------- tensors


def tensor_infos(gradients: Graph) -> tuple[TensorInfo, ...]:
    """Every tensor that has a gradient, and its costs, in the order of the forward pass."""
    needs = served_outputs(gradients)
    order = {node: i for i, node in enumerate(gradients.fx.nodes)}
    placeholders = gradients.placeholders
    own_flops: dict[int, int] = {}
    own_saved: dict[int, dict[fx.Node, int]] = {}
    shared_flops: dict[str, int] = {}
    for node in gradients.nodes("backward"):
        if needs[node].bit_count() == 1:
            bit = needs[node]
            own_flops[bit] = own_flops.get(bit, 0) + node_flops(node)
            for operand in node.all_input_nodes:
                storage = storage_of(operand)
                if storage.op == "call_function" and storage.meta["phase"] == "forward":
                    own_saved.setdefault(bit, {})[storage] = value_bytes(storage.meta["val"])
        else:
            layer = node.meta["layer"]
            shared_flops[layer] = shared_flops.get(layer, 0) + node_flops(node)
    tensors = []
    for i, slot in enumerate(gradients.outputs):
        if slot.role is not Role.GRAD:
            continue
        node = placeholders[f"param:{slot.fqn}"]
        readers = [order[u] for u in node.users if u.op == "call_function" and u.meta["phase"] == "forward"]
        layer = slot.fqn.rpartition(".")[0]
        tensors.append(
            TensorInfo(
                fqn=slot.fqn, kind=_kind(slot), shape=slot.shape, layer=layer, block=block_of(layer),
                channel_dim=_channel_dim(node), flops=own_flops.get(1 << i, 0) + 2 * node.meta["val"].numel(),
                dx_flops=shared_flops.get(layer, 0), saved_bytes=sum(own_saved.get(1 << i, {}).values()),
                depth=min(readers, default=0),
            )
        )  # fmt: skip
    return tuple(sorted(tensors, key=lambda r: r.depth))


def _kind(slot: Slot) -> str:
    if len(slot.shape) > 1:
        return "weight"
    return "bias" if slot.fqn.rpartition(".")[2].endswith(("bias", "beta")) else "norm"


def _channel_dim(weight: fx.Node) -> int | None:
    """The dimension of a weight that runs over its input channels, from how it is used.

    A vector (a norm's scale or shift, a bias) has an element for each channel.
    """
    if weight.meta["val"].ndim == 1:
        return 0 if weight.meta["val"].numel() > 1 else None
    dims = {_use(weight, u, tuple(range(weight.meta["val"].ndim))) for u in _forward_users(weight)}
    return dims.pop() if len(dims) == 1 else None


def _forward_users(node: fx.Node) -> Iterator[fx.Node]:
    return (u for u in node.users if u.op == "call_function" and u.meta["phase"] == "forward")


def _use(operand: fx.Node, user: fx.Node, dims: tuple[int, ...]) -> int | None:
    """`dims[d]`: the weight's dimension that `operand`'s dimension d came from."""
    args: Any = user.args
    if user.target is aten.permute.default:
        inner = {_use(user, u, tuple(dims[d] for d in args[1])) for u in _forward_users(user)}
        return inner.pop() if len(inner) == 1 else None
    if user.target is aten.convolution.default and args[1] is operand:
        per_group = operand.meta["val"].shape[1]
        if args[6]:
            return dims[0]
        return dims[1] if per_group > 1 or args[8] == 1 else dims[0]
    if user.target in (aten.mm.default, aten.addmm.default, aten.bmm.default) and args[-1] is operand:
        return dims[-2]
    if user.target in WEIGHTS and any(args[i] is operand for i in WEIGHTS[user.target]):
        return dims[1]
    if user.target is aten.embedding.default and args[0] is operand:
        return dims[0]
    return None


def _rule(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer but for its learning rate, which every step sets."""
    return {k: v for k, v in optimizer.to_dict().items() if k != "lr"}


def no_parameters(name: str) -> TaskError:
    return TaskError(f"Task {name!r}: the loss depends on no parameter; nothing can be trained.")
