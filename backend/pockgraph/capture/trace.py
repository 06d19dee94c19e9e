"""Trace: a task's loss, metric or prediction as a graph with named inputs and outputs."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..errors import PockError, TaskError
from ..ir.graph import Graph, Role, Slot, add_constant, dtype_name
from ..passes.batch_limits import unknown_lengths
from ..task import Task
from ..task.batch import Batch
from ..task.prediction import rebuilt_prediction
from .complex_numbers import complex_constant, lift_complex_numbers
from .in_place import plain_strides
from .model_checks import check_model
from .node_metadata import annotate, claim_gradients
from .refusals import HOLDS_ITSELF, PACKED_COMPUTED, explained, not_one_graph
from .shared_memory import refuse_shared_memory
from .traced_run import Captured
from .user_code import capture

FAKE = "torch._subclasses.fake_tensor"


@dataclass(frozen=True, eq=False)
class Trace:
    """A traced function of a task, with the names of what goes in.

    Attributes:
        graph: forward only (metric, prediction), or forward and gradients (loss): its outputs are the loss
            and one GRAD per parameter that the loss depends on.
        unused: FQNs of parameters that require gradients and that the loss does not depend on.
        aliases: other names of tied parameters -> the name used here.
        frozen: FQNs of parameters that the user froze, with requires_grad=False.
    """

    graph: Graph
    unused: tuple[str, ...]
    aliases: dict[str, str]
    frozen: tuple[str, ...] = ()


def trace_loss(task: Task) -> Trace:
    """The loss and the gradient of every parameter that requires one, as one graph.

    Raises:
        TaskError: the loss is not one floating-point number, or depends on no parameter.
        CaptureError: the model has no static graph; with the user's source line.
    """
    check_model(task)
    with _explained(task, "loss"):
        return _trace(task, capture(task, task.loss, "loss"), task.loss, "loss")


def trace_metric(task: Task) -> Trace:
    """The metric, one value per sample, as a forward graph.

    Raises:
        TaskError: the metric does not give one value per sample.
        CaptureError: the model has no static graph.
    """
    with _explained(task, "metric"):
        captured = capture(task, task.metric, "metric")
    value = captured.results[""]
    samples = {len(v) for v in task.example.values() if v.ndim}
    if value.ndim != 1 or len(value) not in samples:
        raise TaskError(
            f"Task {task.name!r}: the metric must give one value per sample (a tensor of shape "
            f"[{max(samples, default='N')}]), but `metric(model, batch)` gives shape {tuple(value.shape)}."
        )
    return _trace(task, captured, task.metric, "metric")


def trace_prediction(task: Task, batch: Batch) -> Trace:
    """What the task predicts, as a forward graph: an output for each of its tensors, named like them.

    Args:
        batch: as `predict` takes it.

    Raises:
        TaskError: `predict` gives neither a tensor nor a dict of named tensors.
        CaptureError: the model has no static graph.
    """
    with _explained(task, "prediction"):
        rebuild = functools.partial(rebuilt_prediction, task)
        captured = capture(task, task.predict, "prediction", batch, rebuild)  # pyright: ignore
        return _trace(task, captured, task.predict, "prediction", batch)


@contextmanager
def _explained(task: Task, what: str) -> Iterator[None]:
    """Whatever the user's code or tracing raises becomes one readable error."""
    log = logging.getLogger(FAKE)
    level = log.level
    log.setLevel(logging.CRITICAL)  # it writes the traceback of whatever it raises
    try:
        yield
    except PockError:
        raise
    except Exception as e:
        raise explained(task, what, e) from e
    finally:
        log.setLevel(level)


