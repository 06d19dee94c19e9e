"""Runs artefacts of the torch target: the pruned graph, operator by operator, with native kernels.

The step is the code that `torch.fx` generates from the graph: it drops every intermediate value after
its last use. State is updated in place, see `update_in_place`. Evaluation reads the same tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import fx
from torch.fx.node import map_aggregate

from ..errors import ArtifactError, listing
from ..files import read_text
from ..graph import Graph, Role, aten, output_args
from ..inductor import load_package
from ..plan import MAX_BYTES
from ..serialize import graph_from_json
from .manifest import STATE, GraphSpec, Manifest, require_unchanged

_STATE_OF = {
    Role.NEW_PARAM: Role.PARAM, Role.NEW_BUFFER: Role.BUFFER, Role.NEW_OPT_STATE: Role.OPT_STATE
}  # fmt: skip
# Views that their schema does not own up to.
_HIDDEN_VIEWS = {"_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> TorchRunner:
    """See `runner.open_runner`; `threads` holds while this runner computes."""
    try:
        place = torch.device(device.lower())
        torch.empty(0, device=place)
        if place.type == "cpu":  # "cpu:0" is the same, but safetensors does not know it
            place = torch.device("cpu")
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ArtifactError(
            f"PyTorch cannot use the device {device!r} here: {str(e).splitlines()[0]} Try device='cpu'."
        ) from e
    if manifest.options.get("mode") == "aot":
        _require_same_torch(folder, manifest, place)
    return TorchRunner(folder, manifest, place, threads)


def _require_same_torch(folder: Path, manifest: Manifest, device: torch.device) -> None:
    """Refuse machine code that is not declared as such, or was made for something else.

    Raises:
        ArtifactError: with what to do.
    """
    undeclared = {"train.pt2", "eval.pt2"} - set(manifest.native_code)
    if undeclared:
        raise ArtifactError(
            f"{folder} is of mode 'aot', but its manifest does not list {listing(sorted(undeclared))}. "
            "Compile it again."
        )
    if device.type != "cpu":
        raise ArtifactError(
            f"{folder} holds machine code for the device 'cpu', not {str(device)!r}. Load it there, or "
            "compile it with mode 'eager'."
        )
    made_with = manifest.versions.get("torch")
    if made_with != torch.__version__:
        raise ArtifactError(
            f"{folder} holds machine code made with PyTorch {made_with}, and this is {torch.__version__}. "
            "Compile it again with this version."
        )


class TorchRunner:
    """A `Runner` in PyTorch."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device, threads: int | None) -> None:
        self._folder, self._manifest, self._device, self._threads = folder, manifest, device, threads
        self._mode = manifest.options.get("mode")
        self._values: dict[str, torch.Tensor] = {}
        for name in (STATE, "train.safetensors"):
            self._values.update(self._load(name))
        self._states = [s.name for s in manifest.train.state]
        for name in self._states:  # the file's own pages must not be written to
            self._values[name] = self._values[name].clone()
        for slot in manifest.train.inputs:
            if slot.role in (Role.LR, Role.SEED):
                self._values[slot.name] = torch.zeros(slot.shape, device=device)
        train = self._read("train", manifest.train, self._values)
        self._step = self._function("train", update_in_place(train), train)
        self._eval: Callable[..., Any] | None = None

    def step(self, batch: Mapping[str, np.ndarray], lr: float, keys: np.ndarray | None = None) -> float:
        self._values["lr"].fill_(lr)
        if keys is not None:
            self._values["seed"].copy_(_tensor(keys))
        with self._computing():
            return float(self._step(batch)[0])

    def evaluate(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._eval is None:
            more = self._load("eval.safetensors")
            graph = self._read("eval", self._manifest.eval, {**self._values, **more})
            self._eval = self._function("eval", graph.fx, graph)
        with self._computing():
            return self._eval(batch)[0].cpu().numpy().copy()

    def read_state(self) -> dict[str, np.ndarray]:
        return {n: self._values[n].cpu().numpy().copy() for n in self._states}

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._values[name].copy_(_tensor(value))

    def _load(self, name: str) -> dict[str, torch.Tensor]:
        require_unchanged(self._folder, self._manifest, name)
        try:
            return load_file(self._folder / name, device=str(self._device))
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as e:
            raise ArtifactError(
                f"{self._folder / name} is damaged or no safetensors file ({e}). Compile the artefact again."
            ) from None

    def _read(self, stem: str, spec: GraphSpec, values: Mapping[str, torch.Tensor]) -> Graph:
        path = self._folder / f"{stem}.graph.json"
        require_unchanged(self._folder, self._manifest, path.name)
        try:
            text = read_text(path, MAX_BYTES)
        except (OSError, UnicodeDecodeError) as e:
            raise ArtifactError(f"Cannot read {path}: {e}. Compile the artefact again.") from None
        graph = graph_from_json(text, values, str(path))
        for mine, theirs in ((graph.inputs, spec.inputs), (graph.outputs, spec.outputs)):
            if [(s.name, s.shape, s.dtype) for s in mine] != [(s.name, s.shape, s.dtype) for s in theirs]:
                raise ArtifactError(f"{path} and the manifest name different inputs or outputs.")
        return graph

    def _function(
        self, stem: str, code: fx.Graph, graph: Graph
    ) -> Callable[[Mapping[str, np.ndarray]], tuple[torch.Tensor, ...]]:
        """`code`, a form of `graph`, as a function of a batch; its other inputs are bound."""
        if self._mode == "aot":
            require_unchanged(self._folder, self._manifest, f"{stem}.pt2")
            forward = load_package(self._folder / f"{stem}.pt2")
        else:
            _move(code, self._device)
            forward = fx.GraphModule(torch.nn.Module(), code).forward
        if self._mode == "compile":
            forward = torch.compile(forward, fullgraph=True, dynamic=False)
        bound = [{**self._values, **graph.values}.get(s.name) for s in graph.inputs]
        where = [(i, s.fqn) for i, s in enumerate(graph.inputs) if s.role is Role.BATCH]

        def call(batch: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
            args = list(bound)
            for i, key in where:
                args[i] = _tensor(batch[key]).to(self._device)
            return forward(*args)

        return call

    @contextmanager
    def _computing(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.no_grad():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's memory, or over a copy when that is read-only."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _move(graph: fx.Graph, device: torch.device) -> None:
    """Let factories that name a device make their tensors on this one."""
    for node in graph.nodes:
        node.args, node.kwargs = (
            map_aggregate(a, lambda x: device if isinstance(x, torch.device) else x)
            for a in (node.args, node.kwargs)
        )


# ---------------------------------------------------------------- in-place updates


def update_in_place(graph: Graph) -> fx.Graph:
    """Write the next value of each state slot over the old one; the graph's results keep the rest.

    Before → after, for momentum m and weight p:

        m2 = m·0.9 + g;  p2 = p − lr·m2;  … ;  return loss, p2, m2
        m2 = m·0.9 + g;  copy_(m, m2);  p2 = p − lr·m2;  copy_(p, p2);  … ;  return loss

    A copy stands right behind the new value, or behind the last reader of the old one if that comes
    later. A reader is whoever takes the old value, or anything that may share its memory (a view).
    """
    new = fx.Graph()
    twin: dict[fx.Node, fx.Node] = {}
    new.graph_copy(graph.fx, twin)
    state = {
        (s.role, s.fqn, s.key): twin[n]
        for s, n in zip(graph.inputs, graph.placeholders.values())
        if s.is_state
    }
    # What leaves the graph in memory that will be overwritten needs a copy of its own.
    exposed = set(state.values()).union(*(_aliases(old) for old in state.values()))
    kept, updates = [], []
    for slot, node in zip(graph.outputs, output_args(graph.fx)):
        old, value = None, twin[node]
        if slot.role in _STATE_OF:
            old = state[_STATE_OF[slot.role], slot.fqn, slot.key]
        if value is not old and value in exposed:
            with new.inserting_after(list(state.values())[-1] if value.op == "placeholder" else value):
                value = new.call_function(aten.clone.default, (value,))
        if old is None:
            kept.append(value)
        elif value is not old:
            updates.append((old, value))

    order = {node: i for i, node in enumerate(new.nodes)}
    for old, value in updates:
        last = max([value, *_readers(old)], key=lambda n: order.get(n, -1))  # a copy_ reads no old value
        with new.inserting_after(last):
            new.call_function(aten.copy_.default, (old, value))
    new.output(tuple(kept))
    return new


def _aliases(node: fx.Node) -> set[fx.Node]:
    """Nodes whose value may share `node`'s memory."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        views = [u for u in pending.pop().users if u not in found and _may_alias(u)]
        found.update(views)
        pending += views
    return found


def _readers(node: fx.Node) -> set[fx.Node]:
    """Who reads `node`'s memory, under its own name or another."""
    return {user for n in (node, *_aliases(node)) for user in n.users}


def _may_alias(node: fx.Node) -> bool:
    """Whether the result may share memory with an argument: views, and composites that may return one."""
    if node.target is operator.getitem:
        return True
    op: Any = node.target
    if op.overloadpacket.__name__ in _HIDDEN_VIEWS or any(a.alias_info for a in op._schema.arguments):
        return True
    return op.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd)
