"""Tensors that lie in the same memory: eager PyTorch changes them together, a step each for itself."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from ..errors import TaskError

SHARED = (
    "Task {task!r}: {one!r} and {other!r} lie in the same memory, and a training step changes {changed!r}: "
    "PyTorch would change both, a compiled step keeps each as a tensor of its own. To tie two parameters, "
    "make them one: `second.weight = first.weight`, without `.data`. To keep them apart, copy one with "
    "`.clone()`."
)
FOLDED = (
    "Task {task!r}: several elements of {one!r} lie in the same memory, as `expand` makes them, and no "
    "optimizer can update that in place. Make it with `.clone()`, or make the small tensor the "
    "parameter and expand it in forward."
)


def refuse_shared_memory(task: str, tensors: Mapping[str, Tensor], learning: Container[str]) -> None:
    """Refuse a tensor of the model that lies in the memory of another that a step changes.

    Args:
        tensors: name -> the model's parameters and buffers.
        learning: the names of those that a step changes.

    Raises:
        TaskError: naming both and what to do.
    """
    for name, tensor in tensors.items():
        if name in learning and not _elements_apart(tensor):
            raise TaskError(FOLDED.format(task=task, one=name))
    spans = sorted((*_span(t), name) for name, t in tensors.items() if t.numel())
    for i, (_, end, one) in enumerate(spans):
        for _, _, other in itertools.takewhile(lambda span, end=end: span[0] < end, spans[i + 1 :]):
            changed = next((n for n in (one, other) if n in learning), None)
            if changed is not None and _overlap(tensors[one], tensors[other]):
                raise TaskError(SHARED.format(task=task, one=one, other=other, changed=changed))


def _elements_apart(x: Tensor) -> bool:
    return x.is_contiguous() or _addresses(x).unique().numel() == x.numel()


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Of tensors whose memory lies between each other's ends."""
    return a.element_size() != b.element_size() or bool(torch.isin(_addresses(a), _addresses(b)).any())


def _span(x: Tensor) -> tuple[int, int]:
    """The address of the first byte, and that after the last one."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _addresses(x: Tensor) -> Tensor:
    """Of each element, int64."""
    places = torch.tensor(x.data_ptr())
    for size, stride in zip(x.shape, x.stride()):
        places = places[..., None] + torch.arange(size) * (stride * x.element_size())
    return places.flatten()
