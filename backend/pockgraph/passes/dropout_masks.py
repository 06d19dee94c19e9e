"""Random operators -> masks that a seed determines, bit for bit the same on every target.

Before → after, for dropout with probability p:

    y, m = native_dropout(x, p)               →   drop = u < p;  y = masked_fill(x, drop, 0) / (1 - p)
    dx = native_dropout_backward(dy, m, …)    →   dx = masked_fill(dy, drop, 0) / (1 - p)

`u`, uniform in [0, 1), is a hash of the element's place and of the step's keys, which are the graph's
`seed` input: a Feistel network of two 11-bit words L, R (as in counter-based generators, Salmon et al.,
SC 2011), whose round function is the middle of a square (Widynski, arXiv 2004.06278):

    L, R = R, frac(L + mid((R + key)²))       mid(q) = floor(q 2^16) 2^-11

Words are multiples of 2^-11 in float32. No intermediate value needs more than 24 bits, so every operator
is exact, in whatever order or fusion a target computes them; integers would not be (OpenVINO has no
64-bit ones, ONNX runtimes differ). A mask is one row word plus one column word for each of L and R:
two vectors of constants instead of a counter for every element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ..errors import CaptureError, listing
from ..ir.graph import Builder, Graph, Role, Slot, add_constant, aten, rebuilt
from ..prng import ROUNDS, WORD_BITS, words

WORD = 2.0**-WORD_BITS
LEVELS = 2 ** (2 * WORD_BITS)  # values that u can have
BERNOULLI = (aten.bernoulli.p, aten.bernoulli_.float)
DIVISIONS = (aten.div.Scalar, aten.div_.Scalar)


def is_random(node: fx.Node) -> bool:
    """Does the operator draw from PyTorch's generator?"""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def refuse_random(graph: Graph, name: str, what: str) -> None:
    """Refuse a graph that gives another result every time.

    Raises:
        CaptureError: naming every random operator with its layer and source line.
    """
    found = [
        f"{node.target} ({', '.join(filter(None, (node.meta['layer'], node.meta['source'])))})"
        for node in graph.nodes()
        if is_random(node)
    ]
    if found:
        raise CaptureError(
            f"Task {name!r}: the {what} draws random numbers: {listing(found)}. Only dropout is compiled, in "
            "training steps of a Task(..., dropout=True). Draw them outside and pass them in the batch; let "
            "F.dropout have training=self.training."
        )


@dataclass(frozen=True)
class DropoutMasks:
    """Of dropout, in layers and inside attention, and of other Bernoulli noise."""

    name: ClassVar[str] = "dropout_masks"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        noise = [n for n in new.nodes if n.target is aten.native_dropout.default or n.target in BERNOULLI]
        if not noise:
            return graph
        masks = _DropoutMaskMaker(graph, new, noise[0])
        site = 0
        for node in noise:
            if node.target in BERNOULLI:
                _replace_bernoulli(masks, node, site)
            else:
                _replace_dropout(masks, node, site)
            # What drops everything draws nothing in eager PyTorch, and takes no number here.
            site += node.target is not aten.native_dropout.default or node.args[1] != 1
        new.eliminate_dead_code()
        return rebuilt(graph, new, inputs=tuple(masks.slots), values=masks.values)


