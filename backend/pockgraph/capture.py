"""Task -> traces: the only room that touches torch's private or unstable interfaces.

The loss is exported with `torch.export` (which gets past a library's Python control flow) and made
functional. Its gradient is then traced through autograd itself, so that the backward graph *is*
what eager PyTorch would run: the same formulas, operator by operator.

Attention is traced with its mathematical definition, because a fused kernel's backward exists on
one device only.
"""

from __future__ import annotations

import inspect
import itertools
import operator
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from .dependence import ancestors
from .errors import CaptureError, TaskError, listing
from .graph import Graph, Role, Slot, add_constant, aten, dtype_name, meta_like
from .recurrent import STEPS
from .task import BATCH_NORMS, Task

DATA_DEPENDENT = (
    "its control flow or a shape depends on the values of a tensor, and a training step that is compiled "
    "before deployment has one fixed graph. Replace the branch by torch.where or torch.cond, or move the "
    "decision out of the model"
)
TORCH_ROOT = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parent)


@dataclass(frozen=True, eq=False)
class Trace:
    """A traced function of a task, with the names of what goes in.

    Attributes:
        graph: forward only (metric), or forward and gradients (loss): its outputs are the loss and
            one GRAD per parameter that the loss depends on.
        unused: FQNs of parameters the loss does not depend on.
        aliases: other names of tied parameters -> the name used here.
    """

    graph: Graph
    unused: tuple[str, ...]
    aliases: dict[str, str]


class _Wrapped(nn.Module):
    """`function(model, batch)` as a module over positional tensors, which is what export takes."""

    def __init__(self, task: Task, function: Callable[..., torch.Tensor], what: str) -> None:
        super().__init__()
        self.model = task.model
        self._task, self._what = task.name, what
        self._names = tuple(task.example)
        self._rebuild, self._function = task.rebuild, function

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        result = self._function(self.model, self._rebuild(dict(zip(self._names, tensors, strict=True))))
        if not isinstance(result, torch.Tensor):
            wanted = "one floating-point number" if self._what == "loss" else "one value per sample"
            raise TaskError(
                f"Task {self._task!r}: the {self._what} must be a tensor of {wanted}, but "
                f"`{self._what}(model, batch)` gives a {type(result).__name__}. Return the tensor alone."
            )
        return result


def trace_loss(task: Task) -> Trace:
    """The loss and the gradient of every parameter as one graph.

    Raises:
        TaskError: the loss is not one floating-point number, or depends on no parameter.
        CaptureError: the model cannot be exported; with the user's source line.
    """
    exported = _export(task, task.loss, "loss")
    loss = _only_output(exported).meta["val"]
    if loss.numel() != 1 or not loss.is_floating_point():
        raise TaskError(
            f"Task {task.name!r}: the loss must be one floating-point number, but `loss(model, batch)` "
            f"gives shape {tuple(loss.shape)}, {loss.dtype}. Reduce it, for example with .mean()."
        )
    return _trace(task, exported, with_gradients=True)


def trace_metric(task: Task) -> Trace:
    """The metric, one value per sample, as a forward graph.

    Raises:
        TaskError: the metric does not give one value per sample.
        CaptureError: the model cannot be exported.
    """
    exported = _export(task, task.metric, "metric")
    value = _only_output(exported).meta["val"]
    samples = {len(v) for v in task.example.values() if v.ndim}
    if value.ndim != 1 or len(value) not in samples:
        raise TaskError(
            f"Task {task.name!r}: the metric must give one value per sample (a tensor of shape "
            f"[{max(samples, default='N')}]), but `metric(model, batch)` gives shape {tuple(value.shape)}."
        )
    return _trace(task, exported, with_gradients=False)


def _export(task: Task, function: Callable[..., torch.Tensor], what: str) -> torch.export.ExportedProgram:
    example = tuple(task.example.values())
    training = {n: m.training for n, m in task.model.named_modules()}
    module = _Wrapped(task, function, what).eval()
    task.set_mode(training=what == "loss")
    cumulative = _cumulative(task.model)
    try:
        for m in cumulative.values():
            m.momentum = 1.0  # the running statistics then become the batch's, see `_trace`
        with _explained(task, what), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, example, strict=False)
            _refuse_dynamic(task, what, exported)
            _detach_no_grad(exported.graph_module)
            return exported if _is_functional(exported) else exported.run_decompositions(dict(STEPS))
    finally:
        for m in cumulative.values():
            m.momentum = None  # pyright: ignore
        for name, m in task.model.named_modules():
            m.training = training[name]


