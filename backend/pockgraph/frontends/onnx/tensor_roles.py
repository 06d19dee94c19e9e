"""What each floating-point tensor of a model is: a parameter, a buffer, or a constant.

A weight at its operator's own place (a convolution's kernel, a norm's scale) is a parameter whatever
its size. Elsewhere a tensor is one if it has more than one element: single numbers in arithmetic are
constants of the formula. Masks (with values no weight has), running statistics and operands of
comparisons are buffers; whatever decides a shape is a constant. So is what an exporter made: PyTorch's
writes no weight as a `Constant` node, and gives a norm without weights a scale of ones and a bias of zeros
under a name that it counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CaptureError, suggest
from ...globs import matches
from .operator_rules import Rule, find_rule
from .program import Node, Program

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
SHAPE_ONLY = ("Shape", "Size")
NORMS = ("InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization")
LARGEST_WEIGHT = 1e30
# A scale of ones or a bias of zeros that an exporter made: PyTorch's in this name, Paddle's in the others.
_COUNTED = re.compile(r"^(val_\d+|(.*\.)?helper\.constant\.\d+|(.*/)?Constant(_\d+)?(_output_0)?)$")


@dataclass(frozen=True)
class TensorRole:
    """A tensor that the module holds.

    Attributes:
        trained: a parameter; else a buffer.
        leaf: the last part of its FQN.
        node: the first operator that reads it.
        flat: it has one dimension of more than one element, and is held as a vector.
        made: by an exporter, so that it is no parameter of the original model.
    """

    trained: bool
    leaf: str
    node: Node
    flat: bool
    made: bool = False


def is_float(value: np.ndarray) -> bool:
    return np.issubdtype(value.dtype, np.floating) or value.dtype.name.startswith(("bfloat", "float"))


def shape_deciding(program: Program) -> set[str]:
    """Tensors whose values some operator needs before the run, followed upstream."""
    found: set[str] = set()
    for node in reversed(program.nodes):
        rule = find_rule(node.op, node.version)
        for i, name in enumerate(node.inputs):
            if (rule and rule.is_host(i)) or (
                node.op not in SHAPE_ONLY and not found.isdisjoint(filter(None, node.outputs))
            ):
                found.add(name)
    return found - {""}


def find_tensor_roles(
    program: Program, parameters: Sequence[str], constants: Sequence[str]
) -> dict[str, TensorRole]:
    """Tensor name -> role, for all that the module holds.

    Args:
        parameters: globs of tensor names to train in any case.
        constants: globs of tensor names not to train.

    Raises:
        CaptureError: a glob matches nothing, or asks for what cannot be trained.
    """
    floats = [name for name, value in program.tensors.items() if is_float(value)]
    forced = _matching(parameters, floats, "parameters")
    kept = _matching(constants, floats, "constants")
    deciding = shape_deciding(program)
    roles = {}
    for name in floats:
        if name in deciding:
            if name in forced:
                raise CaptureError(f"{name!r} decides a shape or a bound and cannot be a parameter.")
            continue
        role = _role(program, name, name in forced, name in kept)
        if role:
            roles[name] = role
    return roles


def _matching(globs: Sequence[str], names: Sequence[str], what: str) -> set[str]:
    found: set[str] = set()
    for glob in globs:
        matched = [n for n in names if matches(n, glob)]
        if not matched:
            raise CaptureError(
                f"{what}={glob!r} matches no floating-point tensor of the model.{suggest(glob, names)}"
            )
        found.update(matched)
    return found


def _role(program: Program, name: str, forced: bool, kept: bool) -> TensorRole | None:
    value, uses = program.tensors[name], program.uses.get(name, [])
    if not uses:
        return None
    rules = [(node, i, find_rule(node.op, node.version)) for node, i in uses]
    elementwise = all(node.op in ELEMENTWISE for node, _ in uses)
    flat = elementwise and value.ndim > 1 and value.size == max(value.shape)
    node, i, rule = next(((n, i, r) for n, i, r in rules if _leaf(r, i)), rules[0])
    own_leaf = _leaf(rule, i)
    leaf = own_leaf or ("weight" if value.ndim > 1 else "bias")
    if elementwise and leaf == "bias" and value.ndim > 1 and not flat:
        leaf = "weight"
    if forced:
        return TensorRole(True, leaf, node, flat)
    is_buffer = all(r is not None and r.input_name(i) in r.buffers for _, i, r in rules)
    if is_buffer or kept or not (np.abs(value.astype(np.float64)) < LARGEST_WEIGHT).all():
        # One number alone stays a number, unless it is the statistic of a norm over one channel.
        held = value.size > 1 or (is_buffer and own_leaf)
        return TensorRole(False, own_leaf or "value", node, False) if held else None
    own_place = bool(own_leaf) and node.op not in ELEMENTWISE
    if value.size > 1 or own_place or (node.op == "Add" and follows_product(program, node, name)):
        if name in program.made or _is_neutral(name, value, rules):
            return TensorRole(False, own_leaf or "value", node, False, made=True)
        return TensorRole(True, leaf, node, flat)
    return None


def _is_neutral(name: str, value: np.ndarray, rules: Sequence[tuple[Node, int, Rule | None]]) -> bool:
    """Whether a tensor is what an exporter gives a norm that has no scale or no bias."""
    if not _COUNTED.match(name) or any(node.op not in NORMS for node, _, _ in rules):
        return False
    leaves = {_leaf(rule, i) for _, i, rule in rules}
    return (leaves == {"weight"} and bool((value == 1).all())) or (
        leaves == {"bias"} and bool((value == 0).all())
    )


def _leaf(rule: Rule | None, position: int) -> str:
    return rule.leaves.get(rule.input_name(position), "") if rule else ""


def follows_product(program: Program, node: Node, name: str) -> Node | None:
    """The matrix product or convolution whose result `node` adds `name` to."""
    for other in node.inputs:
        producer = program.producers.get(other)
        if other != name and producer is not None and producer.op in PRODUCTS:
            return producer
    return None
