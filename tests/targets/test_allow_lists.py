"""The lists of operators that a file may hold are what the compiler can write, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import pockgraph
from pockgraph.ir.serialize import _find_op  # pyright: ignore[reportPrivateUsage]
from pockgraph.ir.validation import ALLOWED_OPERATORS
from pockgraph.passes.legalize.table import expansion_of
from pockgraph.runtime import onnx_file, openvino_xml
from pockgraph.runtime.quiet_openvino import ov
from pockgraph.targets.onnx.onnx_rules import RULES as ONNX_RULES
from pockgraph.targets.openvino.openvino_rules import RULES as OPENVINO_RULES
from pockgraph.targets.shared import elementwise, reduction

# Written by earlier releases, whose artefacts still open.
OPENVINO_RETIRED, ONNX_RETIRED = {"OneHot", "ScatterUpdate"}, {"OneHot", "Trilu"}

ROOT = Path(pockgraph.__file__).parent
aten = torch.ops.aten

# What capture takes out of a graph before anything is compiled.
GONE_AFTER_CAPTURE = {
    aten._assert_async, aten._linalg_check_errors, aten._local_scalar_dense, aten.as_strided,
    aten.as_strided_scatter, aten.bernoulli, aten.mkldnn_rnn_layer, aten.mkldnn_rnn_layer_backward,
    aten.native_dropout, aten.native_dropout_backward, aten.svd,
}  # fmt: skip


def source(folder: str) -> str:
    return "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / folder).rglob("*.py")))


def flat(name: str) -> str:
    return name.replace("_", "").lower()


def test_openvino_files_may_hold_what_a_lowering_writes_or_wrote_and_nothing_else() -> None:
    text = source("targets/openvino") + source("targets/shared")
    called = set(re.findall(r"\b(?:op|native)\.([a-z]\w*)", text))
    written = {name for name in called if hasattr(ov.opset15, name)}  # others are functions made of these
    tables = (*elementwise.UNARY.values(), *elementwise.COMPARISONS.values())
    written |= {n for n in tables if isinstance(n, str) and hasattr(ov.opset15, n)}
    written |= {f"{k}_{n}" for k in ("bitwise", "logical") for n in ("and", "or", "xor", "not")} | {"const"}
    written |= {f"reduce_{kind}" for kind in reduction.REDUCTIONS}
    assert not written & OPENVINO_RETIRED
    assert {flat(n) for n in written | OPENVINO_RETIRED} == {flat(n) for n in openvino_xml.ALLOWED_OPERATORS}


def test_onnx_files_may_hold_what_a_lowering_writes_or_wrote_and_nothing_else() -> None:
    written = {s for s in re.findall(r'"([A-Z]\w+)"', source("targets/onnx")) if onnx.defs.has(s)}
    assert not written & ONNX_RETIRED
    assert written | ONNX_RETIRED == onnx_file.ALLOWED_OPERATORS


def overloads(name: str) -> list[Any]:
    """Those that a graph file may hold."""
    found = []
    for overload in getattr(aten, name).overloads():
        try:
            op = _find_op(f"aten.{name}.{overload}")
            torch._C._dispatch_has_kernel(op.name())
        except (ValueError, RuntimeError):  # not allowed; a relic of TorchScript
            continue
        found.append(op)
    return found


def kernels(op: Any) -> set[str]:
    kinds = ("Meta", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional",
             "CompositeImplicitAutograd")  # fmt: skip
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {k for k in kinds if has(op.name(), k)}
    return found | ({"Meta"} if torch._C.DispatchKey.Meta in op.py_kernels else set())


@pytest.mark.parametrize("letter", sorted({n[0] for n in ALLOWED_OPERATORS}))
def test_a_graph_file_may_hold_operators_whose_results_can_be_checked_without_computing(letter: str) -> None:
    for name in sorted(n for n in ALLOWED_OPERATORS if n[0] == letter):
        assert any(kernels(op) for op in overloads(name)), f"{name} has no meta kernel: nothing can load it"


def test_no_operator_is_listed_that_capture_always_takes_apart() -> None:
    text = source(".")
    made = set(re.findall(r"\baten\.(\w+)", text))
    made.add("mish_backward")  # composite, but autograd calls it by name
    for name in ALLOWED_OPERATORS - made:
        assert any("CompositeImplicitAutograd" not in kernels(op) for op in overloads(name)), name


def refused(op: Any) -> bool:
    try:
        _find_op(str(op))
    except ValueError:
        return True
    return False


def stands_for_others(op: Any) -> bool:
    node = torch.fx.Graph().placeholder("x")
    node.target = op
    return expansion_of(node) is not None


@pytest.mark.parametrize("rules", [OPENVINO_RULES, ONNX_RULES])
def test_what_other_targets_lower_a_graph_file_may_hold(rules: dict[Any, Any]) -> None:
    assert not [op for op in rules if refused(op) and not stands_for_others(op)]


def test_what_passes_optimizers_and_rules_write_a_graph_file_may_hold() -> None:
    named = {
        getattr(getattr(aten, name), overload)
        for name, overload in re.findall(r"\baten\.(\w+)\.(\w+)\b", source("."))
        if overload in getattr(aten, name).overloads()
    }
    kept = (op for op in named if op.overloadpacket not in GONE_AFTER_CAPTURE)
    written = {op for op in kept if not op._schema.is_mutable}
    assert len(written) > 300
    assert not [op for op in written if refused(op) and not stands_for_others(op)]
