"""Operators that only move elements, in terms of a target's `emit`. Every size is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from ...ir.graph import aten, bound_args
from .shared_rules import folds, moves, out_shape, rule

RESHAPES = (
    aten.reshape.default, aten._reshape_copy.default, aten.unsqueeze.default, aten.squeeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.view_copy.default,
)  # fmt: skip


@moves(*RESHAPES)
def reshape(emit: Any, node: fx.Node, x: Any, *size: Any) -> Any:
    return emit.reshape(x, out_shape(node))


@moves(aten.expand.default, aten.expand_copy.default)
def expand(emit: Any, node: fx.Node, x: Any, *size: Any) -> Any:
    return emit.broadcast(x, out_shape(node))


@moves(aten.permute.default)
def permute(emit: Any, node: fx.Node, x: Any, dims: Sequence[int]) -> Any:
    return emit.transpose(x, dims)


@moves(aten.flip.default)
def flip(emit: Any, node: fx.Node, x: Any, dims: Sequence[int]) -> Any:
    return emit.flip(x, dims)


@moves(aten.select.int)
def select(emit: Any, node: fx.Node, x: Any, dim: int, index: int) -> Any:
    index %= emit.shape(x)[dim]
    return emit.reshape(emit.cut(x, dim, index, index + 1), out_shape(node))


@moves(aten.cat.default)
def cat(emit: Any, node: fx.Node, parts: Sequence[Any], dim: int) -> Any:
    out = node.meta["val"]
    parts = [p for p in parts if 0 not in emit.shape(p)]
    if not parts:
        return emit.full(0, tuple(out.shape), out.dtype)
    return emit.concat([emit.convert(p, out.dtype) for p in parts], emit.axis(dim, out.ndim))


@rule(aten.split.Tensor)
def split(emit: Any, node: fx.Node, x: Any, size: int, dim: int) -> tuple[Any, ...]:
    return emit.split(x, [tuple(v.shape)[dim] for v in node.meta["val"]], dim)


@rule(aten.split_with_sizes.default)
def split_with_sizes(emit: Any, node: fx.Node, x: Any, sizes: Sequence[int], dim: int) -> tuple[Any, ...]:
    return emit.split(x, sizes, dim)


@rule(aten.repeat.default)
def repeat(emit: Any, node: fx.Node, x: Any, times: Sequence[int]) -> Any:
    x = emit.reshape(x, [*[1] * (len(times) - emit.rank(x)), *emit.shape(x)])
    return emit.native.tile(x, times) if times else x


def span_of(size: int, start: int | None, end: int | None, step: int) -> tuple[int, int, int]:
    start, stop, _ = slice(start, end).indices(size)
    return start, max(start, stop), step


@moves(aten.slice.Tensor)
@folds
def cut(emit: Any, values: Mapping[fx.Node, Any], node: fx.Node, *args: Any) -> Any:
    """Slices of slices, each along another dimension, are one."""
    spans: dict[int, tuple[int, int, int]] = {}
    source: Any = node
    while source.target is aten.slice.Tensor:
        inner, dim, start, end, step = bound_args(source)
        dim = emit.axis(dim, inner.meta["val"].ndim)
        if dim in spans:
            break
        spans[dim] = span_of(inner.meta["val"].shape[dim], start, end, step)
        source = inner
    return emit.cut_many(values[source], list(spans), list(spans.values()))
