"""What the programs of all peers share: the exchanged network, their command line, and the check of the loss.

Needs numpy and the standard library; see `pockui/bench/exchange.py` for what the files hold.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pockgraph.measure.contender import LEARNING_RATE, Step, serve_steps

MOMENTUM = 0.9
LOSS_RATIO = 1e-3  # the most that a loss may differ from PyTorch's: float32, another order of sums
__all__ = ["LEARNING_RATE", "MOMENTUM", "Network", "Operator", "serve"]

Operator = Callable[[Mapping[str, Any], list[Any], Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Network:
    """A network, its weights as PyTorch has them (`[outputs, inputs, height, width]`), and one batch.

    Attributes:
        nodes: operators in order, the last one makes the logits.
        trained: names of the tensors that learn.
        x: float32 `[N, channels, height, width]`; y: int64 `[N]`.
        loss: that PyTorch computes.
    """

    nodes: list[dict[str, Any]]
    weights: dict[str, np.ndarray]
    trained: frozenset[str]
    x: np.ndarray
    y: np.ndarray
    loss: float

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Weights and biases; without running statistics, which no step changes."""
        roles = ((node["weights"], role) for node in self.nodes for role in ("mean", "variance"))
        statistics = {weights[role] for weights, role in roles if role in weights}
        return {name: array for name, array in self.weights.items() if name not in statistics}

    def role_of(self, name: str) -> tuple[dict[str, Any], str]:
        """The operator that a weight belongs to, and what it is there."""
        return next(
            (node, role) for node in self.nodes for role, fqn in node["weights"].items() if fqn == name
        )

    def output(self, x: Any, weights: Mapping[str, Any], operators: Mapping[str, Operator]) -> Any:
        """What the last node makes of images.

        Args:
            weights: by name, as the library holds them. operators: by the nodes' `op`, called with the node,
                its inputs, and its own weights by role.
        """
        values = {"x": x}
        for node in self.nodes:
            inputs = [values[name] for name in node["inputs"]]
            own = {role: weights[name] for role, name in node["weights"].items()}
            values[node["name"]] = operators[node["op"]](node, inputs, own)
        return values[self.nodes[-1]["name"]]


def read(folder: Path, trained: Path) -> Network:
    """The exchanged network.

    Raises:
        SystemExit: its weights do not add up to the number of parameters that PyTorch counted.
    """
    described = json.loads((folder / "network.json").read_text())
    with np.load(folder / "weights.npz") as file:
        weights = dict(file)
    with np.load(folder / "batch.npz") as file:
        batch = dict(file)
    names = frozenset(json.loads(trained.read_text()))
    network = Network(described["nodes"], weights, names, batch["x"], batch["y"], described["loss"])
    count = sum(array.size for array in network.parameters.values())
    if count != described["parameters"]:
        raise SystemExit(f"error: the network has {count} parameters, in PyTorch {described['parameters']}")
    return network


def serve(
    start: Callable[[int], None], make: Callable[[Network], tuple[Callable[[], float], Step]]
) -> None:  # fmt: skip
    """A contender: reads what the command line names, checks the loss, and takes steps when told to.

    Args:
        start: called with the number of threads, before anything is loaded.
        make: from the network to (its loss before any step, a step).
    """
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path)
    p.add_argument("--trained", type=Path, required=True)
    p.add_argument("--threads", type=int, required=True)
    options = p.parse_args()
    start(options.threads)

    def load() -> Step:
        network = read(options.folder, options.trained)
        loss_now, step = make(network)
        loss = loss_now()
        if not math.isclose(loss, network.loss, rel_tol=LOSS_RATIO):
            print(f"error: its loss is {loss:.6g}, in PyTorch it is {network.loss:.6g}", file=sys.stderr)
            raise SystemExit(2)
        return step

    serve_steps(load)
