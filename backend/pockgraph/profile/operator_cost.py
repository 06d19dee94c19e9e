"""Operators of a training graph as numbers: what a profile is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ..cost.masks import MASK_BYTES

WORK_KINDS = ("forward", "dx_matrix", "dx_depthwise", "dw_matrix", "dw_depthwise", "stream")
SCALAR_BYTES = 4
EVERY = -1  # the set of all tensors

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
        masks: the operator whose result it only compares, for the backward of a clamp; else -1.
        clamps: with how many bounds, see `cost/masks.py`.
        late: the backward operators that read that result for more than a comparison; without them a mask is
            kept instead.
        reads: the weights it reads, as positions in `Profile.tensors`.
        fixed_bytes, fixed_flops, fixed_work: of an operator that serves one tensor alone, what does not
            shrink when only some channels of that tensor are trained (`Profile.other_fixed`: of its other
            dimensions).
        joins: the tensor whose part in the norm of all gradients it adds to a sum. It exists when that tensor
            and an earlier one are trained; otherwise the sum is the one operand that there is. Else -1.
        item_bytes: of one element of its result.
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
    masks: int = -1
    clamps: int = 0
    late: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    fixed_bytes: int = 0
    fixed_flops: int = 0
    fixed_work: int = 0
    joins: int = -1
    item_bytes: int = SCALAR_BYTES

    def sole(self, trained: int = EVERY) -> int:
        """The one of these tensors that it serves; -1 where it serves none, several, or the loss."""
        served = self.serves & trained
        return served.bit_length() - 1 if served and not (served & (served - 1) or self.needed) else -1

    @property
    def mask_bytes(self) -> int:
        """Of a mask of its result."""
        return self.bytes // self.item_bytes * MASK_BYTES

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
