"""Windows, bags, and what is read, written, added or compared where an index says.

Indexing several dimensions is done on a matrix: they are moved to the front and flattened into rows, and
their indices become one row number each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .table import Inexpansible, expands

aten = torch.ops.aten


@expands(aten.unfold.default)
def unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    if x.ndim == 0:
        return x.reshape(1)
    dim %= x.ndim
    count = (x.shape[dim] - size) // step + 1
    places = torch.arange(count)[:, None] * step + torch.arange(size)
    windows = x.index_select(dim, places.reshape(-1)).unflatten(dim, (count, size))
    return windows.movedim(dim + 1, -1)


# ---------------------------------------------------------------- scatters


@expands(aten.scatter_reduce.two)
def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    if x.ndim == 0:
        x, index, source = x.reshape(1), index.reshape(1), source.reshape(1)
        return scatter_reduce(x, 0, index, source, reduce, include_self=include_self).reshape(())
    dim %= x.ndim
    source = source[tuple(slice(0, s) for s in index.shape)]
    if reduce in ("sum", "mean"):
        base = x if include_self else x.scatter(dim, index, 0.0)
        total = base.scatter_add(dim, index, source)
        if reduce == "sum":
            return total
        ones = torch.ones_like(x)
        count = ones if include_self else ones.scatter(dim, index, 0.0)
        count = count.scatter_add(dim, index, torch.ones_like(source))
        count = count.clamp_min(1)
        return total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="floor")
    # Every element looks at all that are sent along its line.
    sent = source.movedim(dim, -1).unsqueeze(-2)
    to = index.movedim(dim, -1).unsqueeze(-2) == torch.arange(x.shape[dim])[:, None]
    lines = x.movedim(dim, -1)
    inner = lines[tuple(slice(0, s) for s in to.shape[:-2])]
    if x.is_floating_point() or reduce == "prod":
        neutral: Any = {"amax": -math.inf, "amin": math.inf, "prod": 1}[reduce]
    else:  # the runtimes' integers have no common bounds
        neutral = sent.amin(-1, keepdim=True) if reduce == "amax" else sent.amax(-1, keepdim=True)
    taken = torch.where(to, sent, neutral)
    found = {"amax": taken.amax, "amin": taken.amin, "prod": taken.prod}[reduce](-1)
    if include_self:
        join = {"amax": torch.maximum, "amin": torch.minimum, "prod": torch.mul}[reduce]
        found = join(inner, found)
    result = torch.where(to.any(-1), found, inner)
    if inner.shape != lines.shape:
        raise Inexpansible(
            f"scatter_reduce with {reduce!r} and an index smaller than its tensor is not lowered. "
            "Narrow the tensor to the index first"
        )
    return result.movedim(-1, dim)


@expands(aten.scatter.value)
def scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    return x.scatter(dim, index, torch.full_like(index, value, dtype=x.dtype))


@expands(aten.index_fill.int_Scalar)
def index_fill_with_number(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    return index_fill(x, dim, index, torch.full((), value, dtype=x.dtype))


@expands(aten.index_fill.int_Tensor)
def index_fill(x: Tensor, dim: int, index: Tensor, value: Tensor) -> Tensor:
    if x.ndim == 0:
        return value.to(x.dtype).clone()
    index = _row_numbers(x, [dim], [index.reshape(-1)])
    size = list(x.shape)
    size[dim] = index.numel()
    return x.index_copy(dim, index, value.to(x.dtype).expand(size))


@expands(aten.put.default)
def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool) -> Tensor:
    flat, index = x.reshape(-1), torch.where(index < 0, index + x.numel(), index).reshape(-1)
    new = flat.index_add if accumulate else flat.index_copy
    return new(0, index, source.reshape(-1)).reshape(x.shape)


# ---------------------------------------------------------------- rows


def is_of_rows(node: fx.Node) -> bool:
    """Does an `index_add` or `index_copy` change the rows of a matrix, as its expansion does?"""
    args: Any = node.args
    x, dim, index = args[:3]
    plain = x.meta["val"].ndim == 2 and dim == 0 and index.meta["val"].ndim == 1
    return bool(plain and node.kwargs.get("alpha", 1) == 1)


def _as_rows(x: Tensor, dims: Sequence[int]) -> Tensor:
    """`x` as a matrix whose rows are numbered by `dims`."""
    rest = [d for d in range(x.ndim) if d not in dims]
    count = math.prod(x.shape[d] for d in dims)
    return x.permute([*dims, *rest]).reshape(count, math.prod(x.shape[d] for d in rest))


def _from_rows(matrix: Tensor, like: Tensor, dims: Sequence[int]) -> Tensor:
    """The way back."""
    rest = [s for d, s in enumerate(like.shape) if d not in dims]
    moved = matrix.reshape([*(like.shape[d] for d in dims), *rest])
    return moved.movedim(list(range(len(dims))), list(dims))


def _row_numbers(x: Tensor, dims: Sequence[int], indices: Sequence[Tensor]) -> Tensor:
    """Row numbers for `_as_rows(x, dims)`; negative indices count from the end."""
    rows = None
    for dim, index in zip(dims, indices, strict=True):
        index, size = index.to(torch.int64), x.shape[dim]
        index = torch.where(index < 0, index + size, index)
        rows = index if rows is None else rows * size + index
    assert rows is not None
    return rows


@expands(aten.index_copy.default)
def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return _changed_rows(x, dim, index, source, accumulate=False)


@expands(aten.index_add.default)
def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    return _changed_rows(x, dim, index, source if alpha == 1 else source * alpha, accumulate=True)


def _changed_rows(x: Tensor, dim: int, index: Tensor, source: Tensor, accumulate: bool) -> Tensor:
    if x.ndim == 0:
        return x + source.reshape(()) if accumulate else source.reshape(())
    dim, index = dim % x.ndim, index.reshape(-1)
    if x.ndim == 2 and dim == 0:  # as a runtime may lack it that has core ATen
        return x.index_put([index], source, accumulate)
    rows, source = _as_rows(x, [dim]), _as_rows(source, [dim])
    changed = rows.index_add(0, index, source) if accumulate else rows.index_copy(0, index, source)
    return _from_rows(changed, x, [dim])


def _indexed(indices: Sequence[Tensor | None]) -> tuple[list[int], list[Tensor], int]:
    """The indexed dimensions, their indices, and where the index dimensions stand in the result."""
    dims = [d for d, index in enumerate(indices) if index is not None]
    given = [i for i in indices if i is not None]
    if any(i.dtype in (torch.bool, torch.uint8) for i in given):
        raise Inexpansible("a boolean mask as index makes shapes depend on data; use torch.where")
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    return dims, given, dims[0] if adjacent else 0


@expands(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    dims, given, at = _indexed(indices)
    numbers = _row_numbers(x, dims, given)
    rest = [s for d, s in enumerate(x.shape) if d not in dims]
    picked = _as_rows(x, dims).index_select(0, numbers.reshape(-1)).reshape([*numbers.shape, *rest])
    n = numbers.ndim
    return picked.permute([*range(n, n + at), *range(n), *range(n + at, picked.ndim)])


@expands(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool) -> Tensor:
    dims, given, at = _indexed(indices)
    numbers = _row_numbers(x, dims, given)
    rest = [s for d, s in enumerate(x.shape) if d not in dims]
    n = numbers.ndim
    values = values.expand([*rest[:at], *numbers.shape, *rest[at:]])
    values = values.permute([*range(at, at + n), *range(at), *range(at + n, values.ndim)])
    rows = _as_rows(x, dims)
    put = rows.index_add if accumulate else rows.index_copy
    return _from_rows(put(0, numbers.reshape(-1), values.reshape(numbers.numel(), rows.shape[1])), x, dims)


@expands(aten.embedding_dense_backward.default)
def embedding_backward(
    dy: Tensor, index: Tensor, rows: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    dy, index = dy.reshape(-1, dy.shape[-1]), index.reshape(-1)
    if scale_grad_by_freq:
        counts = dy.new_zeros(rows).index_add(0, index, dy.new_ones(len(index)))
        dy = dy / counts.index_select(0, index).unsqueeze(1)
    if padding_idx >= 0:
        dy = dy * (index != padding_idx).to(dy.dtype).unsqueeze(1)
    return dy.new_zeros(rows, dy.shape[1]).index_add(0, index, dy)


# ---------------------------------------------------------------- bags of embeddings


def _bags(indices: Tensor, offsets: Tensor, include_last_offset: bool) -> tuple[Tensor, int]:
    """The bag of each index [n], and how many bags there are."""
    starts = offsets[:-1] if include_last_offset else offsets
    place = torch.arange(indices.shape[0], dtype=offsets.dtype)
    # Offsets that do not begin at 0 are refused elsewhere; meanwhile nothing is read out of bounds.
    return ((place[:, None] >= starts).sum(1) - 1).clamp_min(0), starts.shape[0]


def _shares(
    indices: Tensor, bag: Tensor, bags: int, mode: int, weights: Tensor | None, padding_idx: int, like: Tensor
) -> Tensor:
    """What each index counts in its bag, [n, 1]."""
    kept = (indices != padding_idx) if padding_idx >= 0 else torch.ones_like(indices, dtype=torch.bool)
    share = kept.to(like.dtype)
    if mode == 1:
        size = share.new_zeros(bags).index_add(0, bag, share)
        share = share / size.clamp_min(1).index_select(0, bag)
    if weights is not None:
        share = share * weights
    return share[:, None]


def _refuse_bags(mode: int, scale_grad_by_freq: bool, sparse: bool) -> None:
    if mode == 2:
        raise Inexpansible(
            "an embedding bag of mode 'max' is not lowered. Take nn.Embedding and .amax(1), or mode 'sum'"
        )
    if scale_grad_by_freq or sparse:
        raise Inexpansible("scale_grad_by_freq and sparse gradients of embedding bags are not supported")


@expands(aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _refuse_bags(mode, scale_grad_by_freq, sparse)
    bag, bags = _bags(indices, offsets, include_last_offset)
    share = _shares(indices, bag, bags, mode, weights, padding_idx, weight)
    rows = weight.index_select(0, indices) * share
    size = torch.zeros_like(offsets[:bags]).index_add(0, bag, torch.ones_like(bag).to(offsets.dtype))
    return weight.new_zeros(bags, weight.shape[1]).index_add(0, bag, rows), bag, size, size


@expands(aten._embedding_bag_backward.default)
def embedding_bag_backward(
    dy: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    rows: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    weights: Tensor | None,
    padding_idx: int,
) -> Tensor:
    _refuse_bags(mode, scale_grad_by_freq, sparse)
    bags = dy.shape[0]
    bag, _ = _bags(indices, offsets[:bags], False)
    share = _shares(indices, bag, bags, mode, weights, padding_idx, dy)
    return dy.new_zeros(rows, dy.shape[1]).index_add(0, indices, dy.index_select(0, bag) * share)


@expands(aten._embedding_bag_per_sample_weights_backward.default)
def embedding_bag_weights_backward(
    dy: Tensor,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    mode: int,
    padding_idx: int,
) -> Tensor:
    bag, _ = _bags(indices, offsets[: dy.shape[0]], False)
    found = (weight.index_select(0, indices) * dy.index_select(0, bag)).sum(1)
    return torch.where(indices == padding_idx, 0.0, found) if padding_idx >= 0 else found


@expands(aten.embedding_renorm.default)
def embedding_renorm(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> Tensor:
    norms = torch.linalg.vector_norm(weight, norm_type, 1)
    read = torch.zeros_like(norms).index_fill(0, indices.reshape(-1), 1.0)
    scale = torch.where((norms > max_norm) & (read > 0), max_norm / (norms + 1e-7), 1.0)
    return weight * scale[:, None]


# ---------------------------------------------------------------- sorted tables


def _count_before(table: Tensor, x: Tensor, right: bool) -> Tensor:
    """How many of `table` [..., n] lie before each of x [..., m] (at it, too, with `right`)."""
    below = (table.unsqueeze(-2) <= x.unsqueeze(-1)) if right else (table.unsqueeze(-2) < x.unsqueeze(-1))
    return below.sum(-1)


@expands(aten.searchsorted.Tensor)
def searchsorted(
    table: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    if sorter is not None:
        table = table.gather(-1, sorter)
    right = right or side == "right"
    if table.ndim == 1:
        found = _count_before(table, x.reshape(-1), right).reshape(x.shape)
    else:
        found = _count_before(table, x, right)
    return found.to(torch.int32 if out_int32 else torch.int64)


@expands(aten.bucketize.Tensor)
def bucketize(x: Tensor, table: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    return searchsorted(table, x, out_int32=out_int32, right=right)


# ---------------------------------------------------------------- copies with another shape


@expands(aten.rot90.default)
def rot90(x: Tensor, times: int, dims: Sequence[int]) -> Tensor:
    a, b = dims
    match times % 4:
        case 1:
            return x.flip(b).transpose(a, b)
        case 2:
            return x.flip(a, b)
        case 3:
            return x.flip(a).transpose(a, b)
    return x.clone()