class _DropoutMaskMaker:
    """Adds dropout masks to an fx graph, and the inputs they are made from."""

    def __init__(self, graph: Graph, new: fx.Graph, first: fx.Node) -> None:
        self.fx, self.slots, self.values = new, list(graph.inputs), dict(graph.values)
        self._last = [n for n in new.nodes if n.op == "placeholder"][-1]
        with new.inserting_after(self._last):
            seed = new.placeholder("seed")
        seed.meta["val"] = torch.empty(ROUNDS, device="meta")
        self._last = seed
        self.slots.append(Slot(Role.SEED, "", (ROUNDS,), "float32"))
        builder = Builder(new, "forward")
        with builder.before(first):
            self._keys = [builder.call(aten.select.int, seed, 0, i) for i in range(ROUNDS)]

    def drop(self, b: Builder, site: int, shape: Sequence[int], p: float) -> fx.Node:
        """Bool `shape`, each element True with probability `p`; `site` makes it differ from others."""
        split = min(range(len(shape) + 1), key=lambda d: math.prod(shape[:d]) + math.prod(shape[d:]))
        rows, columns = math.prod(shape[:split]), math.prod(shape[split:])
        left, right = (
            b.call(
                aten.add.Tensor,
                self._words(f"{site}_{side}_rows", [rows, 1]),
                self._words(f"{site}_{side}_columns", [1, columns]),
            )
            for side in ("left", "right")
        )
        for key in self._keys:
            root = b.call(aten.add.Tensor, right, key)
            square = b.call(aten.mul.Scalar, b.call(aten.mul.Tensor, root, root), 2.0**16)
            middle = b.call(aten.mul.Scalar, b.call(aten.floor.default, square), WORD)
            total = b.call(aten.add.Tensor, middle, left)
            left, right = right, b.call(aten.sub.Tensor, total, b.call(aten.floor.default, total))
        u = b.call(aten.add.Tensor, right, b.call(aten.mul.Scalar, left, WORD))
        below = b.call(aten.lt.Scalar, u, round(p * LEVELS) / LEVELS)  # exact in float32
        return b.call(aten.reshape.default, below, list(shape))

    def _words(self, name: str, shape: list[int]) -> fx.Node:
        """Constant words below one half: a row's and a column's together stay below one."""
        value = torch.from_numpy(words(math.prod(shape), f"pockgraph dropout {name}", WORD_BITS - 1))
        self._last, slot = add_constant(self.fx, self._last, f"dropout_{name}", value.reshape(shape))
        self.slots.append(slot)
        self.values[slot.name] = value.reshape(shape)
        return self._last


def _builder(graph: fx.Graph, node: fx.Node) -> Builder:
    return Builder(graph, node.meta["phase"], node.meta["layer"], node.meta["source"])


def _dropped(masks: _DropoutMaskMaker, node: fx.Node, x: Any, drop: fx.Node, scale: float) -> None:
    """Replace `node` by x with zeros where `drop` says so, and scaled elsewhere."""
    b = _builder(masks.fx, node)
    with b.before(node):
        result = b.call(aten.mul.Scalar, b.call(aten.masked_fill.Scalar, x, drop, 0.0), scale)
    node.replace_all_uses_with(result)
    masks.fx.erase_node(node)


def _replace_dropout(masks: _DropoutMaskMaker, node: fx.Node, site: int) -> None:
    args: Any = node.args
    x, p = args[:2]
    b = _builder(masks.fx, node)
    with b.before(node):
        drop = masks.drop(b, site, x.meta["val"].shape, p)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    for got in list(node.users):
        if got.args[1] == 0:
            _dropped(masks, got, x, drop, scale)
            continue
        for user in list(got.users):
            assert user.target is aten.native_dropout_backward.default, user
            _dropped(masks, user, user.args[0], drop, scale)
        masks.fx.erase_node(got)
    masks.fx.erase_node(node)  # dead-code elimination leaves random operators alone


def _replace_bernoulli(masks: _DropoutMaskMaker, node: fx.Node, site: int) -> None:
    """Noise that is divided by the probability of a one and multiplied with activations is dropout."""
    keep: Any = node.args[1] if len(node.args) > 1 else 0.5  # the schema's default is left out
    val = node.meta["val"]
    b = _builder(masks.fx, node)
    with b.before(node):
        drop = masks.drop(b, site, val.shape, 1 - keep)
    for scaled in list(node.users):
        if scaled.target not in DIVISIONS or scaled.args[1] != keep:
            continue
        for product in list(scaled.users):
            if product.target is aten.mul.Tensor:
                x: Any = product.args[1] if product.args[0] is scaled else product.args[0]
                if x is not scaled and x.meta["val"].shape == product.meta["val"].shape:
                    _dropped(masks, product, x, drop, 1 / keep)
        if not scaled.users:
            masks.fx.erase_node(scaled)
    if node.users:
        with b.before(node):
            ones = b.call(aten._to_copy.default, b.call(aten.logical_not.default, drop), dtype=val.dtype)
        node.replace_all_uses_with(ones)
        for user in ones.users:
            if user.target is aten.div_.Scalar:
                user.target = aten.div.Scalar
    masks.fx.erase_node(node)
