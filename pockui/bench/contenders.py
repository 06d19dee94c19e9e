"""Who takes part: this project's steps, and those of other people's tools, each as a command line.

A *peer* is another way to take the same step. Those that need no more than PyTorch run in this
environment, all others in environments of their own (`environments.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pockgraph.errors import PockError, suggest
from pockgraph.measure import MeasureError, artifact_command

from ..eager import eager_command
from .environments import ENVIRONMENTS, Exchange, peer_command
from .prepare import PLANS
from .scenarios import Kind, Scenario

Command = Sequence[str] | MeasureError


@dataclass(frozen=True)
class Peer:
    """Another way to take a step.

    Attributes:
        label: as tables show it. row: how keys of rows begin.
        plans: what it trains; "preset" is the preset's tensors, each as a whole.
        kinds: of the scenarios that it can train; empty for all.
        switches: arguments of `eager_command`; None where it runs in an environment of its own, or is a
            target of this project.
        default: it takes part unless peers are named.
    """

    label: str
    row: str
    plans: tuple[str, ...] = ("full", "preset")
    kinds: tuple[Kind, ...] = ()
    switches: Mapping[str, bool] | None = None
    default: bool = False


PEERS = {
    "pytorch": Peer("PyTorch eager", "eager", ("full", "preset", "forward"), switches={}, default=True),
    "channels_last": Peer(
        "PyTorch eager, channels_last", "channels_last", kinds=("images",), switches={"channels_last": True},
        default=True,
    ),
    "autocast": Peer(
        "PyTorch eager, bf16 autocast, channels_last images", "autocast",
        switches={"channels_last": True, "autocast": True}, default=True,
    ),
    "torch.compile": Peer("torch.compile", "compiled", switches={"compiled": True}),
    "lora": Peer(
        "PyTorch eager, LoRA", "lora", ("full",), ("text", "language model"), {"lora": True}, default=True
    ),
    "onnx": Peer("ONNX Runtime", "onnx"),
    **{name: Peer(e.label, name, kinds=e.kinds) for name, e in ENVIRONMENTS.items()},
}  # fmt: skip
PEERS_OF_DEMO = ("pytorch", "onnx")  # of `pockui bench vision` and `text`, where none are named
OURS = "openvino"
EVERY = "all"
WHAT = {"full": "full", "preset": "preset", "head": "head", "forward": "forward only"}


def peers_named(text: str | None, kind: Kind, default: Collection[str] | None = None) -> list[str]:
    """The peers that take part.

    Args:
        text: names, comma-separated; `all` for every one that could make sense of `kind`; None for `default`,
            or those that take part unless told otherwise.

    Raises:
        PockError: one is not known (with suggestions).
    """
    if text is None:
        wanted = [n for n, p in PEERS.items() if p.default] if default is None else default
        return [n for n in wanted if trains(n, kind)]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PEERS and name != EVERY:
            raise PockError(
                f"There is no peer {name!r}.{suggest(name, PEERS)} There are {', '.join(PEERS)}, and "
                f"{EVERY} for each of them."
            )
    if EVERY in names:  # another library is listed with its reason, a switch of PyTorch is not
        return [n for n, p in PEERS.items() if trains(n, kind) or p.switches is None]
    return list(dict.fromkeys(names))


def label(row: str) -> str:
    """A row's key in words: `eager full` is `PyTorch eager, full`."""
    who, _, what = row.rpartition(" ")
    peer = next((p for p in PEERS.values() if p.row == who), None)
    name = "OpenVINO" if who == OURS else peer.label if peer else who
    if who == "lora":
        return name
    if what == "preset" and who not in (OURS, "onnx"):
        return f"{name}, preset's tensors"
    return f"{name}, {WHAT[what]}"


def artifacts(peers: Collection[str]) -> list[tuple[str, str]]:
    """Those that must be made: (target, plan)."""
    onnx = [("onnx", plan) for plan in PEERS["onnx"].plans] if "onnx" in peers else []
    return [*((OURS, plan) for plan in PLANS), *onnx]


def commands(
    scenario: Scenario, peers: Sequence[str], folder: Path, batch: Path, optimizer: Mapping[str, Any],
    threads: int, exchange: Exchange | MeasureError,
) -> dict[str, Command]:  # fmt: skip
    """A command line for each row, or the reason why there is none.

    Args:
        folder: holds the artefacts, as `TARGET-PLAN`, and `preset.json`.
        batch: npz with one batch.
        exchange: the network as peers in other environments read it, or why they cannot have it.
    """
    found: dict[str, Command] = {}
    for name in peers:
        peer = PEERS[name]
        for plan in peer.plans:
            key = f"{peer.row} {plan}"
            if not trains(name, scenario.kind):
                found[key] = MeasureError(f"it trains {' and '.join(peer.kinds)} only")
            elif name == "onnx":
                found[key] = artifact_command(folder / f"onnx-{plan}", batch, threads)
            elif peer.switches is None:
                found[key] = peer_command(name, exchange, plan, threads)
            else:
                found[key] = eager_command(
                    scenario.reference, batch, optimizer, threads=threads, options=scenario.options,
                    plan=folder / "preset.json" if plan == "preset" else None,
                    forward=plan == "forward", **peer.switches,
                )  # fmt: skip
    for plan in PLANS:
        found[f"{OURS} {plan}"] = artifact_command(folder / f"{OURS}-{plan}", batch, threads)
    found[f"{OURS} forward"] = (*artifact_command(folder / f"{OURS}-preset", batch, threads), "--forward")
    return found


def trains(peer: str, kind: Kind) -> bool:
    """Whether it can train networks of this kind."""
    return not PEERS[peer].kinds or kind in PEERS[peer].kinds
