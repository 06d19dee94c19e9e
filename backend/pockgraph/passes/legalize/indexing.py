"""Windows, bags, and what is added or compared where an index says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


@expands(aten.index_fill.int_Tensor)
def index_fill(x: Tensor, dim: int, index: Tensor, value: Tensor) -> Tensor:
    if x.ndim == 0:
        return value.to(x.dtype).clone()
    index = torch.where(index < 0, index + x.shape[dim], index).reshape(-1)
    size = list(x.shape)
    size[dim] = index.numel()
    return x.index_copy(dim, index, value.to(x.dtype).expand(size))


@expands(aten.put.default)
def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool) -> Tensor:
    flat, index = x.reshape(-1), torch.where(index < 0, index + x.numel(), index).reshape(-1)
    new = flat.index_add if accumulate else flat.index_copy
    return new(0, index, source.reshape(-1)).reshape(x.shape)


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
