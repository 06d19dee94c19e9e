"""TrainGraph -> Profile: reduce the whole training graph to the numbers planning needs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..cost.flops import node_flops
from ..cost.graph_memory import steps_of
from ..cost.liveness import Step
from ..ir.graph import Graph, Role, aten, output_args, tensor_bytes, value_bytes
from ..ir.operator_kinds import VIEWS, storage_of
from ..ir.reachability import ancestors, served_outputs
from ..optimizer import Optimizer
from ..optimizer.updates import scalar_state, tensor_state
from ..passes.optimize.keep_clamp_masks import BOUNDS, compared, kept_for
from ..plan import Trained, presets
from ..plan.tensor_info import TensorInfo
from ..recurrent.operators import BACKWARD
from ..train_graph import TrainGraph
from ..train_graph.channel_slicing import Along, moves
from ..train_graph.prune import assemble
from .operator_cost import Amounts
from .profile import SCALAR_BYTES, WORK_KINDS, Operator, Profile

MATRIX = (aten.convolution.default, aten.convolution_backward.default, aten.mm.default, aten.addmm.default,
          aten.bmm.default, *BACKWARD)  # fmt: skip
GROUPS_ARGUMENT: dict[Any, int] = {aten.convolution.default: 8, aten.convolution_backward.default: 9}


def profile_of(graph: TrainGraph) -> Profile:
    """The profile of a task's training graph; every plan of it can then be costed without torch."""
    full = graph.plan.model_copy(update={"tensors": {r.fqn: Trained() for r in graph.tensors}})
    raw = assemble(graph.gradients, graph.optimizer, full)
    nodes, steps = steps_of(raw)
    number = {n: i for i, n in enumerate(nodes)}
    position_of = {r.fqn: i for i, r in enumerate(graph.tensors)}
    serves = _serves(raw, position_of)
    needed = set[fx.Node]()
    for slot, node in zip(raw.outputs, output_args(raw.fx)):
        if slot.role in (Role.LOSS, Role.NEW_BUFFER):
            needed |= ancestors(node)
    weights = {
        node: position_of[s.fqn] for s, node in zip(raw.inputs, raw.placeholders.values()) if s.trained
    }

    operators = []
    for i, (node, step) in enumerate(zip(nodes, steps)):
        y, val = compared(node), node.meta["val"]
        reads = {weights[s] for a in node.all_input_nodes if (s := storage_of(a)) in weights}
        kind, work = _work(node, serves[node])
        fixed_bytes, fixed_flops, fixed_work = (0, 0, 0)
        if node.meta["phase"] == "update":
            fixed_bytes, fixed_flops, fixed_work = step.owns_bytes, node_flops(node), work
            if serves[node].bit_count() == 1:
                tensor = graph.tensors[serves[node].bit_length() - 1]
                fixed_bytes, fixed_flops, fixed_work = _fixed(
                    node, step.owns_bytes, tensor, tensor.channel_dim
                )
        adds = node.meta.get("adds_norm_of")
        operators.append(
            Operator(
                name=node.name,
                storage=step.storage,
                bytes=step.owns_bytes,
                size_bytes=value_bytes(val),
                flops=node_flops(node),
                operands=step.operands,
                inputs=tuple(sorted({number[a] for a in node.all_input_nodes if a in number})),
                serves=serves[node],
                forward=step.forward,
                needed=node in needed,
                elementwise=step.elementwise,
                kind=kind,
                work=work,
                compared=-1 if y is None else number[y],
                bounds=0 if y is None else BOUNDS[node.target],
                kept_for=() if y is None else tuple(sorted(number[n] for n in kept_for(y))),
                reads=() if node.meta["phase"] == "update" else tuple(sorted(reads)),
                fixed_bytes=fixed_bytes,
                fixed_flops=fixed_flops,
                fixed_work=fixed_work,
                adds_norm_of=-1 if adds is None else position_of[adds],
                item_bytes=val.dtype.itemsize if isinstance(val, torch.Tensor) else SCALAR_BYTES,
                op=_op_name(node),
                layer=node.meta["layer"],
                update=node.meta["phase"] == "update",
            )
        )
        assert number[node] == i

    gradient = _gradient_nodes(graph, number)
    first, roots, order = [], [], []
    move_tables, other_tables = [], []
    path_weights, state, other_state = [], [], []
    for i, tensor in enumerate(graph.tensors):
        placeholder = next(p for p, r in weights.items() if r == i)
        users = [u for u in placeholder.users if u in number]
        first.append(min(number[u] for u in users))
        roots.append(number[gradient[tensor.fqn]])
        has_channels = tensor.channel_dim is not None
        order.append(_by_norm(graph, tensor) if has_channels else ())
        found = {
            d: _moves(gradient[tensor.fqn], d, placeholder, number, weights) for d in range(len(tensor.shape))
        }
        by_dim = {d: table for d, (table, _) in found.items()}
        path_weights.append({d: read for d, (_, read) in found.items() if read})
        move_tables.append(by_dim.pop(tensor.channel_dim) if tensor.channel_dim is not None else {})
        other_tables.append({d: table for d, table in by_dim.items() if table})
        state.append(_state_bytes(graph.optimizer, tensor, tensor.channel_dim))
        along = {d: _state_bytes(graph.optimizer, tensor, d) for d in range(len(tensor.shape))}
        other_state.append({d: amounts for d, amounts in along.items() if amounts != state[-1]})

    late_only = []
    resident = 0
    for slot, node in zip(raw.inputs, raw.placeholders.values()):
        if slot.role is Role.OPT_STATE:
            continue
        readers = tuple(number[u] for u in node.users if u in number)
        if slot.role in (Role.CONST, Role.BUFFER) and not any(operators[r].needed for r in readers):
            late_only.append((slot.nbytes, readers))
        else:
            resident += slot.nbytes
    made = {"preset": presets.preset(graph), "head": presets.head(graph)}
    return Profile(
        task=graph.name,
        batch=dict(graph.plan.batch),
        optimizer=graph.optimizer.to_dict(),
        tensors=graph.tensors,
        channel_order=tuple(order),
        operators=tuple(operators),
        moves=tuple(move_tables),
        other_moves=tuple(other_tables),
        first_reader=tuple(first),
        roots=tuple(roots),
        resident_bytes=resident,
        backward_constants=tuple(late_only),
        state_bytes=tuple(state),
        path_weights=tuple(path_weights),
        other_state=tuple(other_state),
        other_fixed=_other_fixed(operators, nodes, steps, graph.tensors),
        scalar_bytes=SCALAR_BYTES * len(scalar_state(graph.optimizer)),
        batch_norm=graph.plan.batch_norm,
        dropout=graph.plan.dropout,
        loss=number[raw.results["loss"]],
        head=tuple(presets.head(graph)),
        presets=made,
    )


