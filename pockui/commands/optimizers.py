"""The optimizer options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import TaskError

if TYPE_CHECKING:
    from pockgraph.optimizer import Optimizer

OptimizerOption = Annotated[str, typer.Option(help="sgd, adam, adamw, lion or adafactor.")]
MomentumOption = Annotated[float, typer.Option(help="Momentum of sgd.")]
DecayOption = Annotated[float, typer.Option(help="Weight decay.")]
ClipOption = Annotated[
    float | None, typer.Option(help="Scale gradients down where their global norm is above this.")
]
AccumulateOption = Annotated[int, typer.Option(min=1, help="Micro-batches of one update.")]
EmaOption = Annotated[
    float | None, typer.Option(help="Keep an average of the weights with this decay, for evaluation.")
]
GroupOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB:NAME=VALUE,…",
        help="lr_scale and weight_decay of some tensors, as '*.bias:lr_scale=2,weight_decay=0'; may be "
        "repeated, the first that matches counts.",
    ),
]


def make_optimizer(
    name: str,
    momentum: float,
    weight_decay: float,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    groups: Sequence[str] | None = None,
) -> Optimizer:
    """An optimizer from the options that all commands share.

    Raises:
        TaskError: an unknown one, with suggestions, or an option that makes no sense.
    """
    from pockgraph.optimizer import optimizer_from_dict

    options: dict[str, Any] = {"name": name, "weight_decay": weight_decay}
    options |= {"momentum": momentum} if name == "sgd" else {}
    options |= {"clip_norm": clip_norm, "accumulate": accumulate, "ema_decay": ema_decay}
    return optimizer_from_dict(options | {"groups": [_group(text) for text in groups or []]})


def _group(text: str) -> dict[str, Any]:
    pattern, colon, settings = text.rpartition(":")
    group: dict[str, Any] = {"pattern": pattern}
    try:
        for setting in settings.split(","):
            key, _, value = setting.partition("=")
            group[key.strip()] = float(value)
    except ValueError:
        colon = ""
    if not colon:
        raise TaskError(f"--group {text!r}: write it as '*.bias:lr_scale=2,weight_decay=0'.")
    return group
