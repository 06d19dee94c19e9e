"""Plans made by rule: the head alone, the last biases, and the schemes of the paper.

PockEngine's schemes (arXiv 2310.17752): convolutional networks train the biases and the first
pointwise convolution of the last 7 of 17 blocks (MobileNetV2; 8 of 16 in ResNet-50); transformers the
biases of the last half of the blocks, and attention and the first linear layer of the feed-forward
part in the last third (BERT 6 and 4 of 12, DistilBERT 3 and 2 of 6). Here the same shares apply to
whatever number of blocks a network has. The head is always trained.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plannable import HasTensors
    from .tensor_info import TensorInfo

CONV_BLOCKS_RATIO = 7 / 17
BIAS_BLOCKS_RATIO = 1 / 2
WEIGHT_BLOCKS_RATIO = 1 / 3

Choice = dict[str, float]


def head(graph: HasTensors) -> Choice:
    """All tensors of the last layer that holds a weight matrix."""
    last = max((r for r in graph.tensors if r.kind == "weight"), key=lambda r: r.depth, default=None)
    layer = last.layer if last else max(graph.tensors, key=lambda r: r.depth).layer
    return {r.fqn: 1.0 for r in graph.tensors if r.layer == layer}


def biases(graph: HasTensors) -> list[TensorInfo]:
    """Biases outside the head, last first."""
    top = head(graph)
    tensors = [r for r in graph.tensors if r.kind == "bias" and r.fqn not in top]
    return sorted(tensors, key=lambda r: -r.depth)


def last_k_biases(graph: HasTensors, k: int) -> Choice:
    """The head and the `k` last biases (those of norms too)."""
    return {r.fqn: 1.0 for r in biases(graph)[:k]} | head(graph)


def preset(graph: HasTensors) -> Choice:
    """The paper's scheme for this kind of network."""
    blocks = _blocks(graph)
    chosen = head(graph)
    if not blocks:
        return chosen
    if any(r.kind == "weight" and len(r.shape) > 2 for tensors in blocks.values() for r in tensors):
        for tensors in _last(blocks, CONV_BLOCKS_RATIO):
            chosen |= {r.fqn: 1.0 for r in tensors if r.kind == "bias"}
            pointwise = [r for r in tensors if r.kind == "weight" and math.prod(r.shape[2:]) == 1]
            if pointwise:
                chosen[min(pointwise, key=lambda r: r.depth).fqn] = 1.0
        return chosen
    for tensors in _last(blocks, BIAS_BLOCKS_RATIO):
        chosen |= {r.fqn: 1.0 for r in tensors if r.kind == "bias"}
    for tensors in _last(blocks, WEIGHT_BLOCKS_RATIO):
        weights = sorted((r for r in tensors if r.kind == "weight"), key=lambda r: r.depth)
        attention = [r for r in weights if "att" in r.layer[len(r.block) :].lower()]
        rest = [r for r in weights if r not in attention]
        chosen |= {r.fqn: 1.0 for r in [*attention, *rest[:1]]}
    return chosen


def _blocks(graph: HasTensors) -> dict[str, list[TensorInfo]]:
    """Repeated blocks that hold a weight, in forward order."""
    blocks: dict[str, list[TensorInfo]] = {}
    for tensor in sorted(graph.tensors, key=lambda r: r.depth):
        if tensor.block != tensor.layer and any(part.isdigit() for part in tensor.block.split(".")):
            blocks.setdefault(tensor.block, []).append(tensor)
    return {name: tensors for name, tensors in blocks.items() if any(r.kind == "weight" for r in tensors)}


def _last(blocks: dict[str, list[TensorInfo]], ratio: float) -> list[list[TensorInfo]]:
    return list(blocks.values())[-max(1, round(ratio * len(blocks))) :]
