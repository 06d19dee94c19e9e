"""Operators of a training graph as numbers: what a profile is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..cost.clamp_masks import CLAMP_MASK_BYTES

WORK_KINDS = ("forward", "dx_matrix", "dx_depthwise", "dw_matrix", "dw_depthwise", "stream")
SCALAR_BYTES = 4
EVERY = -1  # the set of all tensors

Phase = Literal["forward", "backward", "update"]
Amounts = tuple[int, int, int]  # bytes, flops, work


@dataclass(slots=True)
class Operator:
    """One operator of the whole training graph.

    Attributes:
        name: the node's.
        storage: index of the operator that owns its memory (its own index unless it is a view).
        bytes: what it allocates (0 for a view); size_bytes: of its result, views included.
        flops: of computing it.
        operands: storages it reads; `inputs`: the operators it reads, views included.
        serves: the tensors whose update needs it: bit i stands for `Profile.tensors[i]`.
        forward: phase; `needed`: the loss needs it, whatever the plan.
        elementwise: it may write over an operand.
        kind: index into `WORK_KINDS`; `work`: its amount, FLOPs or (for `stream`) bytes moved.
        compared: of the backward of a clamp (ReLU, …), the operator whose clamped result it only compares
            with the bounds; else -1. bounds: how many those are, see `cost/clamp_masks.py`.
        kept_for: the backward operators that read that result for more than a comparison. In a plan without
            them a clamp mask is kept instead of it.
        reads: the weights it reads, as positions in `Profile.tensors`.
        fixed_bytes, fixed_flops, fixed_work: of an operator that serves one tensor alone, what does not
            shrink when only some channels of that tensor are trained (`Profile.other_fixed`: of its other
            dimensions).
        adds_norm_of: the tensor whose gradient's norm it adds to the sum over all; else -1. It exists when
            that tensor and an earlier one are trained; otherwise the sum is the one operand that there is.
        item_bytes: of one element of its result.
        op: ATen's name for what it computes; empty in profiles that earlier versions made, as `layer`.
        layer: the module that it belongs to; empty for what stands outside all of them.
        update: it belongs to the update phase.
    """

    name: str
    storage: int
    bytes: int
    size_bytes: int
    flops: int
    operands: tuple[int, ...]
    inputs: tuple[int, ...]
    serves: int
    forward: bool
    needed: bool
    elementwise: bool
    kind: int
    work: int
    compared: int = -1
    bounds: int = 0
    kept_for: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    fixed_bytes: int = 0
    fixed_flops: int = 0
    fixed_work: int = 0
    adds_norm_of: int = -1
    item_bytes: int = SCALAR_BYTES
    op: str = ""
    layer: str = ""
    update: bool = False

    @property
    def phase(self) -> Phase:
        return "forward" if self.forward else "update" if self.update else "backward"

    def only_served(self, trained: int = EVERY) -> int:
        """The one of these tensors that it serves; -1 where it serves none, several, or the loss."""
        served = self.serves & trained
        return served.bit_length() - 1 if served and not (served & (served - 1) or self.needed) else -1

    @property
    def clamp_mask_bytes(self) -> int:
        """Of a clamp mask of its result."""
        return self.bytes // self.item_bytes * CLAMP_MASK_BYTES

    @property
    def fixed(self) -> Amounts:
        return self.fixed_bytes, self.fixed_flops, self.fixed_work

    def part(self, share: float, fixed: Amounts) -> Amounts:
        """(bytes, flops, work) when a share of its tensor is trained, and `fixed` of them do not shrink."""
        size, flops, work = fixed
        return (
            size + round((self.bytes - size) * share),
            flops + round((self.flops - flops) * share),
            work + round((self.work - work) * share),
        )
