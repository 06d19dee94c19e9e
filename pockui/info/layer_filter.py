"""Which rows of the layer view are shown: by name, by block, by kind of layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pockgraph.errors import PlanError
from pockgraph.globs import matches
from pockgraph.search.constraints import REGEX, blocks

if TYPE_CHECKING:
    from pockgraph.plan.tensor_info import TensorInfo

    from .layers import LayerRow

BIASES = "biases"  # id of the row that stands for "the last k biases"
ANY = ""  # block or kind: no matter which
ALL = "all"  # what a menu calls that
LayerKind = Literal["conv", "depthwise", "linear", "embedding", "recurrent", "norm", "bias", "other"]
LAYER_KINDS: dict[LayerKind, str] = {
    "conv": "convolution",
    "depthwise": "depthwise convolution",
    "linear": "linear",
    "embedding": "embedding",
    "recurrent": "recurrent",
    "norm": "normalisation",
    "bias": "bias",
    "other": "other",
}
UNMEASURED = ("norm", "bias")  # kinds that no measurement trains by themselves
FILTER_HELP = (
    f"Part of a name, a glob such as blocks.3.* or *.bias, or {REGEX} and a regular expression of the whole "
    f"name, such as {REGEX}blocks.[0-3].*"
)


def layer_kind(tensor: TensorInfo) -> LayerKind:
    """The kind of layer that a tensor belongs to; vectors are a normalisation's scale, or biases."""
    if tensor.kind != "weight":
        return "norm" if tensor.kind == "norm" else "bias"
    if tensor.fqn.rpartition(".")[2].startswith(("weight_ih", "weight_hh")):
        return "recurrent"
    if tensor.channel_dim is None:
        return "other"
    if len(tensor.shape) > 2:
        return "depthwise" if tensor.channel_dim == 0 and tensor.shape[1] == 1 else "conv"
    # A product with a matrix as it stands has its input channels first, too, but a gradient to pass on.
    return "embedding" if tensor.channel_dim == 0 and not tensor.dx_flops else "linear"


def kind_menu(rows: Sequence[LayerRow]) -> dict[str, str]:
    """Title -> kind of layer, of those that some row is of."""
    there = {row.layer_kind for row in rows}
    return {ALL: ANY} | {title: kind for kind, title in LAYER_KINDS.items() if kind in there}


def block_menu(tensors: Sequence[TensorInfo]) -> dict[str, str]:
    """Title -> block of the network."""
    return {ALL: ANY} | {block: block for block in blocks(tensors)}


@dataclass(frozen=True)
class LayerFilter:
    """What rows must fit.

    Attributes:
        text: part of a name whatever its case, a glob, or `re:` and a regular expression of the whole name.
        block: of the network; kind: of `LAYER_KINDS`.
        all_tensors: also what was not measured, and biases one by one; kinds that never are measured by
            themselves are shown anyway.
    """

    text: str = ""
    block: str = ANY
    kind: str = ANY
    all_tensors: bool = False

    def rows(self, rows: Sequence[LayerRow], trained: Collection[str] = ()) -> list[LayerRow]:
        """The rows that fit.

        Args:
            trained: ids to show although they were not measured.

        Raises:
            PlanError: the text is no regular expression.
        """
        everything = self.all_tensors or self.kind in UNMEASURED
        return [
            r
            for r in self._fitting(rows)
            if everything or r.gains or r.fixed or r.id == BIASES or r.id in trained
        ]

    def _fitting(self, rows: Sequence[LayerRow]) -> list[LayerRow]:
        is_named = name_test(self.text)
        return [
            r
            for r in rows
            if is_named(r.id) and self.block in (ANY, r.block) and self.kind in (ANY, r.layer_kind)
        ]

    def count_text(self, rows: Sequence[LayerRow], shown: Sequence[LayerRow]) -> str:
        """`12 of 160 tensors`."""
        total, count = (sum(r.id != BIASES for r in some) for some in (rows, shown))
        more = ", and the last biases as one row" if any(r.id == BIASES for r in shown) else ""
        return f"{count} of {total} tensors{more}"

    def empty_text(self, rows: Sequence[LayerRow]) -> str:
        """What to say when no row is left, and what would help."""
        asked = [f"“{self.text}”"] if self.text else []
        asked += [f"block {self.block}"] if self.block else []
        asked += [LAYER_KINDS[self.kind]] if self.kind in LAYER_KINDS else []
        hidden = 0 if self.all_tensors else len(self._fitting(rows))
        if hidden:
            which = f"The {hidden} tensors that fit" if hidden > 1 else "The one tensor that fits"
            return (
                f"{which} {', '.join(asked)} {'were' if hidden > 1 else 'was'} not measured. Switch on All "
                "tensors, or clear the filter to see others."
            )
        return f"No tensor fits {', '.join(asked)}. Clear the filter to see all."


def name_test(text: str) -> Callable[[str], bool]:
    """Whether a name fits what was typed, see `LayerFilter`.

    Raises:
        PlanError: it is no regular expression.
    """
    text = text.strip()
    if text.startswith(REGEX):
        try:
            regex = re.compile(text.removeprefix(REGEX))
        except re.error as e:
            raise PlanError(
                f"The filter {text!r} is no regular expression: {e}. Correct it, or write a part of a name "
                f"without {REGEX!r}."
            ) from e
        return lambda name: regex.fullmatch(name) is not None
    return lambda name: text.lower() in name.lower() or matches(name, text)
