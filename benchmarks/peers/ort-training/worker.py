"""A training step of the exchanged network in ONNX Runtime Training: its training API for devices.

    build/peers/ort-training/bin/python benchmarks/peers/ort-training/worker.py FOLDER --trained FILE --threads 2

It takes steps when told to on standard input, see `pockgraph/measure/contender.py`. The library's SGD has no
momentum, so its update does less than everybody else's. It has no gradient of a batch norm in evaluation mode
either: norms are folded into their convolutions, in the graph where one of the two is trained.
"""  # noqa: E501

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT / "benchmarks" / "peers" / "shared")]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from exchanged import LEARNING_RATE, Network, serve  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime.training import artifacts  # noqa: E402
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # noqa: E402

OPSET, IR_VERSION = 15, 8
SETTINGS = onnxruntime.SessionOptions()


def start(threads: int) -> None:
    logging.disable(logging.INFO)
    SETTINGS.intra_op_num_threads = threads


def make(network: Network) -> tuple[Callable[[], float], Callable[[], object]]:
    """The loss, and a step of SGD."""
    drawing = Drawing(network)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifacts.generate_artifacts(
            drawing.model(), requires_grad=sorted(network.trained), frozen_params=sorted(drawing.frozen),
            loss=artifacts.LossType.CrossEntropyLoss, optimizer=artifacts.OptimType.SGD,
            artifact_directory=name,
        )  # fmt: skip
        state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
        training, evaluation = str(folder / "training_model.onnx"), str(folder / "eval_model.onnx")
        module = Module(training, state, evaluation, session_options=SETTINGS)
        optimizer = Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(LEARNING_RATE)

    def loss() -> float:
        module.eval()
        value = float(module(network.x, network.y))
        module.train()
        return value

    def step() -> float:
        value = module(network.x, network.y)
        optimizer.step()
        module.lazy_reset_grad()
        return float(value)

    return loss, step


class Drawing:
    """The network as an ONNX graph from `x` to `logits`.

    Attributes:
        frozen: names of the parameters that no step changes.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.frozen: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: dict[str, np.ndarray] = {}
        self._names: dict[str, str] = {"x": "x"}
        self._norms = {n["inputs"][0]: n for n in network.nodes if n["op"] == "batch_norm"}
        for node in network.nodes:
            self._names[node["name"]] = getattr(self, f"_{node['op']}")(node, *self._inputs(node))

    def model(self) -> onnx.ModelProto:
        last = self._names[self.network.nodes[-1]["name"]]
        self._nodes.append(helper.make_node("Identity", [last], ["logits"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.network.x.shape)
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [len(self.network.x), None])
        held = [numpy_helper.from_array(a, name) for name, a in self._arrays.items()]
        graph = helper.make_graph(self._nodes, "network", [x], [logits], held)
        opset = helper.make_opsetid("", OPSET)
        return onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        )

    def _inputs(self, node: Mapping[str, Any]) -> list[str]:
        return [self._names[name] for name in node["inputs"]]

    def _call(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, array: np.ndarray, name: str = "") -> str:
        name = name or f"constant_{len(self._arrays)}"
        self._arrays[name] = np.ascontiguousarray(array)
        return name

    def _parameter(self, name: str) -> str:
        if name not in self.network.trained:
            self.frozen.add(name)
        return self._constant(self.network.weights[name], name)

    def _convolution(self, node: Mapping[str, Any], x: str) -> str:
        norm = self._norms.get(node["name"])
        if norm is not None:
            operands = self._folded(node, norm)
        else:
            operands = [
                self._parameter(node["weights"][r]) for r in ("weight", "bias") if r in node["weights"]
            ]
        return self._call(
            "Conv", [x, *operands], strides=node["stride"], pads=node["padding"] * 2, group=node["groups"]
        )

    def _folded(self, node: Mapping[str, Any], norm: Mapping[str, Any]) -> list[str]:
        """Weight and bias of a convolution without bias that does the work of its norm, too."""
        weights, trained = self.network.weights, self.network.trained
        kernel, gain, shift = node["weights"]["weight"], norm["weights"]["weight"], norm["weights"]["bias"]
        inverse = 1 / np.sqrt(weights[norm["weights"]["variance"]] + np.float32(norm["epsilon"]))
        mean = weights[norm["weights"]["mean"]]
        if gain in trained:
            scale = self._call("Mul", [self._parameter(gain), self._constant(inverse)])
            by_mean = self._call("Mul", [scale, self._constant(mean)])
        else:
            scale = self._constant(weights[gain] * inverse)
            by_mean = self._constant(weights[gain] * inverse * mean)
        if gain in trained or kernel in trained:
            column = self._call("Reshape", [scale, self._constant(np.array([-1, 1, 1, 1]))])
            weight = self._call("Mul", [self._parameter(kernel), column])
        else:
            weight = self._constant(weights[kernel] * (weights[gain] * inverse)[:, None, None, None])
        return [weight, self._call("Sub", [self._parameter(shift), by_mean])]

    def _batch_norm(self, node: Mapping[str, Any], x: str) -> str:
        return x  # its convolution does its work

    def _relu(self, node: Mapping[str, Any], x: str) -> str:
        return self._call("Relu", [x])

    def _relu6(self, node: Mapping[str, Any], x: str) -> str:
        bounds = [self._constant(np.array(b, np.float32)) for b in (0, 6)]
        return self._call("Clip", [x, *bounds])

    def _add(self, node: Mapping[str, Any], a: str, b: str) -> str:
        return self._call("Add", [a, b])

    def _max_pool(self, node: Mapping[str, Any], x: str) -> str:
        return self._call(
            "MaxPool", [x], kernel_shape=node["kernel"], strides=node["stride"], pads=node["padding"] * 2
        )

    def _global_mean(self, node: Mapping[str, Any], x: str) -> str:
        return self._call("Flatten", [self._call("GlobalAveragePool", [x])])

    def _linear(self, node: Mapping[str, Any], x: str) -> str:
        weight, bias = (self._parameter(node["weights"][role]) for role in ("weight", "bias"))
        return self._call("Gemm", [x, weight, bias], transB=1)

    def _pad(self, node: Mapping[str, Any], x: str) -> str:
        (top, bottom), (left, right) = node["height"], node["width"]
        return self._call("Pad", [x, self._constant(np.array([0, 0, top, left, 0, 0, bottom, right]))])


if __name__ == "__main__":
    serve(start, make)
