"""Small ONNX models made by hand, and onnxruntime's word on what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import NodeProto, helper, numpy_helper
from oracle import TOLERANCE

from pockgraph.frontends.onnx import OnnxModule

Arrays = Mapping[str, np.ndarray]


def rand(*shape: int, seed: int = 0, low: float | None = None) -> np.ndarray:
    x = np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)
    return x if low is None else np.abs(x) + np.float32(low)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def write_model(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Arrays,
    tensors: Arrays,
    outputs: Sequence[str] | Mapping[str, Sequence[str | int]],
    opset: int = 17,
    open_batch: bool = False,
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> Path:
    """Write a model whose inputs have the shapes of the arrays given for them.

    Args:
        outputs: names, with their shapes where ONNX cannot infer them and its checker wants to know.
    """

    def declared(name: str, value: np.ndarray) -> Any:
        shape: list[Any] = list(value.shape)
        if open_batch:
            shape[0] = "batch"
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)

    graph = helper.make_graph(
        list(nodes),
        "model",
        [declared(n, v) for n, v in inputs.items()],
        [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, outputs[n])
            if isinstance(outputs, Mapping)
            else onnx.ValueInfoProto(name=n)
            for n in outputs
        ],
        [numpy_helper.from_array(v, n) for n, v in tensors.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=imports, functions=functions)
    model.ir_version = max(8, helper.find_min_ir_version_for(imports[:1]))
    model = onnx.shape_inference.infer_shapes(model)  # which types the outputs
    for output in model.graph.output:
        if output.type.WhichOneof("value") is None:  # of an operator that ONNX defines by others
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    path.write_bytes(model.SerializeToString())
    return path


def run_onnxruntime(path: Path, inputs: Arrays) -> dict[str, np.ndarray]:
    """What onnxruntime makes of a model, operator by operator."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs))))


def run_module(module: OnnxModule, inputs: Arrays) -> dict[str, np.ndarray]:
    with torch.no_grad():
        result = module({n: torch.from_numpy(v) for n, v in inputs.items()})
    result = result if isinstance(result, dict) else {module.output_names[0]: result}
    return {n: v.numpy() for n, v in result.items()}


def assert_equal(got: Arrays, expected: Arrays) -> None:
    """Within the error that a loss may have, relative to the largest element."""
    assert got.keys() == expected.keys()
    for name, b in expected.items():
        a = got[name]
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        if b.dtype.kind != "f":
            assert np.array_equal(a, b), name
            continue
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), name
        a, b = (np.nan_to_num(v.astype(np.float64), posinf=0, neginf=0) for v in (a, b))
        error, scale = np.abs(a - b).max(initial=0), np.abs(b).max(initial=0)
        assert error <= TOLERANCE[torch.float32].loss_ratio * scale, (
            f"{name}: off by {error:.3g} of {scale:.3g}"
        )


def constant(name: str, value: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
