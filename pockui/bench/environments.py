"""Peers in environments of their own: where they are, and how the network and the batch reach them.

`make bench-peers` installs each from `benchmarks/peers/NAME/requirements.txt` into `build/peers/NAME`. Its
program `worker.py` builds the step from the exchanged network (`exchange.py`), compares the first loss with
PyTorch's, and then takes steps when told to, like every contender (`pockgraph.measure.contender`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pockgraph.measure import MeasureError

from .exchange import Exchange
from .scenarios import Kind

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAMS = CHECKOUT / "benchmarks" / "peers"
INSTALLED = CHECKOUT / "build" / "peers"
BIN = "Scripts" if os.name == "nt" else "bin"


@dataclass(frozen=True)
class Environment:
    """A peer that has an environment of its own.

    Attributes:
        not_run: why there is no program for it; empty where there is one.
    """

    label: str
    kinds: tuple[Kind, ...] = ("images",)
    not_run: str = ""


ENVIRONMENTS = {
    "tensorflow": Environment("TensorFlow, tf.function"),
    "jax": Environment("JAX, jit"),
    "ort-training": Environment("ONNX Runtime Training, SGD without momentum"),
    "peft": Environment("peft", ("text", "language model"), "no program for it yet"),
    "executorch": Environment("ExecuTorch's training module", not_run="no program for it yet"),
    "mnn": Environment("MNN", not_run="3.6.1 did not train this network when it was tried"),
    "tinygrad": Environment("tinygrad", not_run="it did not train this network when it was tried"),
}


def peer_command(
    name: str, exchange: Exchange | MeasureError, plan: str, threads: int
) -> tuple[str, ...] | MeasureError:
    """The command line of a peer's program, or the reason why it cannot run."""
    environment = ENVIRONMENTS[name]
    if environment.not_run:
        return MeasureError(f"not run: {environment.not_run}")
    program, python = PROGRAMS / name / "worker.py", INSTALLED / name / BIN / "python"
    if not program.is_file():
        return MeasureError("not run: its program is in benchmarks/peers of a checkout, not in the package")
    if not python.exists():
        return MeasureError(f"not run: it is not installed. Install it: make bench-peers PEERS={name}")
    if isinstance(exchange, MeasureError):
        return exchange
    arguments = ("--trained", str(exchange.trained[plan]), "--threads", str(threads))
    return (str(python), str(program), str(exchange.folder), *arguments)
