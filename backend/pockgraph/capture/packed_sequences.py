"""Packed sequences as padded ones, while a model is traced.

The data of a `PackedSequence` has a row for every step of every sample, as many as the lengths in the batch
say. Here it has all rows of the padded sequence, `[T * N, …]` in the order of time, and a mask says which of
them are there. Recurrent layers take the mask; padding the sequence again fills the other rows; what else
would see them is refused. Samples stay in the order of the batch, so that no permutation is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import rnn

from ..recurrent.layers import LAYERS
from ..recurrent.operators import ops
from . import refusals
from .refusals import ENGINE_ROOT, TORCH_ROOT, NotOneGraph

_PACK: CodeType = rnn.pack_padded_sequence.__code__
_PAD: CodeType = rnn.pad_packed_sequence.__code__
# Functions that give each row of their first operand a row, whatever stands in the others.
_BY_ROW = {
    "dropout", "elu", "embedding", "exp", "float", "gelu", "hardtanh", "leaky_relu", "linear", "log", "relu",
    "relu_", "sigmoid", "silu", "tanh", "to", "contiguous", "detach", "clone",
}  # fmt: skip
_OF_TWO = {
    "add", "sub", "mul", "div", "__add__", "__sub__", "__mul__", "__truediv__", "__radd__", "__rmul__",
    "__rsub__",
}  # fmt: skip
_ALONG = {"softmax": 1, "log_softmax": 1, "layer_norm": 1}  # position of the dimension, or of the shape


@dataclass(frozen=True)
class _Packing:
    """Attributes:
    given: the lengths as the user gave them.
    lengths: int64 [N].
    valid: bool [T, N].
    fixed: the lengths are the same for every batch.
    """

    given: Tensor
    lengths: Tensor
    valid: Tensor
    fixed: bool

    @property
    def shape(self) -> torch.Size:
        return self.valid.shape

    def mask(self, ndim: int, valid: Tensor | None = None) -> Tensor:
        """`valid`, to be broadcast over a sequence [T, N, …] of `ndim` dimensions."""
        valid = self.valid if valid is None else valid
        return valid.reshape(*valid.shape, *[1] * (ndim - 2))


class PackedSequences:
    """Those of one run of the user's code. Tensors are known by their ids, and kept so that these stay."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Tensor, _Packing]] = {}
        self._sizes: dict[int, Tensor] = {}
        self._orders: dict[int, Tensor] = {}
        self._values: dict[int, tuple[Tensor, Sequence[int]]] = {}

    def call(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, caller: FrameType) -> Any:
        """What a call of a torch function gives, or NotImplemented where it sees no packed sequence.

        Raises:
            NotOneGraph: it would see rows that are not there.
        """
        if name in ("tensor", "as_tensor") and type(args[0]) in (list, tuple):
            return self._written(func(*args, **kwargs), args[0])
        if name in ("to", "cpu", "long", "int") and id(args[0]) in self._values:
            return self._written(func(*args, **kwargs), self._values[id(args[0])][1])
        if name == "sort" and caller.f_code is _PACK:
            order = torch.arange(len(args[0]))
            self._orders[id(order)] = order
            return args[0], order
        if name == "_pack_padded_sequence":
            return self._pack(args[0], args[1], args[2], caller)
        if name in LAYERS and not isinstance(args[3], bool):
            return self._layers(name, *args)
        if name == "_pad_packed_sequence":
            return self._pad(args, caller)
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        for a in args:
            if isinstance(a, list | tuple):
                tensors += [b for b in a if isinstance(b, Tensor)]
        within = caller.f_code.co_filename.startswith((TORCH_ROOT, ENGINE_ROOT))
        if within and any(id(t) in self._orders for t in tensors):
            return self._in_order(name, args)
        if any(id(t) in self._sizes for t in tensors):
            if within and name == "__getitem__" and args[1] == 0:
                return self._samples(args[0])
            raise NotOneGraph(refusals.PACKED_SIZES)
        packings = [self._rows[id(t)][1] for t in tensors if id(t) in self._rows]
        if not packings:
            return NotImplemented
        if not self._by_row(name, args, kwargs, packings):
            steps = packings[0].shape[0]
            raise NotOneGraph(refusals.PACKED_ROWS.format(name=name.strip("_"), steps=steps))
        return self._known(func(*args, **kwargs), packings[0])

    def _known(self, rows: Tensor, packing: _Packing) -> Tensor:
        self._rows[id(rows)] = rows, packing
        return rows

    def _written(self, lengths: Tensor, values: Sequence[int]) -> Tensor:
        """A tensor of numbers in the user's code, which has none of its own while it is traced."""
        if all(type(v) is int for v in values):
            self._values[id(lengths)] = lengths, values
        return lengths

    def _samples(self, sizes: Tensor) -> int:
        return next(p.shape[1] for _, p in self._rows.values() if p.shape[0] == len(sizes))

    def _in_order(self, name: str, args: Any) -> Any:
        """Permutations from and to the order of lengths, which is here that of the batch."""
        if name in ("index_select", "__getitem__"):
            return args[0]
        return next(a for a in args if id(a) in self._orders)

    def _pack(
        self, x: Tensor, lengths: Tensor, batch_first: bool, caller: FrameType
    ) -> tuple[Tensor, Tensor]:
        x = x.transpose(0, 1) if batch_first else x
        descending = caller.f_code is not _PACK or caller.f_locals["enforce_sorted"]
        steps, samples = x.shape[:2]
        if lengths.shape != (samples,):
            raise RuntimeError(
                f"Expected `len(lengths)` to be equal to batch_size, but got {list(lengths.shape)} "
                f"(batch_size={samples})"
            )
        values = self._known_values(lengths)
        if values is None:
            known = ops.lengths.default(lengths, steps, False, descending)
        else:
            _check(values, steps, descending)
            known, steps = lengths, max(values)
            x = x[:steps]
        packing = _Packing(lengths, known, torch.arange(steps).unsqueeze(1) < known, values is not None)
        rows = self._known(x.masked_fill(~packing.mask(x.ndim), 0).flatten(0, 1), packing)
        sizes = packing.valid.sum(1)
        self._sizes[id(sizes)] = sizes
        return rows, sizes

    def _known_values(self, lengths: Tensor) -> list[int] | None:
        """The lengths, where they are numbers in the user's code; None where each batch has its own."""
        if id(lengths) in self._values:
            return [*self._values[id(lengths)][1]]
        return None if isinstance(lengths, FakeTensor) else [int(v) for v in lengths.tolist()]

    def _padded(self, rows: Tensor) -> tuple[Tensor, _Packing]:
        if id(rows) not in self._rows:
            raise NotOneGraph(refusals.PACKED_BY_HAND)
        packing = self._rows[id(rows)][1]
        return rows.unflatten(0, packing.shape), packing

    def _layers(self, name: str, rows: Tensor, sizes: Tensor, *args: Any) -> tuple[Tensor, ...]:
        x, packing = self._padded(rows)
        outputs, *states = LAYERS[name](x, *args, False, packing.mask(3))
        return self._known(outputs.flatten(0, 1), packing), *states

    def _pad(self, args: Any, caller: FrameType) -> tuple[Tensor, Tensor]:
        rows, _, batch_first, value, steps = args
        x, packing = self._padded(rows)
        valid = packing.valid
        if not packing.fixed and (caller.f_code is not _PAD or caller.f_locals["total_length"] is None):
            reached = ops.lengths.default(packing.given, len(valid), True, False)
            valid = torch.arange(len(valid)).unsqueeze(1) < reached
        x = x.masked_fill(~packing.mask(x.ndim, valid), value)
        if steps > len(x):
            x = torch.cat([x, x.new_full((steps - len(x), *x.shape[1:]), value)])
        return x.transpose(0, 1) if batch_first else x, packing.lengths

    def _by_row(self, name: str, args: Any, kwargs: Any, packings: list[_Packing]) -> bool:
        """Whether each row of the result is made of that row of the operands."""
        first = args[0]
        if name == "embedding" or (name in _BY_ROW and id(first) in self._rows):
            return len(packings) == 1
        if name in _OF_TWO and len(args) == 2:
            ndim = max(a.ndim for a in args if isinstance(a, Tensor) and id(a) in self._rows)
            return all(not isinstance(a, Tensor) or a.ndim < ndim or self._same(a, packings[0]) for a in args)
        if name in _ALONG and id(first) in self._rows:
            along = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("normalized_shape"))
            if name == "layer_norm":
                return along is not None and len(along) < first.ndim
            return isinstance(along, int) and along % first.ndim != 0
        return False

    def _same(self, rows: Tensor, packing: _Packing) -> bool:
        found = self._rows.get(id(rows))
        return found is not None and found[1].valid is packing.valid


def _check(lengths: list[int], steps: int, descending: bool) -> None:
    """Raises: RuntimeError: as PyTorch does."""
    if min(lengths, default=math.inf) < 1:
        raise RuntimeError("Length of all samples has to be greater than 0")
    if max(lengths) > steps:
        raise RuntimeError(f"a length of {max(lengths)} is more than the {steps} steps of the input")
    if descending and any(a < b for a, b in itertools.pairwise(lengths)):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement"
        )
