"""Frozen matrices as whole numbers of one byte, and a scale for each row.

    W [rows, columns] float32   →   W' = numbers int8 * scales [rows, 1]

`rounded` says what is left of a matrix. It is float32 again, and holds its numbers and scales exactly:
graphs and eager PyTorch compute with it as with any other, and a target that stores `numbers_and_scales` in
its place stores the same weights. A row's largest number is ±127; a scale has 17 significant bits, so that
each product with a number of 7 bits is a float32 number, and dividing gives both back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, fx

from ..ir.graph import Graph, Role, aten
from .optimize.fold_constants import CONSTANT, PAGE_BYTES

LARGEST = 127
_DROPPED = 1 << 7  # of the 24 significant bits of a float32, the last 7
_LEAST_SCALE = 2.0**-100  # smaller ones would lose bits in float32; such rows are zeros


class Int8Rows(NamedTuple):
    """A matrix: `numbers` int8 [rows, columns] times `scales` float32 [rows, 1]."""

    numbers: Tensor
    scales: Tensor


def rounded(value: Tensor) -> Tensor | None:
    """The nearest matrix that one byte an element can hold, float32; None for numbers that are not finite.

    An element moves by at most half a scale: by 1/254 of its row's largest, or a little more.

    Args:
        value: float32 [rows, columns].
    """
    scales = _scales(value)
    found = (value / scales).round_().mul_(scales)
    found[scales.squeeze(1) < _LEAST_SCALE] = 0.0
    return found if bool(found.isfinite().all()) else None


def numbers_and_scales(value: Tensor) -> Int8Rows | None:
    """What a matrix that `rounded` made consists of; None for any other."""
    scales = _scales(value)
    numbers = value / scales
    if bool((numbers != numbers.round()).any()) or not torch.equal(numbers * scales, value):
        return None
    return Int8Rows(numbers.to(torch.int8), scales)


def _scales(value: Tensor) -> Tensor:
    """Of each row, a 127th of the largest size in it, rounded up; 1 for rows of zeros."""
    largest = value.abs().amax(1, keepdim=True)
    bits = (largest / LARGEST).view(torch.int32)
    scales = ((bits + (_DROPPED - 1)) & -_DROPPED).view(torch.float32)
    return torch.where(largest > 0, scales, 1.0)


def frozen_matrices(graph: Graph) -> dict[str, bool]:
    """Input slot name of each frozen float32 matrix of more than a page -> whether it is only multiplied by,
    as a linear layer does, and looked up in, as an embedding does, with what is no constant itself.

    A matrix that is only multiplied by as it lies (`x @ W`) does not fit: its rows are what a product sums
    over, and OpenVINO's products (2026.4) give wrong numbers with a scale for each of these.
    """
    constant = _constant_nodes(graph)
    found = {}
    for slot, node in zip(graph.inputs, graph.placeholders.values()):
        matrix = len(slot.shape) == 2 and slot.dtype == "float32" and slot.nbytes > PAGE_BYTES
        if slot.role is Role.PARAM and not slot.is_state and matrix:
            fits = all(_reads_weight(node, user, constant) for user in node.users)
            found[slot.name] = fits and any(_reads_rows(user) for user in node.users)
    return found


def weight_of_product(node: fx.Node) -> tuple[fx.Node, bool]:
    """What a product multiplies by, and whether that is transposed on the way.

    Args:
        node: a call of `mm` or `addmm`.
    """
    weight: fx.Node = node.args[-1]  # pyright: ignore
    if weight.op == "call_function" and weight.target is aten.permute.default:
        return weight.args[0], True  # pyright: ignore
    return weight, False


def _reads_weight(weight: fx.Node, user: fx.Node, constant: set[fx.Node]) -> bool:
    if user.target is aten.permute.default and len(user.users) > 0:
        return all(_is_product(user, u, constant) for u in user.users)
    if user.target is aten.embedding.default:
        return user.args[0] is weight and user.args[1] not in constant
    return _is_product(weight, user, constant)


def _reads_rows(user: fx.Node) -> bool:
    return user.target in (aten.permute.default, aten.embedding.default)


def _is_product(weight: fx.Node, user: fx.Node, constant: set[fx.Node]) -> bool:
    if user.target not in (aten.mm.default, aten.addmm.default):
        return False
    return user.args[-1] is weight and user.args[-2] not in constant and weight not in user.args[:-1]


def _constant_nodes(graph: Graph) -> set[fx.Node]:
    """What is computed from frozen values alone."""
    found = {
        node
        for slot, node in zip(graph.inputs, graph.placeholders.values())
        if slot.role in CONSTANT and not slot.is_state
    }
    for node in graph.nodes():
        if all(n in found for n in node.all_input_nodes):
            found.add(node)
    return found