def _cumulative(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Module path -> batch norm in training mode that keeps the plain average of all statistics.

    It divides by the value of its batch counter, which no static graph can.
    """
    return {
        name: m  # pyright: ignore
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats and m.momentum is None
    }


@contextmanager
def _explained(task: Task, what: str) -> Iterator[None]:
    """Whatever the user's code or tracing raises becomes one readable error."""
    try:
        yield
    except (TaskError, CaptureError):
        raise
    except Exception as e:
        raise CaptureError(_explain(task, what, e)) from e


def _is_functional(exported: torch.export.ExportedProgram) -> bool:
    """Is the graph free of mutation as exported? Making it so by decomposition costs a second trace."""
    parts = [m for m in exported.graph_module.modules() if isinstance(m, fx.GraphModule)]
    for node in itertools.chain.from_iterable(part.graph.nodes for part in parts):
        if node.op != "call_function":
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            return False
        # A batch norm in training mode changes its running statistics though its schema does not say so.
        if node.target in (aten.batch_norm.default, aten.instance_norm.default) and node.args[5]:
            return False
    return not exported.graph_signature.buffers_to_mutate


def _detach_no_grad(module: fx.GraphModule) -> None:
    """Make `torch.no_grad` regions explicit: decomposition forgets them when it flattens the graph."""
    region = torch.ops.higher_order.wrap_with_set_grad_enabled
    for part in module.modules():
        if not isinstance(part, fx.GraphModule):
            continue
        for node in part.graph.find_nodes(op="call_function", target=region):
            enabled, submodule, *operands = node.args
            if enabled:
                continue
            with part.graph.inserting_before(node):
                detached = [part.graph.call_function(aten.detach.default, (a,)) for a in operands]
            for new, old in zip(detached, operands):
                new.meta = dict(old.meta)  # pyright: ignore
            node.args = (enabled, submodule, *detached)
        part.recompile()


def _refuse_dynamic(task: Task, what: str, exported: torch.export.ExportedProgram) -> None:
    """Refuse values and shapes that only a run can tell.

    Raises:
        CaptureError: naming the user's line.
    """
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        for v in value if isinstance(value, tuple | list) else (value,):
            symbolic = isinstance(v, torch.SymInt | torch.SymFloat | torch.SymBool)
            sized = isinstance(v, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in v.shape)
            if symbolic or sized:
                where = f" at {source}" if (source := _source(node.meta)) else ""
                raise CaptureError(_not_static(task, what, where, DATA_DEPENDENT))


def _explain(task: Task, what: str, error: Exception) -> str:
    where = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((TORCH_ROOT, HERE, "<")):
            where = f" at {frame.filename}:{frame.lineno}: `{frame.line}`"
            break
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = type(error).__name__
    if "data-dependent" in str(error).lower() or "DataDependent" in kind:
        reason = DATA_DEPENDENT
    else:
        reason = f"{kind}: {first}. A model must work with torch.export to be compiled"
    return _not_static(task, what, where, reason)


def _not_static(task: Task, what: str, where: str, reason: str) -> str:
    return f"Task {task.name!r}: the {what} cannot be turned into one static graph{where}: {reason}."


def _first_output(exported: torch.export.ExportedProgram) -> Any:
    return next(iter(exported.graph_signature.user_outputs))


def _only_output(exported: torch.export.ExportedProgram) -> Any:
    outputs = exported.graph.output_node().args[0]
    name = _first_output(exported)
    for node in outputs:  # pyright: ignore
        if isinstance(node, fx.Node) and node.name == name:
            return node
    raise TaskError("The loss or metric returned something that does not depend on the model or batch.")


def _changed_buffers(task: Task, exported: torch.export.ExportedProgram) -> dict[str, int]:
    """Buffer that the forward pass gives a new value -> which result of the exported graph that is.

    Raises:
        TaskError: naming a buffer that is overwritten without being read, or changed out of sight.
    """
    mutated = exported.graph_signature.buffers_to_mutate
    position = {n.name: i for i, n in enumerate(exported.graph.output_node().args[0])}  # pyright: ignore
    nodes = {n.name: n for n in exported.graph.find_nodes(op="placeholder")}
    inputs = {s.target: nodes[s.arg.name] for s in exported.graph_signature.input_specs}  # pyright: ignore
    unread = [b.removeprefix("model.") for b in mutated.values() if not inputs[b].users]
    if unread:
        raise TaskError(
            f"Task {task.name!r}: the model overwrites its buffers {listing(unread)} in every step and "
            "never reads them, so they are no state. Return the values, or keep them out of the model."
        )
    hidden = [
        f"{node.args[3].name} ({_source(node.meta)})"
        for node in exported.graph.find_nodes(op="call_function", target=aten.instance_norm.default)
        if node.args[5] and node.args[3] is not None
    ]
    if hidden:
        raise TaskError(
            f"Task {task.name!r}: an instance norm updates the running statistics {listing(hidden)}, which "
            "cannot be compiled. Use nn.InstanceNorm layers, whose statistics stay frozen."
        )
    return {target: position[name] for name, target in mutated.items()}


def _running_averages(
    task: Task, exported: torch.export.ExportedProgram, changed: Mapping[str, int]
) -> dict[str, str]:
    """Statistic of a batch norm that keeps the plain average of all batches -> its batch counter.

    Raises:
        TaskError: such a layer is called twice in a step.
    """
    results: Any = exported.graph.output_node().args[0]
    averages = {}
    for name, m in task.model.named_modules(remove_duplicate=False):
        if not (isinstance(m, BATCH_NORMS) and m.track_running_stats and m.momentum is None):
            continue
        for key in (f"model.{name}.running_mean", f"model.{name}.running_var"):
            if key not in changed:
                continue
            averages[key] = f"model.{name}.num_batches_tracked"
            got = results[changed[key]]  # item 3 (4) of a node whose argument 3 (4) is the old value
            if got.args[0].args[got.args[1]].op != "placeholder":
                raise TaskError(
                    f"Task {task.name!r}: the batch norm {name!r} (momentum=None) runs more than once in a "
                    "step, and an average of all batches is not compiled for that. Give it a momentum."
                )
    return averages


class _Replay(fx.Interpreter):
    """Runs an exported graph under tracing; strides may differ from export's, so views reshape."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is aten.view.default:
            target = aten.reshape.default
        if target is aten._assert_tensor_metadata.default:
            return None
        if target is aten.copy.default:  # has no derivative
            into, value = args[:2]
            return value.to(into.dtype).expand(into.shape)
        if target in STEPS:
            return STEPS[target](*args, **kwargs)
        return super().call_function(target, args, kwargs)


def _trace(task: Task, exported: torch.export.ExportedProgram, with_gradients: bool) -> Trace:
    module = exported.graph_module
    specs = exported.graph_signature.input_specs
    nodes = [n for n in module.graph.nodes if n.op == "placeholder"]
    fakes = [n.meta["val"] for n in nodes]
    changed = _changed_buffers(task, exported) if with_gradients else {}
    keys = list(task.example)
    names = _canonical_names(task.model)
    slots: list[Slot] = []
    values: dict[str, torch.Tensor] = {}
    params: list[int] = []
    for i, (spec, fake) in enumerate(zip(specs, fakes)):
        fqn = (spec.target or "").removeprefix("model.")
        fqn = names.get(fqn, fqn)
        shape, dtype = tuple(fake.shape), dtype_name(fake.dtype)
        if spec.kind is InputKind.USER_INPUT:
            slots.append(
                Slot(Role.BATCH, keys[len([s for s in slots if s.role is Role.BATCH])], shape, dtype)
            )
        elif spec.kind is InputKind.PARAMETER:
            slots.append(Slot(Role.PARAM, fqn, shape, dtype))
            values[slots[-1].name] = exported.state_dict[spec.target].detach()  # pyright: ignore
            if fake.is_floating_point():
                params.append(i)
        else:
            constant = spec.kind is InputKind.CONSTANT_TENSOR
            slots.append(
                Slot(Role.CONST, "", shape, dtype, key=fqn)
                if constant
                else Slot(Role.BUFFER, fqn, shape, dtype, changes=spec.target in changed)
            )
            store = exported.state_dict if spec.target in exported.state_dict else exported.constants
            values[slots[-1].name] = store[spec.target].detach()  # pyright: ignore

    _join_tied(nodes, slots)
    output = next(
        i
        for i, n in enumerate(module.graph.output_node().args[0])  # pyright: ignore
        if isinstance(n, fx.Node) and n.name == _first_output(exported)
    )

    averages = _running_averages(task, exported, changed)
    placeholder = {spec.target: i for i, spec in enumerate(specs)}
    grads_exist: list[bool] = []

    def function(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not with_gradients:
            with fx_traceback.preserve_node_meta(), torch.no_grad():
                return (_Replay(module).run(*inputs)[output],)
        leaves = [x.detach().requires_grad_() if i in params else x for i, x in enumerate(inputs)]
        with fx_traceback.preserve_node_meta():
            results = _Replay(module).run(*leaves)
            loss = results[output]
            new = {target: results[i].detach() for target, i in changed.items()}
            for average, count in averages.items():
                old = inputs[placeholder[average]]
                share = 1 / new[count].to(old.dtype)
                new[average] = old * (1 - share) + new[average] * share
            if not loss.requires_grad:
                raise TaskError(
                    f"Task {task.name!r}: the loss depends on no parameter; nothing can be trained."
                )
            grads = torch.autograd.grad(loss.reshape(()), [leaves[i] for i in params], allow_unused=True)
        grads_exist.extend(g is not None for g in grads)
        return (loss.reshape(()), *(g for g in grads if g is not None), *new.values())

    mode = next(f.fake_mode for f in fakes)
    with ExitStack() as stack:
        stack.enter_context(_explained(task, "loss" if with_gradients else "metric"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(mode)
        traced = make_fx(function, _allow_non_fake_inputs=True)(*fakes)

    graph = traced.graph
    _undo_in_place(graph)
    trained = [i for i, exists in zip(params, grads_exist) if exists]
    used = {slots[i].fqn for i in trained}
    unused = tuple(dict.fromkeys(s.fqn for s in (slots[i] for i in params) if s.fqn not in used))
    outputs = [
        Slot(
            Role.LOSS if with_gradients else Role.METRIC,
            "",
            () if with_gradients else tuple(_only_output(exported).meta["val"].shape),
            dtype_name(_only_output(exported).meta["val"].dtype),
        )
    ]
    outputs += [Slot(Role.GRAD, slots[i].fqn, slots[i].shape, slots[i].dtype) for i in trained]
    outputs += [replace(slots[placeholder[b]], role=Role.NEW_BUFFER, changes=False) for b in changed]
    _drop_repeated(graph, slots)
    _lift_constants(traced, slots, values)
    _annotate(graph, slots, outputs, _defined_at(task.loss if with_gradients else task.metric))
    _claim_gradients(graph, outputs)
    return Trace(Graph(graph, tuple(slots), tuple(outputs), values), unused, _tied(task.model, slots))


def _join_tied(nodes: list[fx.Node], slots: list[Slot]) -> None:
    """Export lists a tied parameter once a name. Whoever reads it shall read the first of these inputs."""
    first: dict[str, fx.Node] = {}
    for node, slot in zip(nodes, slots, strict=True):
        if first.setdefault(slot.name, node) is not node:
            node.replace_all_uses_with(first[slot.name])


def _drop_repeated(graph: fx.Graph, slots: list[Slot]) -> None:
    """Remove the other inputs of a tied parameter, of which nothing is computed."""
    first: dict[str, fx.Node] = {}
    kept = []
    for node, slot in zip([n for n in graph.nodes if n.op == "placeholder"], list(slots), strict=True):
        if first.setdefault(slot.name, node) is node:
            kept.append(slot)
            continue
        node.replace_all_uses_with(first[slot.name])  # a leaf's `detach`, which nobody reads
        graph.erase_node(node)
    slots[:] = kept


def _undo_in_place(graph: fx.Graph) -> None:
    """`x.op_(...)` → `op(x, ...)`: formulas inside ATen work in place on what they have just made.

    The user's own code was made functional by export. Where other names look at the memory of x, the
    operator stays, and targets refuse it.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable or _is_shared(node.args[0]):
            continue
        name = node.target.overloadpacket.__name__
        packet = getattr(aten, name.removesuffix("_"), None)
        functional = getattr(packet, node.target._overloadname, None)
        if not name.endswith("_") or functional is None:
            continue
        x = node.args[0]
        later = [user for user in x.users if order[user] > order[node]]
        node.target = functional
        for user in later:
            user.replace_input_with(x, node)


def _is_shared(x: fx.Node) -> bool:
    """Does x look at memory that others know of, or others at that of x?"""

    def is_view(node: fx.Node) -> bool:
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
        return aliases or node.target is operator.getitem

    return x.op != "call_function" or is_view(x) or any(map(is_view, (u for u in x.users if not _writes(u))))


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _lift_constants(traced: fx.GraphModule, slots: list[Slot], values: dict[str, torch.Tensor]) -> None:
    """Turn tensors that tracing stored as attributes into CONST inputs."""
    graph = traced.graph
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        value = getattr(traced, str(node.target)).detach()
        placeholder, slot = add_constant(graph, last, node.name, value)
        node.replace_all_uses_with(placeholder)
        graph.erase_node(node)
        slots.append(slot)
        values[slot.name] = value
        last = placeholder


def _annotate(graph: fx.Graph, slots: list[Slot], outputs: list[Slot], outside: str) -> None:
    """Replace tracing's metadata by ours: val, phase, layer, source.

    Export notes source lines inside modules only; `outside` is the source of what runs around them.

    A buffer's new value belongs to the forward pass, also where it is computed behind the loss.

    Autograd's nodes carry no module. One belongs to the module of the parameter it reads, else to that
    of the saved activation, else to that of the gradient it continues.
    """
    result: Any = graph.output_node().args[0][0]  # pyright: ignore
    while result.target in (aten.detach.default, aten.view.default, aten.reshape.default):
        result = result.args[0]
    views = (aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten.detach.default)
    results = zip(outputs, graph.output_node().args[0])  # pyright: ignore
    early = {n for s, node in results if s.role is Role.NEW_BUFFER for n in ancestors(node)}
    owner: dict[fx.Node, tuple[str, str]] = {}
    weights: set[fx.Node] = set()
    anchors: set[fx.Node] = set()
    behind = False
    placeholders = iter(slots)
    for node in graph.nodes:
        meta, node.meta = node.meta, {}
        if node.op == "output":
            continue
        node.meta["val"] = meta_like(meta.get("val"))
        if node.op == "placeholder":
            slot = next(placeholders)
            if slot.role is Role.PARAM:
                owner[node] = (slot.fqn.rpartition(".")[0], "")
                weights.add(node)
            continue
        phase = "backward" if behind and node not in early else "forward"
        layer, source = _layer(meta), _source(meta) or outside
        if phase == "backward":
            known = sorted((a for a in node.all_input_nodes if a in owner),
                           key=lambda a: (a not in weights, a not in anchors))  # fmt: skip
            layer, source = owner[known[0]] if known else ("", "")
        elif node.target is aten.detach.default and node.args[0] in weights:
            layer = owner[node.args[0]][0]  # the leaf that autograd differentiates by
        owner[node] = (layer, source)
        if node.target in views and node.args[0] in weights:
            weights.add(node)
        if phase == "forward" or (node.target in views and node.args[0] in anchors):
            anchors.add(node)
        # A second result of the last forward operator is unpacked behind the loss, and still forward.
        unpacks = node.target is operator.getitem
        node.meta.update(phase=node.args[0].meta["phase"] if unpacks else phase, layer=layer, source=source)
        behind = behind or node is result


def _claim_gradients(graph: fx.Graph, outputs: list[Slot]) -> None:
    """Give what computes one parameter's gradient and nothing else to that parameter's module.

    From the gradient up through views to the first operator that computes: the dW or db.
    """
    views = (aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten.detach.default,
             aten.reshape.default, aten._unsafe_view.default, operator.getitem)  # fmt: skip
    for slot, node in zip(outputs, graph.output_node().args[0]):  # pyright: ignore
        while slot.role is Role.GRAD and len(node.users) == 1 and node.op == "call_function":
            node.meta["layer"] = slot.fqn.rpartition(".")[0]
            if node.target not in views:
                break
            node = node.args[0]


def _defined_at(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _layer(meta: dict[str, Any]) -> str:
    stack = list((meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return re.sub(r"^(L__self__\.?)?(model\.?)?", "", path)


def _source(meta: dict[str, Any]) -> str:
    frames = re.findall(r'File "([^"]+)", line (\d+)', meta.get("stack_trace") or "")
    frames = [(f, n) for f, n in frames if not f.startswith((TORCH_ROOT, HERE))]
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter -> the one that `named_parameters` lists; export may use another."""
    first = {id(p): n for n, p in model.named_parameters()}
    return {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}


def _tied(model: nn.Module, slots: list[Slot]) -> dict[str, str]:
    """Names under which a parameter is reachable but not listed -> the listed name."""
    listed = {s.fqn for s in slots if s.role is Role.PARAM}
    by_id = {id(p): n for n, p in model.named_parameters(remove_duplicate=False) if n in listed}
    return {
        n: by_id[id(p)]
        for n, p in model.named_parameters(remove_duplicate=False)
        if n not in listed and id(p) in by_id
    }
