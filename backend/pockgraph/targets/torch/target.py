"""The PyTorch target: the graph itself, as JSON, run with PyTorch's native kernels.

A graph becomes `STEM.graph.json`, and its constants `STEM.safetensors`. What the folder's other
graph already stored is not stored again, and state is the artefact's business (`state.safetensors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import fx

from ...ir.graph import Graph
from ...ir.serialize import graph_to_json, op_name
from ...passes import Pipeline, shared
from ...passes.legalize import Legalize
from ...passes.optimize.lower_precision import LowerPrecision
from .. import Unsupported, check_choice, check_options, require_supported, unsupported_calls
from ..rule_table import in_no_target
from .aot_package import compile_package, require_compiler
from .runner import with_own_results

MODES = ("eager", "compile", "aot")
# float16 would need its loss scaled: its smallest gradients vanish.
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}


class Torch:
    """Runs the pruned graph in PyTorch; see the module.

    Options:
        mode: `"eager"` (default) runs operator by operator, with the numerics of eager autograd;
            `"compile"` hands the whole step to `torch.compile`, which needs a C++ compiler on the
            machine that trains, and some seconds at the first step;
            `"aot"` does that here, and adds `STEM.pt2` with the machine code (AOTInductor). That code
            runs on the CPU, under the same PyTorch and kind of processor only, and with all rights of
            whoever loads it: `Trainer.load` wants `allow_native_code=True` for it.
        precision: `"f32"` (default), or `"bf16"`: matrix products and convolutions as `torch.autocast`
            computes them, see `passes.lower_precision`. State and its update are float32 always.
    """

    name = "torch"
    integers_below = None

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        """Every operator of `graph` that no graph file may hold, and that stands for no others."""
        return unsupported_calls(graph, LEGALIZE.why_not)

    def pipeline(self, options: Mapping[str, Any]) -> Pipeline:
        """What goes before `write`.

        Raises:
            PockError: an option, a mode or a precision that this target does not have.
        """
        _, dtype = self._chosen(options)
        lower_precision = () if dtype == torch.float32 else (LowerPrecision(dtype),)
        return Pipeline(shared(self.integers_below), (LEGALIZE, *lower_precision))

    def write(self, graph: Graph, folder: Path, stem: str, options: Mapping[str, Any]) -> None:
        """Write `folder/stem.graph.json` and `folder/stem.safetensors`, in mode aot `folder/stem.pt2`.

        Raises:
            UnsupportedOperators: listing every operator that cannot be written.
            PockError: an option, a mode or a precision that this target does not have; mode aot where
                there is no C++ compiler.
        """
        mode, _ = self._chosen(options)
        if mode == "aot":
            require_compiler()
        require_supported(self, graph)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.graph.json").write_text(graph_to_json(graph), encoding="utf-8")
        constants = _constants(graph, _stored(folder))
        save_file(constants, folder / f"{stem}.safetensors")
        if mode == "aot":
            # Values are arguments, none is built in: the code is the same for all weights.
            inputs = [torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in graph.inputs]
            compile_package(with_own_results(graph), inputs, folder / f"{stem}.pt2")

    def _chosen(self, options: Mapping[str, Any]) -> tuple[str, torch.dtype]:
        """The mode, and what products are computed in."""
        check_options(self.name, options)
        precision = check_choice(self.name, options, "precision", tuple(PRECISIONS))
        return check_choice(self.name, options, "mode", MODES), PRECISIONS[precision]


def _refusal(node: fx.Node) -> str:
    """Why a graph file cannot hold a call, or an empty string."""
    if any(isinstance(a, complex) for a in (*node.args, *node.kwargs.values())):
        return "a graph file holds no complex Python numbers; make it a tensor of the model, such as a buffer"
    if reason := in_no_target(node):
        return reason
    try:
        op_name(node.target)
    except ValueError as e:
        return str(e)
    return ""


LEGALIZE = Legalize(_refusal)
TARGET = Torch()


def _constants(graph: Graph, stored: Mapping[str, Path]) -> dict[str, torch.Tensor]:
    """The values that are neither state, nor in state.safetensors, nor stored already."""
    in_part = {s.fqn for s in graph.inputs if s.is_state and s.indices is not None}
    constants: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for slot in graph.inputs:
        whole_of_part = slot.fqn in in_part and slot.name == f"param:{slot.fqn}"
        if slot.is_state or whole_of_part or slot.name not in graph.values:
            continue
        value = graph.values[slot.name].detach().cpu().contiguous()
        if slot.name in stored and _same(value, stored[slot.name], slot.name):
            continue
        # The file format has no tensors that share memory.
        storage = value.untyped_storage().data_ptr()
        shared = storage in storages or value.untyped_storage().nbytes() != value.nbytes
        storages.add(storage)
        constants[slot.name] = value.clone() if shared else value
    return constants


def _stored(folder: Path) -> dict[str, Path]:
    """Constant -> the file of this folder that holds it; of several, the one that was written first."""
    found: dict[str, Path] = {}
    stems = [path.name.removesuffix(".graph.json") for path in folder.glob("*.graph.json")]
    for stem in sorted(stems, key=_order):
        values = folder / f"{stem}.safetensors"
        if values.is_file():
            with safe_open(values, framework="pt") as f:
                found = {**dict.fromkeys(f.keys(), values), **found}
    return found


def _order(stem: str) -> tuple[int, int]:
    """Graphs are written in this order: the step, the evaluation, predictions of ascending sizes."""
    first = {"train": 0, "eval": 1}.get(stem, 2)
    size = stem.rpartition("-")[2]
    return first, int(size) if size.isdigit() else 0


def _same(value: torch.Tensor, path: Path, name: str) -> bool:
    with safe_open(path, framework="pt") as f:
        other = f.get_tensor(name)
    return other.dtype == value.dtype and torch.equal(other, value)
