"""A training step of the exchanged network in TensorFlow: one `tf.function`, images as `[N, H, W, C]`.

    build/peers/tensorflow/bin/python benchmarks/peers/tensorflow/worker.py FOLDER --trained FILE --threads 2

It takes steps when told to on standard input, see `pockgraph/measure/contender.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT / "benchmarks" / "peers" / "shared")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from exchanged import LEARNING_RATE, MOMENTUM, Network, Operator, serve  # noqa: E402

Weights = Mapping[str, Any]


def start(threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def make(network: Network) -> tuple[Callable[[], float], Callable[[], object]]:
    """The loss, and a step of SGD with momentum."""
    weights: dict[str, Any] = {}
    for name, array in network.weights.items():
        value = in_layout(network, name, array)
        weights[name] = tf.Variable(value) if name in network.trained else tf.constant(value)
    trained = [weights[name] for name in sorted(network.trained)]
    momentum = [tf.Variable(tf.zeros_like(w)) for w in trained]
    x, y = tf.constant(network.x.transpose(0, 2, 3, 1)), tf.constant(network.y)

    def loss() -> Any:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, network.output(x, weights, OPERATORS))
        return tf.reduce_mean(losses)

    @tf.function
    def step() -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            value = loss()
        for w, m, gradient in zip(trained, momentum, tape.gradient(value, trained)):
            m.assign(MOMENTUM * m + gradient)
            w.assign_sub(LEARNING_RATE * m)
        return value

    compiled = step.get_concrete_function()  # part of loading, as compiling is for every other contender
    compiled_loss = tf.function(loss)
    return lambda: float(compiled_loss()), lambda: compiled().numpy()


def in_layout(network: Network, name: str, array: np.ndarray) -> np.ndarray:
    """A weight as TensorFlow's kernels take it."""
    node, role = network.role_of(name)
    if node["op"] == "linear" and role == "weight":
        return np.ascontiguousarray(array.T)
    if node["op"] == "convolution" and role == "weight":
        order = (2, 3, 0, 1) if is_depthwise(node, array) else (2, 3, 1, 0)
        return np.ascontiguousarray(array.transpose(order))
    return array


def is_depthwise(node: Mapping[str, Any], weight: np.ndarray) -> bool:
    return node["groups"] > 1 and node["groups"] == weight.shape[0] and weight.shape[1] == 1


def convolution(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    x, weight = inputs[0], own["weight"]
    x, padding = padded(node, x, list(weight.shape[:2]))
    stride = [1, *node["stride"], 1]
    if node["groups"] == 1:
        y = tf.nn.conv2d(x, weight, stride, padding)
    elif node["groups"] == weight.shape[2] and weight.shape[3] == 1:
        y = tf.nn.depthwise_conv2d(x, weight, stride, padding)
    else:
        raise SystemExit("error: this program does not know grouped convolutions that are not depthwise")
    return tf.nn.bias_add(y, own["bias"]) if "bias" in own else y


def padded(node: Mapping[str, Any], x: Any, kernel: list[int]) -> tuple[Any, str]:
    """The image, and TensorFlow's padding that is equal to PyTorch's: `SAME` where both agree."""
    pad, stride = node["padding"], node["stride"]
    if pad == [0, 0]:
        return x, "VALID"
    if stride == [1, 1] and all(k == 2 * p + 1 for k, p in zip(kernel, pad)):
        return x, "SAME"
    return tf.pad(x, [[0, 0], [pad[0]] * 2, [pad[1]] * 2, [0, 0]]), "VALID"


def batch_norm(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    scale, offset, mean, variance = (own[role] for role in ("weight", "bias", "mean", "variance"))
    y, _, _ = tf.compat.v1.nn.fused_batch_norm(
        inputs[0], scale, offset, mean, variance, node["epsilon"], is_training=False
    )  # fmt: skip
    return y


def max_pool(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    top, left = node["padding"]
    lowest = inputs[0].dtype.min
    x = tf.pad(inputs[0], [[0, 0], [top] * 2, [left] * 2, [0, 0]], constant_values=lowest)
    return tf.nn.max_pool2d(x, node["kernel"], node["stride"], "VALID")


def linear(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    return tf.linalg.matmul(inputs[0], own["weight"]) + own["bias"]


def pad(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    return tf.pad(inputs[0], [[0, 0], node["height"], node["width"], [0, 0]])


OPERATORS: dict[str, Operator] = {
    "convolution": convolution,
    "batch_norm": batch_norm,
    "relu": lambda node, inputs, own: tf.nn.relu(inputs[0]),
    "relu6": lambda node, inputs, own: tf.nn.relu6(inputs[0]),
    "add": lambda node, inputs, own: inputs[0] + inputs[1],
    "max_pool": max_pool,
    "global_mean": lambda node, inputs, own: tf.reduce_mean(inputs[0], [1, 2]),
    "linear": linear,
    "pad": pad,
}

if __name__ == "__main__":
    serve(start, make)
