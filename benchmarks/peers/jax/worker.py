"""A training step of the exchanged network in JAX: one jitted function, its state donated.

    build/peers/jax/bin/python benchmarks/peers/jax/worker.py FOLDER --trained FILE --threads 2

It takes steps when told to on standard input, see `pockgraph/measure/contender.py`. Images are
`[N, H, W, C]`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT / "benchmarks" / "peers" / "shared")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from exchanged import LEARNING_RATE, MOMENTUM, Network, Operator, serve  # noqa: E402
from jax import lax  # noqa: E402
from jax import numpy as jnp  # noqa: E402

Weights = Mapping[str, Any]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def start(threads: int) -> None:
    """XLA has a thread for each processor that the process may use, and no other switch."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def make(network: Network) -> tuple[Callable[[], float], Callable[[], object]]:
    """The loss, and a step of SGD with momentum."""
    weights = {name: jnp.asarray(in_layout(network, name, a)) for name, a in network.weights.items()}
    trained = {name: weights[name] for name in network.trained}
    frozen = {name: w for name, w in weights.items() if name not in trained}
    x, y = jnp.asarray(network.x.transpose(0, 2, 3, 1)), jnp.asarray(network.y)

    def loss(trained: Weights, frozen: Weights, x: Any, y: Any) -> Any:
        scores = jax.nn.log_softmax(network.output(x, {**frozen, **trained}, OPERATORS))
        return -jnp.take_along_axis(scores, y[:, None], axis=1).mean()

    def step(trained: Weights, momentum: Weights, frozen: Weights, x: Any, y: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(trained, frozen, x, y)
        momentum = {name: MOMENTUM * momentum[name] + g for name, g in gradients.items()}
        trained = {name: w - LEARNING_RATE * momentum[name] for name, w in trained.items()}
        return value, trained, momentum

    state = [trained, {name: jnp.zeros_like(w) for name, w in trained.items()}]
    # Compiling is part of loading, as it is for every other contender.
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, frozen, x, y).compile()
    loss_now = float(jax.jit(loss)(trained, frozen, x, y))

    def take() -> float:
        value, state[0], state[1] = compiled(*state, frozen, x, y)
        jax.block_until_ready(state)
        return float(value)

    return lambda: loss_now, take


def in_layout(network: Network, name: str, array: np.ndarray) -> np.ndarray:
    """A weight as `LAYOUT` has it."""
    node, role = network.role_of(name)
    if role != "weight" or node["op"] not in ("linear", "convolution"):
        return array
    return np.ascontiguousarray(array.T if node["op"] == "linear" else array.transpose(2, 3, 1, 0))


def convolution(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    padding = [(p, p) for p in node["padding"]]
    y = lax.conv_general_dilated(
        inputs[0], own["weight"], node["stride"], padding, dimension_numbers=LAYOUT,
        feature_group_count=node["groups"],
    )  # fmt: skip
    return y + own["bias"] if "bias" in own else y


def batch_norm(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    scale = own["weight"] * lax.rsqrt(own["variance"] + node["epsilon"])
    return inputs[0] * scale + (own["bias"] - own["mean"] * scale)


def max_pool(node: Mapping[str, Any], inputs: list[Any], own: Weights) -> Any:
    padding = [(0, 0), *((p, p) for p in node["padding"]), (0, 0)]
    window, stride = (1, *node["kernel"], 1), (1, *node["stride"], 1)
    return lax.reduce_window(inputs[0], -jnp.inf, lax.max, window, stride, padding)


OPERATORS: dict[str, Operator] = {
    "convolution": convolution,
    "batch_norm": batch_norm,
    "relu": lambda node, inputs, own: jax.nn.relu(inputs[0]),
    "relu6": lambda node, inputs, own: jax.nn.relu6(inputs[0]),
    "add": lambda node, inputs, own: inputs[0] + inputs[1],
    "max_pool": max_pool,
    "global_mean": lambda node, inputs, own: inputs[0].mean((1, 2)),
    "linear": lambda node, inputs, own: inputs[0] @ own["weight"] + own["bias"],
    "pad": lambda node, inputs, own: jnp.pad(inputs[0], [(0, 0), node["height"], node["width"], (0, 0)]),
}

if __name__ == "__main__":
    serve(start, make)
