"""What a model holds that cannot be trained, all of it at once and before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from ...errors import UnsupportedOperators
from .operator_rules import RULES, find_rule
from .program import Node, Program
from .tensor_roles import SHAPE_ONLY, TensorRole

CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
DATA_DEPENDENT = ("NonZero", "Unique", "Compress", "NonMaxSuppression")
RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)
QUANTISED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger",
)  # fmt: skip
# 1 stands for the model's own floating point: a module that is cast to double stays one type throughout.
CASTS = (1, 2, 3, 5, 6, 7, 9, 10, 11, 16)
INPUT_KINDS = "biufc"  # numpy's letters; text, bfloat16 and the small floats have others


def known_beforehand(program: Program, held: Set[str]) -> set[str]:
    """Tensors that depend on shapes and constants only."""
    known = {name for name in program.tensors if name not in held}
    for node in program.nodes:
        if node.op in SHAPE_ONLY or all(name in known for name in filter(None, node.inputs)):
            known.update(filter(None, node.outputs))
    return known


def require_supported(program: Program, roles: Mapping[str, TensorRole], path: object) -> None:
    """Refuse a model with operators or weights that cannot be trained.

    Raises:
        UnsupportedOperators: listing every one, with its node and the reason.
    """
    held = {*roles}
    known = known_beforehand(program, held)
    problems = []
    for node in program.nodes:
        beforehand = all(name in known for name in filter(None, node.outputs))
        if reason := _refusal(node, beforehand):
            problems.append(f"{node.where}: {reason}")
    for name, given in program.inputs.items():
        if given.dtype.kind not in INPUT_KINDS:
            problems.append(f"input {name!r}: it is {given.dtype.name}, which PyTorch cannot take from numpy")
    for name, role in roles.items():
        value = program.tensors[name]
        dtype = value.dtype.name
        if np.isnan(value).any():
            problems.append(f"weight {name!r} of {role.node.where}: it holds NaN")
        if dtype != "float32":
            problems.append(
                f"weight {name!r} of {role.node.where}: it is {dtype}, and training needs float32"
            )
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        raise UnsupportedOperators(
            f"{path} cannot be trained as it is, for {len(problems)} reason{'s' * (len(problems) > 1)}:\n"
            f"{lines}\nExport the model anew without these, or train a part before them: outputs=[…] "
            "names the tensors that the part returns."
        )


def _refusal(node: Node, beforehand: bool) -> str:
    if node.op in CONTROL_FLOW:
        return "control flow cannot be compiled into one fixed step; export the model for a fixed path"
    if "::" in node.op:
        return f"operators of the domain {node.op.partition('::')[0]!r} are not supported, only ONNX's own"
    if not node.version:
        return "ONNX defines no such operator in the model's opset"
    if beforehand:
        return ""
    if node.op in QUANTISED:
        return "a quantised model cannot be trained; export it in float32"
    if node.op in DATA_DEPENDENT:
        return "the shape of its result depends on the values of a tensor"
    if node.op in RANDOM:
        return "it draws random numbers"
    if node.op not in RULES:
        return "this operator is not supported"
    rule = find_rule(node.op, node.version)
    if rule is None:
        forms = ", ".join(map(str, sorted(RULES[node.op])))
        return f"its form of opset {node.version} is not supported, only those of opsets {forms}"
    unknown = sorted({*node.attributes} - rule.attributes)
    if unknown:
        return f"its attribute {unknown[0]!r} is not supported"
    if len(node.inputs) > len(rule.inputs) and not rule.variadic:
        return f"it has {len(node.inputs)} inputs, of which {len(rule.inputs)} are supported"
    further = [name for name in node.outputs[rule.outputs :] if name]
    if further:
        return f"its further output {further[0]!r} is not supported"
    if node.mistake:
        return f"ONNX's checker refuses it: {node.mistake}"
    if node.op == "Cast" and node.attributes["to"] not in CASTS:
        return f"it converts to ONNX's type {node.attributes['to']}, which is not supported"
    return rule.check(node.attributes) if rule.check else ""
