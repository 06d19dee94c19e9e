"""Values that depend on shapes and constants only, computed ahead of the run.

They are evaluated by the reference implementation that comes with ONNX, so they need no rule.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence

import numpy as np

from ...errors import CaptureError
from .program import Node
from .reader import proto_of


def evaluate(node: Node, opset: int, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The outputs of one operator on known values.

    Raises:
        CaptureError: ONNX's reference implementation cannot evaluate it.
    """
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
    feeds = {name: value for name, value in zip(node.inputs, inputs) if name and value is not None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = evaluator(proto_of(node), opsets={"": opset}).run(None, feeds)
    except Exception as e:
        raise CaptureError(f"{node.where} cannot be evaluated ahead of the run: {e}.") from e
    return [np.asarray(r) for r in results]


def shape_of(node: Node, shape: Sequence[int]) -> np.ndarray:
    """What a `Shape` or `Size` node gives for a tensor of this shape."""
    if node.op == "Size":
        return np.array(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.array(list(shape)[start:end], dtype=np.int64)