def _serves(raw: Graph, position_of: dict[str, int]) -> dict[fx.Node, int]:
    """Node -> bit set of the tensors whose update needs it."""
    # A tensor's part in the norm of all gradients exists for that tensor, whomever the norm scales.
    names = [s.fqn for s in raw.outputs]
    only = {n: 1 << names.index(n.meta["norm_of"]) for n in raw.nodes("update") if "norm_of" in n.meta}
    by_output = served_outputs(raw, only)
    everything = (1 << len(position_of)) - 1
    bits = [1 << position_of[s.fqn] if s.fqn in position_of else everything for s in raw.outputs]
    for i, slot in enumerate(raw.outputs):
        if slot.role in (Role.LOSS, Role.NEW_BUFFER):  # nobody's update
            bits[i] = 0
    out = {}
    for node, need in by_output.items():
        served, rest = 0, need
        while rest:
            low = rest & -rest
            served |= bits[low.bit_length() - 1]
            rest ^= low
        out[node] = served
    return out


def _state_bytes(optimizer: Optimizer, tensor: TensorInfo, dim: int | None) -> tuple[int, int]:
    """Bytes of a tensor's optimizer state: what stays, and what shrinks with its trained part along `dim`."""
    amounts = [0, 0]
    for shape in tensor_state(optimizer, tensor.shape).values():
        amounts[_shrinks(shape, tensor, dim)] += tensor_bytes(shape, torch.float32)
    return amounts[0], amounts[1]


def _shrinks(shape: tuple[int, ...], tensor: TensorInfo, dim: int | None) -> bool:
    """Has a value of an update with this shape the trained part of its tensor along `dim` only?"""
    if dim is None:
        return shape == tensor.shape
    return len(shape) == len(tensor.shape) and shape[dim] == tensor.shape[dim]


def _fixed(node: fx.Node, owns_bytes: int, tensor: TensorInfo, dim: int | None) -> Amounts:
    """What of a tensor's update does not shrink with its trained part along `dim`."""
    fixed = lambda n: not _shrinks(tuple(n.meta["val"].shape), tensor, dim)  # noqa: E731
    moved = sum(value_bytes(n.meta["val"]) for n in (node, *node.all_input_nodes) if fixed(n))
    whole = all(fixed(n) for n in (node, *node.all_input_nodes))
    return owns_bytes if fixed(node) else 0, node_flops(node) if whole else 0, moved