def _trace(task: Task, captured: Captured, function: Any, what: str, batch: Batch | None = None) -> Trace:
    graph = captured.module.graph
    loss = what == "loss"
    parameters = dict(task.model.named_parameters())
    changed = captured.changed if loss else {}
    slots: list[Slot] = []
    values: dict[str, torch.Tensor] = {}
    for fqn, tensor in captured.tensors.items():
        state = fqn not in parameters or fqn in changed
        shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
        role = Role.BUFFER if state else Role.PARAM
        slots.append(Slot(role, fqn, shape, dtype, changes=fqn in changed))
        values[slots[-1].name] = tensor.detach()
    example = task.example if batch is None else batch
    slots += [Slot(Role.BATCH, k, tuple(v.shape), dtype_name(v.dtype)) for k, v in example.items()]
    by_fqn = {s.fqn: s for s in slots if s.role is not Role.BATCH}
    outputs = [
        Slot(Role(what), name, () if loss else tuple(value.shape), dtype_name(value.dtype))
        for name, value in captured.results.items()
    ]
    outputs += [Slot(Role.GRAD, f, by_fqn[f].shape, by_fqn[f].dtype) for f in captured.trained]
    outputs += [Slot(Role.NEW_BUFFER, f, by_fqn[f].shape, by_fqn[f].dtype) for f in changed]
    _keep_outputs(graph, len(outputs))
    learning = {f: captured.tensors[f] for f in (*captured.trained, *changed)}
    refuse_shared_memory(task.name, captured.tensors, learning)
    _refuse_aliases(task, captured.module, learning)
    _lift_constants(captured.module, slots, values)
    plain_strides(graph)
    annotate(graph, slots, outputs, _defined_at(function))
    claim_gradients(graph, outputs)
    unused = tuple(f for f, p in parameters.items() if p.requires_grad and f not in captured.trained)
    frozen = tuple(f for f, p in parameters.items() if not p.requires_grad)
    whole = Graph(graph, tuple(slots), tuple(outputs), values)
    unknown = unknown_lengths(whole)
    if unknown is not None:
        reason = PACKED_COMPUTED.format(steps=unknown.args[1])
        raise not_one_graph(task.name, what, reason, unknown.meta.get("source", ""))
    return Trace(whole, unused, _tied(task.model), frozen)


def _keep_outputs(graph: fx.Graph, count: int) -> None:
    """Leave out what a metric or a prediction writes into buffers: they change nothing."""
    output = graph.output_node()
    kept: Any = output.args[0]
    output.args = (tuple(kept[:count]),)
    graph.eliminate_dead_code()


def _refuse_aliases(task: Task, traced: fx.GraphModule, learning: Mapping[str, torch.Tensor]) -> None:
    """Refuse constants that lie in the memory of a tensor that a step changes: they would stay behind.

    Raises:
        TaskError: naming the tensor.
    """
    memory = {t.untyped_storage().data_ptr(): fqn for fqn, t in learning.items() if t.numel()}
    for node in traced.graph.find_nodes(op="get_attr"):
        held = memory.get(getattr(traced, str(node.target)).untyped_storage().data_ptr())
        if held is not None:
            raise TaskError(HOLDS_ITSELF.format(task=task.name, name=held))


def _lift_constants(traced: fx.GraphModule, slots: list[Slot], values: dict[str, torch.Tensor]) -> None:
    """Turn tensors that tracing stored as attributes into CONST inputs."""
    graph = traced.graph
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        value = getattr(traced, str(node.target)).detach()
        if value.is_complex():
            read, slot, value = complex_constant(graph, node, node.name, value, node.meta["val"])
        else:
            last = [n for n in graph.nodes if n.op == "placeholder"][-1]
            read, slot = add_constant(graph, last, node.name, value)
        node.replace_all_uses_with(read)
        graph.erase_node(node)
        slots.append(slot)
        values[slot.name] = value
    lift_complex_numbers(graph, slots, values)


def _defined_at(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _tied(model: nn.Module) -> dict[str, str]:
    """Names under which a parameter is reachable but not listed -> the listed name."""
    listed = {id(p): n for n, p in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {n: listed[id(p)] for n, p in every if n != listed[id(p)]}
