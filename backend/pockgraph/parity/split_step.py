"""A training graph in its two parts: what computes loss, gradients and buffers, and what updates with them.

The first is run in float32, in float64, or in float32 with every operator's result a few last bits off, which
is what another correct program may compute (Monte Carlo arithmetic: Parker, UCLA 1997). The second is small,
and run again and again to see what a gradient's rounding does to weights and optimizer states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir.graph import Role, Slot, aten, output_args
from ..optimizer.base import ACCUMULATED, MICRO_STEP
from ..prng import step_keys
from ..task.batch import Batch
from ..train_graph import TrainGraph
from .eager_reference import in_double, raised
from .rounding import typical

# How far off a perturbed operator's result is, in machine epsilons, at most.
PERTURBATION_EPS = 4.0
POOL = 1 << 18
# Gradients that are made up are at least this share of the whole model's.
LEAST_SIZE = 1e-2
NO_SIZE = 1e-15  # of gradients whose squares leave float32: as good as none
WARM_LR = 1e-2
# Adafactor clips an update that is larger than its states let expect: times these it does not, and does.
FACTORS = ("variance", "row_var", "col_var")
FACTORED = (16.0, 0.0625)
# Their results are (parts of) an operand's: nothing is rounded.
EXACT = {
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.permute.default, aten.t.default,
    aten.transpose.int, aten.expand.default, aten.clone.default, aten.detach.default, aten.slice.Tensor,
    aten.select.int, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.cat.default,
    aten.index_select.default, aten.masked_fill.Scalar, aten.neg.default, aten.floor.default,
    aten.alias.default, aten.where.self, aten.split.Tensor, aten.split_with_sizes.default,
}  # fmt: skip


@dataclass(frozen=True)
class GradientRun:
    """One run of the part that computes loss, gradients and buffers.

    Attributes:
        loss: a number.
        gradients: FQN -> gradient of what the plan trains.
        buffers: output slot name -> next value.
        update_inputs: by the node that computes it, what the update reads.
    """

    loss: float
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    update_inputs: dict[str, Tensor]


class SplitStep:
    """A plan's training graph, to be run in parts on one batch.

    Args:
        graph: with the plan's gradients marked, as `prune` does.
        batch: what a batch holds, by name.
        seed: of dropout's masks.

    Attributes:
        gradient_nodes: FQN -> name of the node that holds its gradient.
    """

    def __init__(self, graph: TrainGraph, batch: Batch, seed: int) -> None:
        self._graph = graph
        updates = set(graph.nodes("update"))
        read = {a for n in updates for a in n.all_input_nodes if a not in updates}
        update_inputs = [n for n in graph.fx.nodes if n in read and n.op == "call_function"]
        marked = [n for n in graph.fx.nodes if "gradient_of" in n.meta]
        self.gradient_nodes = {fqn: n.name for n in marked for fqn in n.meta["gradient_of"]}
        self._read_names = [n.name for n in dict.fromkeys([*update_inputs, *marked])]
        self._gradient_graph, self._varying = self._make_gradient_graph(
            list(dict.fromkeys([*update_inputs, *marked])), updates
        )
        self._update_graph = self._make_update_graph(update_inputs, updates)
        self._update_parts: dict[frozenset[str], fx.Graph] = {}
        self._update_input_names = [n.name for n in update_inputs]
        self._batch, self._keys = batch, torch.from_numpy(step_keys(seed, 0))

    def _make_gradient_graph(
        self, update_inputs: list[fx.Node], updates: set[fx.Node]
    ) -> tuple[fx.Graph, set[str]]:
        new, copied = fx.Graph(), {}
        new.graph_copy(self._graph.fx, copied)
        results = zip(self._graph.outputs, output_args(self._graph.fx))
        self._kept = [
            (s, n) for s, n in results if n not in updates and s.role in (Role.LOSS, Role.NEW_BUFFER)
        ]
        new.output(tuple(copied[n] for n in [*(n for _, n in self._kept), *update_inputs]))
        new.eliminate_dead_code()
        real = [
            copied[node] for slot, node in self._named_inputs() if slot.role is Role.PARAM or (
                slot.role is Role.BATCH and slot.dtype.startswith(("float", "bfloat")))
        ]  # fmt: skip
        varying = set(real)
        for node in new.nodes:
            if any(a in varying for a in node.all_input_nodes):
                varying.add(node)
        return new, {n.name for n in varying if n.op == "call_function" and n.target not in EXACT}

    def _named_inputs(self) -> list[tuple[Any, fx.Node]]:
        nodes = [n for n in self._graph.fx.nodes if n.op == "placeholder"]
        return list(zip(self._graph.inputs, nodes, strict=True))

    def _make_update_graph(self, update_inputs: list[fx.Node], updates: set[fx.Node]) -> fx.Graph:
        new = fx.Graph()
        made = {node: new.placeholder(node.name) for _, node in self._named_inputs()}
        made |= {node: new.placeholder(f"cut_{node.name}") for node in update_inputs}
        for node in self._graph.fx.nodes:
            if node in updates:
                made[node] = new.node_copy(node, made.__getitem__)
        results = zip(self._graph.outputs, output_args(self._graph.fx))
        self._updated = [(s, n) for s, n in results if s.role in (Role.NEW_PARAM, Role.NEW_OPT_STATE)]
        new.output(tuple(made[n] for _, n in self._updated))
        return new

    def read_by(self, only: frozenset[str]) -> list[str]:
        """What these results of the update read, see `GradientRun.update_inputs`."""
        given = [n for n in self._update_part(only).nodes if n.op == "placeholder"][len(self._graph.inputs) :]
        return [name for name, n in zip(self._update_input_names, given, strict=True) if n.users]

    def _update_part(self, only: frozenset[str] | None) -> fx.Graph:
        """The second part, as far as it computes some of its results."""
        if only is None:
            return self._update_graph
        if only not in self._update_parts:
            new = fx.Graph()
            made: dict[fx.Node, fx.Node] = {}
            results = new.graph_copy(self._update_graph, made)
            assert isinstance(results, tuple)
            new.output(tuple(n for n, (s, _) in zip(results, self._updated) if s.name in only))
            new.eliminate_dead_code()
            self._update_parts[only] = new
        return self._update_parts[only]

    def run_gradients(
        self,
        double: bool = False,
        perturbation: int | None = None,
        eps: float | None = None,
        bits: float = PERTURBATION_EPS,
    ) -> GradientRun:
        """Loss, gradients and buffers.

        Args:
            double: compute in float64.
            perturbation: a seed: every operator's result is off by up to `bits` times `eps` of itself.
            eps: of the result's dtype unless given.
        """
        values = raised(self._graph.values) if double else self._graph.values
        batch = raised(self._batch) if double else self._batch
        with in_double() if double else contextlib.nullcontext():
            inputs = self._inputs(values, batch, torch.tensor(0.0))
            run = _PerturbedInterpreter(self._gradient_graph, self._varying, perturbation, eps, bits)
            with torch.no_grad():
                loss, *found = run.run(*inputs)
        buffers = {s.name: v for (s, _), v in zip(self._kept[1:], found)}
        update_inputs = dict(zip(self._read_names, found[len(buffers) :], strict=True))
        return GradientRun(
            float(loss),
            {fqn: update_inputs[n] for fqn, n in self.gradient_nodes.items()},
            buffers,
            update_inputs,
        )

    def update(
        self,
        update_inputs: Mapping[str, Tensor],
        lr: float,
        start: Mapping[str, Tensor] | None = None,
        only: frozenset[str] | None = None,
    ) -> dict[str, Tensor]:
        """Output slot name -> next value of each weight and optimizer state, given what the update reads.

        Args:
            update_inputs: see `GradientRun`, what is read of it; in float64, so is the result.
            start: input slot name -> value, instead of the graph's.
            only: names of the slots that are wanted; all unless given.
        """
        part = self._update_part(only)
        double = any(v.dtype == torch.float64 for v in update_inputs.values())
        read = [bool(n.users) for n in part.nodes if n.op == "placeholder"]
        given = zip(self._graph.inputs, read)
        values = {**self._graph.values, **(start or {})}
        values = {s.name: values[s.name] for s, needed in given if needed and s.name in values}
        values = raised(values) if double else values
        batch = raised(self._batch) if double else self._batch
        rate = torch.tensor(lr)  # as a device has it, in float32
        with torch.no_grad():
            inputs = self._inputs(values, batch, rate.double() if double else rate)
            outputs = fx.Interpreter(nn.Module(), graph=part).run(
                *inputs, *(update_inputs.get(name) for name in self._update_input_names)
            )
        names = [s.name for s, _ in self._updated if only is None or s.name in only]
        return dict(zip(names, outputs, strict=True))

    def run_of(
        self, loss: float, gradients: Mapping[str, Tensor], changed: Mapping[str, Tensor]
    ) -> GradientRun:
        """What the user's module computed, as if the graph had.

        Args:
            gradients, changed: by FQN, of what is trained and of buffers.
        """
        buffers = {s.name: changed[s.fqn] for s, _ in self._kept[1:]}
        return GradientRun(loss, dict(gradients), buffers, self.named(gradients))

    def named(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by FQN, as `GradientRun.update_inputs` has them."""
        return {node: gradients[fqn] for fqn, node in self.gradient_nodes.items()}

    def warm_states(self, gradients: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Optimizer states in the middle of training, of which each branch of the update is taken from one.

        Fresh states are zero, which hides whether they are read. With gradients that were made up, of the
        right size, no update divides rounding by rounding either.

        Returns:
            Input slot name -> value.
        """
        size = {fqn: float(g.double().square().mean().sqrt()) for fqn, g in gradients.items()}
        usual = typical(gradients)
        # A batch without gradients must not lead to states that a device flushes to zero.
        least = LEAST_SIZE * usual if usual > NO_SIZE else 1.0
        generator = torch.Generator().manual_seed(0)

        def made_up(fqn: str, like: Tensor) -> Tensor:
            drawn = torch.randn(like.shape, generator=generator).to(like.dtype)
            return drawn * max(size[fqn], least)

        def middle(start: dict[str, Tensor], micro_step: int) -> dict[str, Tensor]:
            for slot in slots:
                if slot.key == MICRO_STEP:
                    start[slot.name] = torch.tensor(float(micro_step))
                elif slot.key == ACCUMULATED:
                    start[slot.name] = made_up(slot.fqn, self._graph.values[slot.name])
            return start

        slots = [s for s in self._graph.inputs if s.role is Role.OPT_STATE]
        names = {replace(s, role=Role.NEW_OPT_STATE).name: s.name for s in slots}
        cycle = self._graph.optimizer.accumulate
        start = middle({s.name: self._graph.values[s.name] for s in slots}, cycle - 1)
        update_inputs = self.named({fqn: made_up(fqn, g) for fqn, g in gradients.items()})
        after = self.update(update_inputs, WARM_LR, start)
        start |= {names[name]: value for name, value in after.items() if name in names}
        starts = [middle(dict(start), cycle - 1)]
        if any(s.key in FACTORS for s in slots):
            starts = [_scaled(starts[0], slots, factor) for factor in FACTORED]
        return starts if cycle == 1 else [*starts, middle(dict(start), 0)]

    def _inputs(self, values: Mapping[str, Tensor], batch: Batch, lr: Tensor) -> list[Tensor | None]:
        """What each input slot is given; None for one that `values` lacks, since nothing reads it."""
        given = {
            Role.BATCH: lambda s: batch[s.fqn],
            Role.LR: lambda s: lr,
            Role.SEED: lambda s: self._keys,
        }
        return [given.get(s.role, lambda s: values.get(s.name))(s) for s in self._graph.inputs]


def _scaled(start: Mapping[str, Tensor], slots: Sequence[Slot], factor: float) -> dict[str, Tensor]:
    """The same states, Adafactor's second moments times `factor`."""
    scaled = {s.name for s in slots if s.key in FACTORS}
    return {name: value * factor if name in scaled else value for name, value in start.items()}


class _PerturbedInterpreter(fx.Interpreter):
    """Runs a graph, each result a few last bits off where that is asked for."""

    def __init__(
        self, graph: fx.Graph, varying: set[str], perturbation: int | None, eps: float | None, bits: float
    ) -> None:
        super().__init__(nn.Module(), graph=graph)
        self._varying, self._eps, self._bits = varying, eps, bits
        self._generator = None if perturbation is None else torch.Generator().manual_seed(perturbation)
        if self._generator is not None:
            self._pool = torch.rand(2 * POOL, generator=self._generator) * 2 - 1

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if self._generator is None or n.name not in self._varying:
            return result
        return tuple(map(self._off, result)) if isinstance(result, tuple | list) else self._off(result)

    def _off(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
            return value
        eps = self._bits * (self._eps or torch.finfo(value.dtype).eps)
        start = int(torch.randint(POOL, (), generator=self._generator))
        count = value.numel()
        drawn = self._pool[start : start + min(count, POOL)]
        drawn = drawn.repeat(-(-count // POOL))[:count] if count > POOL else drawn
        return torch.addcmul(value, value, drawn.view(value.shape).to(value.dtype), value=eps)
