"""Which bytes of a graph are alive when.

Three memory figures are kept apart everywhere:

- *saved*: activations that cross from the forward into the backward pass,
- *extra*: saved activations and optimizer state, what is kept only because the network trains,
- *modelled peak*: everything alive at the worst moment of the actual schedule, weights included.

The rules of the model are in `liveness.py`. A measured peak is another thing again, see
`pockgraph.measure`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ..ir.graph import Graph, Role, output_args, value_bytes
from ..ir.operator_kinds import is_elementwise, storage_of
from .liveness import Step, liveness, schedule_of


@dataclass(frozen=True)
class Timeline:
    """Bytes alive over one run of a graph's schedule.

    Attributes:
        names: the node of each step.
        live_bytes: everything alive while that node runs, resident memory included.
        resident_bytes: inputs, weights, buffers and optimizer state: alive all the time.
        saved_bytes: activations alive at the end of the forward pass.
        state_bytes: optimizer state.
    """

    names: tuple[str, ...]
    live_bytes: tuple[int, ...]
    resident_bytes: int
    saved_bytes: int
    state_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The modelled peak."""
        return max(self.live_bytes, default=self.resident_bytes)

    @property
    def extra_bytes(self) -> int:
        return self.saved_bytes + self.state_bytes


def steps_of(graph: Graph) -> tuple[list[fx.Node], list[Step]]:
    """The operator nodes of a graph in schedule order, and what each means for memory."""
    nodes = [n for n in graph.fx.nodes if n.op == "call_function"]
    number = {n: i for i, n in enumerate(nodes)}
    steps = []
    for node in nodes:
        storage = storage_of(node)
        operands = {number[s] for a in node.all_input_nodes if (s := storage_of(a)) in number}
        owns = (
            value_bytes(node.meta["val"])
            if storage is node and isinstance(node.meta["val"], torch.Tensor)
            else 0
        )
        steps.append(
            Step(
                name=node.name,
                # A view of an input owns nothing and keeps nothing alive.
                storage=number.get(storage, number[node]),
                owns_bytes=owns,
                operands=tuple(sorted(operands)),
                elementwise=is_elementwise(node),
                forward=node.meta["phase"] == "forward",
            )
        )
    return nodes, steps


def timeline(graph: Graph) -> Timeline:
    """Liveness over the actual schedule, by the rules of `liveness.py`."""
    nodes, steps = steps_of(graph)
    number = {n: i for i, n in enumerate(nodes)}
    results = zip(output_args(graph.fx), graph.outputs)
    kept = {number[storage_of(n)] for n, s in results if s.role in (Role.LOSS, Role.METRIC, Role.PREDICTION)}
    curve = liveness(schedule_of(steps), kept)
    resident = sum(s.nbytes for s in graph.inputs)
    state = sum(s.nbytes for s in graph.inputs if s.role is Role.OPT_STATE)
    return Timeline(
        tuple(s.name for s in steps),
        tuple((curve.live_bytes + resident).tolist()),
        resident,
        curve.saved_bytes,
        state,
    )
