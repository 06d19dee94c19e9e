"""Runs artefacts of the torch target: the pruned graph, operator by operator, with native kernels.

The step is the code that `torch.fx` generates from the graph: it drops every intermediate value after
its last use. It makes the next state beside the present one, which is kept until the next step: a step
can be undone. Evaluation reads the same tensors.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import fx
from torch.fx.node import map_aggregate

from ...errors import ArtifactError, BatchError, listing, reason
from ...files import read_text
from ...ir.graph import Graph, Role, aten, output_args
from ...ir.serialize import graph_from_json
from ...plan.plan import MAX_BYTES
from ...runtime.artifact_files import STATE, require_unchanged
from ...runtime.graph_specs import GraphSpec, PredictionSpec
from ...runtime.manifest import Manifest
from ...runtime.ownership import SPAWN, inherited
from .aot_package import load_package
from .fused_lstm import fuse_lstms
from .stored_values import StoredValues

# Where PyTorch is told whether CUDA may round float32 to TF32.
_backends: Any = torch.backends
_ROUNDING = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
# Views that their schema does not own up to.
_GIVEN = (Role.BATCH, Role.LR, Role.SEED)
_HIDDEN_VIEWS = {"_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> TorchRunner:
    """See `runner.open_runner`; `threads` holds while this runner computes."""
    return TorchRunner(folder, manifest, _place(folder, manifest, device, threads), threads)


def open_predictor(folder: Path, manifest: Manifest, device: str, threads: int | None) -> TorchForward:
    """See `runner.open_predictor`; as `open_runner`."""
    return TorchForward(folder, manifest, _place(folder, manifest, device, threads), threads, {})


def _place(folder: Path, manifest: Manifest, device: str, threads: int | None) -> torch.device:
    """The device, once it is known that the artefact can run there."""
    if inherited("torch") and threads != 1:
        raise ArtifactError(
            f"This process, {os.getpid()}, was forked from one that had imported torch, and waits for ever "
            f"for the threads which torch had there. Give threads=1. Or: {SPAWN}"
        )
    try:
        place = torch.device(device.lower())
        torch.empty(0, device=place)
        if place.type == "cpu":  # "cpu:0" is the same, but safetensors does not know it
            place = torch.device("cpu")
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ArtifactError(
            f"PyTorch cannot use the device {device!r} here: {reason(e).partition(' device type at')[0]}. "
            "Try "
            "device='cpu'."
        ) from e
    if manifest.options.get("mode") == "aot":
        _require_same_torch(folder, manifest, place)
    return place


def _require_same_torch(folder: Path, manifest: Manifest, device: torch.device) -> None:
    """Refuse machine code that is not declared as such, or was made for something else.

    Raises:
        ArtifactError: with what to do.
    """
    undeclared = {f"{stem}.pt2" for stem in stems(manifest)} - set(manifest.native_code)
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


def stems(manifest: Manifest) -> tuple[str, ...]:
    """The graphs in the order they were written: what one of them has stored, later ones have not."""
    return ("train", "eval", *(p.stem for p in manifest.predict))


def _has_no_factors(error: RuntimeError) -> bool:
    """Did a decomposition find a matrix, such as one with NaN, for which PyTorch raises?"""
    failed = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]
    return isinstance(error, failed) or "should not contain infs or NaNs" in str(error)


class TorchForward:
    """A `PredictionRunner` in PyTorch: graphs that read the values held and leave them alone.

    Args:
        values: slot name -> state, and constants that are in memory already.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: torch.device,
        threads: int | None,
        values: dict[str, torch.Tensor],
    ) -> None:
        self._folder, self._manifest, self._device, self._threads = folder, manifest, device, threads
        self._mode = manifest.options.get("mode")
        self._values = values
        self._functions: dict[str, Callable[..., Any]] = {}

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self._forward(prediction.stem, prediction.graph, batch, "predicted")
        return {s.name: _array(r) for s, r in zip(prediction.graph.outputs, results)}

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._values[name] = _tensor(value).to(self._device, copy=True)

    def _forward(
        self, stem: str, spec: GraphSpec, batch: Mapping[str, np.ndarray], done: str
    ) -> tuple[torch.Tensor, ...]:
        """What a graph, opened on first use, gives for a batch.

        Args:
            done: what cannot be done with a batch that fails, for people.
        """
        if stem not in self._functions:
            others = (STATE, *(f"{n}.safetensors" for n in stems(self._manifest) if n != stem))
            values = StoredValues(self._open, f"{stem}.safetensors", self._values, others)
            graph = self._read(stem, spec, values)
            self._functions[stem] = self._function(stem, with_own_results(graph), graph)
        try:
            with self._computing():
                return self._functions[stem](batch)
        except RuntimeError as e:
            if not _has_no_factors(e):
                raise
            raise BatchError(f"This batch cannot be {done}, as in eager PyTorch: {reason(e)}.") from e

    def _load(self, name: str) -> dict[str, torch.Tensor]:
        with self._open(name) as f:
            return {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """A file of tensors; whatever is wrong with it is said in words."""
        require_unchanged(self._folder, self._manifest, name)
        try:
            with safe_open(self._folder / name, framework="pt", device=str(self._device)) as f:
                yield f
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as e:
            raise ArtifactError(
                f"{self._folder / name} is damaged or no safetensors file ({reason(e)}). Compile the "
                "artefact again."
            ) from None

    def _read(self, stem: str, spec: GraphSpec, values: Mapping[str, torch.Tensor]) -> Graph:
        path = self._folder / f"{stem}.graph.json"
        require_unchanged(self._folder, self._manifest, path.name)
        try:
            text = read_text(path, MAX_BYTES)
        except (OSError, UnicodeDecodeError) as e:
            raise ArtifactError(f"Cannot read {path}: {reason(e)}. Compile the artefact again.") from None
        graph = graph_from_json(text, values, str(path))
        for mine, theirs in ((graph.inputs, spec.inputs), (graph.outputs, spec.outputs)):
            if _given(mine) != _given(theirs):
                raise ArtifactError(f"{path} and the manifest name different inputs or outputs.")
        return graph

    def _function(
        self, stem: str, code: fx.Graph, graph: Graph
    ) -> Callable[[Mapping[str, np.ndarray]], tuple[torch.Tensor, ...]]:
        """`code`, a form of `graph`, as a function of a batch; its other inputs are the values held."""
        bound = [{**self._values, **graph.values}.get(s.name) for s in graph.inputs]
        where = [(i, s.fqn) for i, s in enumerate(graph.inputs) if s.role is Role.BATCH]
        state = [(i, s.name) for i, s in enumerate(graph.inputs) if s.is_state]
        for i, _ in state:
            bound[i] = None
        if self._mode == "aot":
            require_unchanged(self._folder, self._manifest, f"{stem}.pt2")
            forward = load_package(self._folder / f"{stem}.pt2")
        else:
            _move(code, self._device)
            on_cpu = self._device.type == "cpu" and torch.backends.mkldnn.is_available()
            if on_cpu and self._mode != "compile":
                inputs = zip(code.find_nodes(op="placeholder"), graph.inputs, bound, strict=True)
                fixed = {n: v for n, s, v in inputs if v is not None and s.role not in (Role.LR, Role.SEED)}
                fuse_lstms(code, fixed)
            forward = fx.GraphModule(torch.nn.Module(), code).forward
        if self._mode == "compile":
            forward = torch.compile(forward, fullgraph=True, dynamic=False)

        def call(batch: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
            args = list(bound)
            for i, key in where:
                args[i] = _tensor(batch[key]).to(self._device)
            for i, name in state:
                args[i] = self._values[name]
            return forward(*args)

        return call

    @contextmanager
    def _computing(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.no_grad(), _whole_float32() if self._device.type == "cuda" else nullcontext():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)


class TorchRunner(TorchForward):
    """A `Runner` in PyTorch."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device, threads: int | None) -> None:
        super().__init__(folder, manifest, device, threads, {})
        for name in (STATE, "train.safetensors"):
            self._values.update(self._load(name))
        self._states = [s.name for s in manifest.train.state]
        for name in self._states:  # the file's own pages must not be written to
            self._values[name] = self._values[name].clone()
        for slot in manifest.train.inputs:
            if slot.role in (Role.LR, Role.SEED):
                self._values[slot.name] = torch.zeros(slot.shape, device=device)
        self._before: dict[str, torch.Tensor] = {}
        train = self._read("train", manifest.train, self._values)
        self._results = [s.name for s in train.outputs]
        self._next = {s.next_name: s.name for s in manifest.changing_state}
        self._checked = manifest.checked_state
        # Packages of older versions return the loss only, and write the state in place.
        self._updates_in_place = self._mode == "aot" and manifest.telling_state is None
        self._step = self._function("train", with_own_results(train), train)

    def step(self, batch: Mapping[str, np.ndarray], lr: float, keys: np.ndarray | None = None) -> float:
        self._values["lr"].fill_(lr)
        if keys is not None:
            self._values["seed"].copy_(_tensor(keys))
        self._before = {}  # frees what the step before the last one left
        before = {name: self._values[name] for name in self._next.values()}
        if self._updates_in_place:
            before = {name: value.clone() for name, value in before.items()}
        try:
            with self._computing():
                results = dict(zip(self._results, self._step(batch)))
                loss = float(results["loss"])
        except RuntimeError as e:
            if not _has_no_factors(e):
                raise
            self._before = before
            return math.nan
        self._values.update(
            {name: results[new].contiguous() for new, name in self._next.items() if new in results}
        )
        self._before = before
        return loss

    def nonfinite(self) -> list[str]:
        checked = {n: self._values[n].reshape(-1) for n in self._checked}
        with self._computing():
            squares = [value.dot(value).float() for value in checked.values()]
            if not squares or bool(torch.stack(squares).sum().isfinite()):
                return []
            return [n for n, value in checked.items() if not bool(value.isfinite().all())]

    def undo(self) -> None:
        self._values.update(self._before)

    def evaluate(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return _array(self._forward("eval", self._manifest.eval, batch, "evaluated")[0])

    def read_state(self) -> dict[str, np.ndarray]:
        return {n: self._values[n].cpu().numpy().copy() for n in self._states}


@contextmanager
def _whole_float32() -> Iterator[None]:
    """float32 as it is: CUDA's convolutions would round it to TF32, with ten bits of each number."""
    before = [place.fp32_precision for place in _ROUNDING]
    try:
        for place in _ROUNDING:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(_ROUNDING, before):
            place.fp32_precision = precision


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A copy; numpy has no bfloat16, which float32 holds exactly."""
    known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return known.cpu().numpy().copy()


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


# ---------------------------------------------------------------- results


def with_own_results(graph: Graph) -> fx.Graph:
    """The graph's code, its results in memory of their own.

    A result that may share memory with an input (a view of the old state, of the batch) is copied: inputs
    are the caller's to change.
    """
    new = fx.Graph()
    twin: dict[fx.Node, fx.Node] = {}
    new.graph_copy(graph.fx, twin)
    inputs = [twin[n] for n in graph.placeholders.values()]
    shared = set(inputs).union(*(_aliases(node) for node in inputs))
    results = []
    for node in output_args(graph.fx):
        value = twin[node]
        if value in shared:
            with new.inserting_after(inputs[-1] if value.op == "placeholder" else value):
                value = new.call_function(aten.clone.default, (value,))
        results.append(value)
    new.output(tuple(results))
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


def _may_alias(node: fx.Node) -> bool:
    """Whether the result may share memory with an argument: views, and composites that may return one."""
    if node.target is operator.getitem:
        return True
    op: Any = node.target
    if op.overloadpacket.__name__ in _HIDDEN_VIEWS or any(a.alias_info for a in op._schema.arguments):
        return True
    return op.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd)


def _given(slots: Iterable[Any]) -> list[tuple[Any, ...]]:
    """All but constants, of which a target may have made more."""
    return [(s.name, s.shape, s.dtype) for s in slots if s.role != Role.CONST]
