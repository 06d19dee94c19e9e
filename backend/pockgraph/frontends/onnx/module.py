"""OnnxModule: a program as an `nn.Module` that `torch.export` captures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import CaptureError, TaskError, listing, suggest_within
from . import (  # noqa: F401  the rules register themselves
    ops_activations,
    ops_convolution,
    ops_elementwise,
    ops_indexing,
    ops_matmul,
    ops_normalization,
    ops_pooling,
    ops_recurrent,
    ops_reduction,
    ops_resize,
    ops_shape,
)
from .checks import require_supported
from .folding import evaluate, shape_of
from .naming import name_tensors
from .operator_rules import COUNT, NotRunnable, Rule, find_rule
from .program import Node, Program
from .reader import is_uniform, read
from .tensor_roles import SHAPE_ONLY, TensorRole, find_tensor_roles

# ONNX's number of an element type; 1 is the module's own floating-point type.
_DTYPES = {
    2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip

Value = Tensor | np.ndarray | None


def load(
    path: str | os.PathLike[str],
    *,
    outputs: Sequence[str] | None = None,
    parameters: Sequence[str] = (),
    constants: Sequence[str] = (),
) -> OnnxModule:
    """An inference ONNX model as a trainable module.

    Args:
        path: the model; external data lies where the model says.
        outputs: names of the tensors to return, any in the graph: the logits before a softmax, say.
            What they don't need is left out. None takes the model's own outputs.
        parameters: globs of tensor names to train though they would be constants (one element in
            arithmetic).
        constants: globs of tensor names to keep as they are though they would be trained.

    Raises:
        CaptureError: the file is no model, its opset is not supported, or a name is wrong.
        UnsupportedOperators: listing everything in the model that cannot be trained.
    """
    program = read(path, outputs)
    roles = find_tensor_roles(program, parameters, constants)
    require_supported(program, roles, path)
    module = OnnxModule(program, roles, Origin(str(Path(path).resolve()), program.sha256))
    for sentence in _surprises(module, program, roles):
        warnings.warn(f"{path}: {sentence}", stacklevel=2)
    return module


def _surprises(module: OnnxModule, program: Program, roles: Mapping[str, TensorRole]) -> Iterator[str]:
    """What a user who knows the original model would not expect of the module."""
    if made := module.made_by_exporter:
        yield (
            f"{listing(made)} will not be trained: the exporter made what no layer of the original model "
            "has. parameters=[…] with these names trains them all the same."
        )
    quantised = [n.outputs[0] for n in program.nodes if n.op == "DequantizeLinear"]
    if quantised:
        yield f"{listing(quantised)} will not be trained: quantised numbers stay as they are."
    for name, role in roles.items():
        readers = len(program.uses[name])
        if role.trained and readers > 1 and is_uniform(program.tensors[name]):
            yield (
                f"{name} is one parameter that {readers} operators read. If the original has "
                "several here that were equal when it was exported, as those of fresh norms are, PyTorch's "
                "exporter made them one: torch.onnx.export(…, optimize=False) keeps them apart."
            )


@dataclass(frozen=True)
class Origin:
    """The file a module came from, and the SHA-256 of it and its weights."""

    path: str
    sha256: str


class _Cache(dict[Any, dict[str, np.ndarray]]):
    """Input shapes -> values known for them. `torch.export` refuses a plain dict that grows under it."""


class Layer(nn.Module):
    """A part of the tree that holds weights; it runs the operators that use them.

    That makes a trace, and with it every message, say which layer an operator belongs to.
    """

    def forward(self, function: Callable[..., Any], *inputs: Any, **attributes: Any) -> Any:
        return function(*inputs, **attributes)


class OnnxModule(nn.Module):
    """An ONNX graph as a module. Call it with a tensor for each input, or with a dict by input name.

    It returns the output, or a dict by output name when there are several. The weights are parameters
    whose FQNs come from the names in the model; `tensor_names` maps them back.

    Attributes:
        origin: the file it was read from.
        tensor_names: FQN of each parameter and buffer -> the tensor's name in the model.
        made_by_exporter: names in the model of tensors that are held constant since an exporter made them:
            no layer of the original model has them. `load(…, parameters=[…])` trains them.
    """

    def __init__(self, program: Program, roles: Mapping[str, TensorRole], origin: Origin) -> None:
        super().__init__()
        self.origin = origin
        self._program = program
        self.made_by_exporter = tuple(name for name, role in roles.items() if role.made)
        self._known = {name: v for name, v in program.tensors.items() if name not in roles}
        self._folded = _Cache()
        self._fqns = self.tensor_names = self._layers = {}  # so that no tensor is named like these
        self._fqns = name_tensors(program, roles, {*dir(self)})
        self.tensor_names = {fqn: name for name, fqn in self._fqns.items()}
        for name, fqn in self._fqns.items():
            value = torch.from_numpy(np.array(program.tensors[name]))
            self._hold(fqn, value.reshape(-1) if roles[name].flat else value, roles[name].trained)
        self._layers = self._layers_of_nodes()
        self.eval()

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._program.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._program.outputs

    def forward(self, *args: Any, **kwargs: Tensor) -> Tensor | dict[str, Tensor]:
        """Run the graph.

        Raises:
            TaskError: inputs are missing, unknown, or of another shape or type than the model's.
            CaptureError: an operator cannot run with these shapes.
        """
        given = self._bind(args, kwargs)
        shapes = tuple(tuple(int(s) for s in x.shape) for x in given.values())
        known = self._folded.setdefault(shapes, dict(self._known))
        values: dict[str, Value] = {"": None, **given}
        for node in self._program.nodes:
            if not all(name in known for name in node.outputs if name):
                self._run(node, values, known)
        results = {name: self._tensor(self._value(name, values, known)) for name in self.output_names}
        return results if len(results) > 1 else results[self.output_names[0]]

    # ---------------------------------------------------------------- one operator

    def _run(self, node: Node, values: dict[str, Value], known: dict[str, np.ndarray]) -> None:
        inputs = [self._value(name, values, known) for name in node.inputs]
        if node.op in SHAPE_ONLY:
            known[node.outputs[0]] = shape_of(node, [int(s) for s in inputs[0].shape])  # pyright: ignore
        elif not any(isinstance(v, Tensor) for v in inputs):
            results = evaluate(node, self._program.opset, inputs)  # pyright: ignore
            known.update({name: v for name, v in zip(node.outputs, results) if name})
        else:
            values.update((name, v) for name, v in zip(node.outputs, self._call(node, inputs)) if name)

    def _call(self, node: Node, inputs: Sequence[Value]) -> Sequence[Tensor]:
        rule = find_rule(node.op, node.version)
        assert rule is not None
        attributes = dict(node.attributes)
        if "to" in attributes:
            attributes["to"] = _DTYPES.get(attributes["to"], self._dtype)
        if COUNT in rule.attributes:
            attributes[COUNT] = len(node.outputs)
        ndim = max(v.ndim for v in inputs if isinstance(v, Tensor))
        operands = [self._operand(node, rule, i, v, ndim) for i, v in enumerate(inputs)]
        layer = self._layers.get(node.outputs, "")
        run = self.get_submodule(layer) if layer else _plainly
        try:
            result = run(rule.function, *operands, **attributes)
        except CaptureError:
            raise
        except NotRunnable as e:
            raise CaptureError(f"{node.where}: {e.reason}.") from e
        except Exception as e:
            shapes = listing([str(list(v.shape)) for v in inputs if v is not None])
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise CaptureError(f"{node.where} cannot run on inputs of shapes {shapes}: {reason}") from e
        return result if isinstance(result, tuple | list) else (result,)

    def _operand(self, node: Node, rule: Rule, position: int, value: Value, ndim: int) -> Any:
        if rule.is_host(position):
            what = rule.input_name(position)
            if isinstance(value, Tensor) and what not in rule.computed:
                raise CaptureError(
                    f"{node.where}: its input {what!r} ({node.inputs[position]!r}) depends on the values of "
                    "a tensor, and a compiled step has fixed shapes. Export the model with it constant."
                )
            return value
        plain = rule.input_name(position) in rule.numbers
        if plain and isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= ndim:
            return value.item()
        return self._tensor(value) if value is not None else None

    def _value(self, name: str, values: Mapping[str, Value], known: Mapping[str, np.ndarray]) -> Value:
        if name in known:
            return known[name]
        if name in values:
            return values[name]
        held = attrgetter(self._fqns[name])(self)
        return held.reshape(self._program.tensors[name].shape)

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        tensor = torch.from_numpy(np.array(value))
        return tensor.to(self._dtype) if tensor.dtype == torch.float32 else tensor

    @property
    def _dtype(self) -> torch.dtype:
        """What float32 in the model means here: `module.double()` computes throughout in double precision."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    # ---------------------------------------------------------------- inputs

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(args) == 1 and isinstance(args[0], Mapping):
            args, kwargs = (), {**args[0], **kwargs}
        given = {**dict(zip(self.input_names, args)), **kwargs}
        wrong = [f"{n!r} is missing" for n in self.input_names if n not in given]
        wrong += [
            f"{n!r} is unknown{suggest_within(n, self.input_names)}"
            for n in given
            if n not in self.input_names
        ]
        if len(args) > len(self.input_names):
            wrong.append(f"{len(args)} tensors were given for {len(self.input_names)} inputs")
        if not wrong:
            wrong = [reason for n in self.input_names if (reason := self._misfit(n, given[n]))]
        if wrong:
            raise TaskError(
                f"The inputs of the ONNX model {self.origin.path} don't fit: {listing(wrong)}. "
                f"It takes {listing(list(map(repr, self.input_names)))}."
            )
        return {n: self._as_declared(n, given[n]) for n in self.input_names}

    def _as_declared(self, name: str, x: Tensor) -> Tensor:
        """Batches hold integers as int64, also those that the model takes as int32."""
        wanted = self._wanted(name)
        return x if wanted.is_floating_point or wanted == x.dtype else x.to(wanted)

    def _wanted(self, name: str) -> torch.dtype:
        return torch.from_numpy(np.zeros(1, self._program.inputs[name].dtype)).dtype

    def _misfit(self, name: str, x: Tensor) -> str:
        declared = self._program.inputs[name]
        wanted = self._wanted(name)
        alike = x.dtype == (self._dtype if wanted.is_floating_point else torch.int64)
        if wanted != x.dtype and (wanted == torch.bool or not alike):
            return f"{name!r} is {x.dtype} instead of {wanted}"
        if declared.shape is None:
            return ""
        fits = len(declared.shape) == x.ndim and all(d in (None, s) for d, s in zip(declared.shape, x.shape))
        dims = [d if d is not None else "any" for d in declared.shape]
        return (
            "" if fits else f"{name!r} has shape {list(x.shape)} instead of {dims}, for which it was exported"
        )

    # ---------------------------------------------------------------- the tree

    def _hold(self, fqn: str, value: Tensor, trained: bool) -> None:
        module: nn.Module = self
        *path, leaf = fqn.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, Layer())
            module = module.get_submodule(part)
        if trained:
            module.register_parameter(leaf, nn.Parameter(value))
        else:
            module.register_buffer(leaf, value)

    def _layers_of_nodes(self) -> dict[tuple[str, ...], str]:
        """Outputs of a node -> the layer of its weight, else that of the operator before it."""
        found: dict[str, str] = {}
        layers = {}
        for node in self._program.nodes:
            weights = [self._fqns[n] for n in node.inputs if n in self._fqns]
            weights.sort(key=lambda fqn: not fqn.endswith("weight"))
            layer = weights[0].rpartition(".")[0] if weights else ""
            layer = layer or next((found[n] for n in node.inputs if found.get(n)), "")
            layers[node.outputs] = layer
            found.update(dict.fromkeys(node.outputs, layer))
            found[""] = ""
        return layers

    def extra_repr(self) -> str:
        return (
            f"{Path(self.origin.path).name}: {', '.join(self.input_names)} -> {', '.join(self.output_names)}"
        )


def _plainly(function: Callable[..., Any], *inputs: Any, **attributes: Any) -> Any:
    return function(*inputs, **attributes)
