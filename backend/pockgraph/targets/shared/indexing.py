"""Gathers and scatters, in terms of a target's `emit`; what indexes several dimensions is expanded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...ir.graph import aten
from ...passes.legalize.indexing import is_of_rows
from .shared_rules import check, out_shape, rule


@rule(aten.embedding.default)
def embedding(
    emit: Any, node: fx.Node, weight: Any, index: Any, padding_idx: int, scale: bool, sparse: bool
) -> Any:
    return emit.native.gather(weight, index, 0)


@rule(aten.index_select.default)
def index_select(emit: Any, node: fx.Node, x: Any, dim: int, index: Any) -> Any:
    return emit.reshape(emit.native.gather(x, index, emit.axis(dim, emit.rank(x))), out_shape(node))


@rule(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(emit: Any, node: fx.Node, x: Any, indices: Sequence[Any]) -> Any:
    dim, index = next((d, i) for d, i in enumerate(indices) if i is not None)
    return emit.native.gather(x, index, dim)


@check(aten.index.Tensor, aten._unsafe_index.Tensor)
def _of_one_dimension(node: fx.Node, x: fx.Node, indices: Sequence[fx.Node | None]) -> str:
    given = [i.meta["val"] for i in indices if i is not None]
    if len(given) > 1:
        return "it indexes several dimensions"
    # The expansion says what to take instead.
    return "it takes a mask" if given[0].dtype in (torch.bool, torch.uint8) else ""


@rule(aten.scatter.src)
def scatter(emit: Any, node: fx.Node, x: Any, dim: int, index: Any, source: Any) -> Any:
    return _scattered(emit, x, dim, index, source, accumulate=False)


@rule(aten.scatter_add.default)
def scatter_add(emit: Any, node: fx.Node, x: Any, dim: int, index: Any, source: Any) -> Any:
    return _scattered(emit, x, dim, index, source, accumulate=True)


def _scattered(emit: Any, x: Any, dim: int, index: Any, source: Any, accumulate: bool) -> Any:
    for d, size in enumerate(emit.shape(index)):
        source = emit.cut(source, d, 0, size)
    return emit.native.scatter_elements(x, index, source, emit.axis(dim, emit.rank(x)), accumulate)


@rule(aten.index_add.default)
def index_add(emit: Any, node: fx.Node, x: Any, dim: int, index: Any, source: Any, alpha: float) -> Any:
    return emit.scatter_rows(x, index, source, accumulate=True)


@rule(aten.index_copy.default)
def index_copy(emit: Any, node: fx.Node, x: Any, dim: int, index: Any, source: Any) -> Any:
    return emit.scatter_rows(x, index, source, accumulate=False)


@check(aten.index_add.default, aten.index_copy.default)
def _of_rows(node: fx.Node, *args: Any) -> str:
    return "" if is_of_rows(node) else "it changes no rows of a matrix"
