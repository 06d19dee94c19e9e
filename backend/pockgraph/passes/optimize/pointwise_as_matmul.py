"""Pointwise convolutions on few pixels as one matrix product over all samples, for eager PyTorch.

    y  = conv(x, W)                  →   y  = fold(pixels(x) @ W.T)     pixels: [N, C, H, W] -> [N H W, C]
    dx = conv_transposed(dy, W)      →   dx = fold(pixels(dy) @ W)

For small batches PyTorch multiplies one sample after the other. With a handful of pixels each of these
products is far too narrow for the hardware: 8 samples of 2x2 pixels and 1152 channels take 7 times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ...ir.graph import Builder, Graph, aten, rebuilt


@dataclass(frozen=True)
class PointwiseAsMatmul:
    """Where a sample has at most `pixels` pixels."""

    pixels: int = 16
    name: ClassVar[str] = "pointwise_as_matmul"

    def __call__(self, graph: Graph) -> Graph:
        new = fx.Graph()
        new.output(new.graph_copy(graph.fx, {}))
        for node in list(new.nodes):
            if node.target is aten.convolution.default and self._applies(node):
                builder = Builder(new, node.meta["phase"], node.meta["layer"], node.meta["source"])
                with builder.before(node):
                    replacement = _matmul(builder, node)
                node.replace_all_uses_with(replacement)
                new.erase_node(node)
        return rebuilt(graph, new)

    def _applies(self, node: fx.Node) -> bool:
        x, weight, _, stride, padding, dilation, _, extra, groups = node.args
        plain = all(s == 1 for s in (*stride, *dilation)) and not any((*padding, *extra))  # pyright: ignore
        kernel, spatial = weight.meta["val"].shape[2:], x.meta["val"].shape[2:]  # pyright: ignore
        return bool(plain and groups == 1 and math.prod(kernel) == 1 and math.prod(spatial) <= self.pixels)


def _matmul(b: Builder, conv: fx.Node) -> fx.Node:
    args: Any = conv.args
    x, weight, bias, transposed = args[0], args[1], args[2], args[6]
    samples, channels, *spatial = x.meta["val"].shape
    dims = list(range(2, 2 + len(spatial)))
    w = b.call(aten.reshape.default, weight, list(weight.meta["val"].shape[:2]))  # [O, C]; transposed: [C, O]
    if not transposed:
        w = b.call(aten.permute.default, w, [1, 0])
    pixels = b.call(aten.permute.default, x, [0, *dims, 1])
    pixels = b.call(aten.reshape.default, pixels, [-1, channels])  # [N H W, C]
    y = b.call(aten.mm.default, pixels, w) if bias is None else b.call(aten.addmm.default, bias, pixels, w)
    y = b.call(aten.reshape.default, y, [samples, *spatial, -1])
    y = b.call(aten.permute.default, y, [0, len(spatial) + 1, *range(1, len(spatial) + 1)])
    # What follows gets the layout that the convolution would have made.
    return b.call(aten.clone.default, y, memory_format=torch.contiguous_format)