def _other_fixed(
    operators: Sequence[Operator],
    nodes: Sequence[fx.Node],
    steps: Sequence[Step],
    tensors: Sequence[TensorInfo],
) -> tuple[dict[int, dict[int, Amounts]], ...]:
    """`Profile.other_fixed`."""
    tables: tuple[dict[int, dict[int, Amounts]], ...] = tuple({} for _ in tensors)
    for n, (o, node, step) in enumerate(zip(operators, nodes, steps)):
        if node.meta["phase"] == "update" and o.serves.bit_count() == 1:
            i = o.serves.bit_length() - 1
            for d in range(len(tensors[i].shape)):
                fixed = _fixed(node, step.owns_bytes, tensors[i], d)
                if d != tensors[i].channel_dim and fixed != o.fixed:
                    tables[i].setdefault(d, {})[n] = fixed
    return tables


def _op_name(node: fx.Node) -> str:
    """`convolution` of `aten.convolution.default`."""
    target: Any = node.target
    return target.__name__.partition(".")[0]


def _work(node: fx.Node, serves: int) -> tuple[int, int]:
    if node.meta["phase"] == "forward":
        return 0, node_flops(node)
    if node.target in MATRIX:
        own = serves & (serves - 1) == 0
        groups = GROUPS_ARGUMENT.get(node.target)
        grouped = groups is not None and node.args[groups] != 1
        kind = ("dw_" if own else "dx_") + ("depthwise" if grouped else "matrix")
        return WORK_KINDS.index(kind), node_flops(node)
    if node.target in VIEWS:
        return WORK_KINDS.index("stream"), 0
    moved = value_bytes(node.meta["val"]) + sum(value_bytes(a.meta["val"]) for a in node.all_input_nodes)
    return WORK_KINDS.index("stream"), 0 if node.target is operator.getitem else moved


def _gradient_nodes(graph: TrainGraph, number: dict[fx.Node, int]) -> dict[str, fx.Node]:
    """FQN -> the raw graph's node that makes its gradient (copies keep their names)."""
    by_name = {n.name: n for n in number}
    outputs = zip(graph.gradients.outputs, output_args(graph.gradients.fx))
    return {s.fqn: by_name[n.name] for s, n in outputs if s.role is Role.GRAD}


def _moves(
    root: fx.Node, dim: int, weight: fx.Node, number: dict[fx.Node, int], weights: dict[fx.Node, int]
) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    """Where a selection of channels could move from `root`, were every node on the way its own.

    Returns:
        The tables of `Profile.moves` and of `Profile.path_weights`.
    """
    table: dict[int, tuple[int, ...]] = {}
    read: dict[int, tuple[int, ...]] = {}

    def code(operand: fx.Node, d: Along) -> int:
        if operand in number:
            return number[operand]
        return -1 if operand is weight and d == dim else -1 - value_bytes(operand.meta["val"])

    def visit(node: fx.Node, d: Along) -> None:
        moved = moves(node, d, 1) if node in number else None
        if moved is None or number[node] in table:
            return
        inner: Any = node.args[0] if node.target is operator.getitem else node
        to, changed = moved
        operands = {inner.args[k]: at for k, at in to.items()}
        table[number[inner]] = tuple(code(a, at) for a, at in operands.items())
        selected = [weights[a] for a, at in operands.items() if a in weights and code(a, at) < -1]
        rest = {
            a for k, a in enumerate(inner.args) if isinstance(a, fx.Node) and k not in to.keys() | changed
        }
        whole = sorted({-1 - weights[s] for a in rest if (s := storage_of(a)) in weights})
        if selected or whole:
            read[number[inner]] = (*selected, *whole)
        if inner is not node:
            table[number[node]] = (number[inner],)
        for a, at in operands.items():
            visit(a, at)

    visit(root, dim)
    return table, read


def _by_norm(graph: TrainGraph, tensor: Any) -> tuple[int, ...]:
    """Channels by falling L2 norm: the order in which a growing ratio takes them."""
    weight: torch.Tensor = graph.initial(tensor.fqn).detach().transpose(0, tensor.channel_dim)
    weight = weight.reshape(len(weight), -1)
    return tuple(torch.argsort(-weight.norm(dim=1), stable=True).tolist())
