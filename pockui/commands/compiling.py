"""`pockui compile`: a plan's training step as a folder that a device runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pockgraph.errors import PockError

from ..info.format import flops, size
from ..info.parity import parity_badge
from ..info.process_memory import process_peak
from .optimizers import (
    AccumulateOption,
    ClipOption,
    DecayOption,
    EmaOption,
    GroupOption,
    MomentumOption,
    OptimizerOption,
    make_optimizer,
)
from .output import JsonFlag, out, print_json, say, styled
from .tasks_and_plans import NAMED_PLANS, TaskArgument, graph_and_plan


def compile_(
    task: TaskArgument,
    plan: Annotated[str, typer.Option(help=f"A plan file, or one of {', '.join(NAMED_PLANS)}.")],
    out_folder: Annotated[Path, typer.Option("--out", help="The artefact's folder.")] = Path("out"),
    target: Annotated[str, typer.Option(help="openvino, onnx or torch.")] = "openvino",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the target; may be repeated.")
    ] = None,
    optimizer: OptimizerOption = "sgd",
    momentum: MomentumOption = 0.9,
    weight_decay: DecayOption = 0.0,
    clip_norm: ClipOption = None,
    accumulate: AccumulateOption = 1,
    ema_decay: EmaOption = None,
    group: GroupOption = None,
    parity: Annotated[
        bool, typer.Option("--parity/--no-parity", help="Compare one step with PyTorch before shipping.")
    ] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Write it over another artefact.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Write it even if it deviates from PyTorch; --replace, too."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile a plan's training step into a folder.

    An artefact that is there is replaced by one of the same task, plan, optimizer and target; another one
    only with --replace, and anything else never.

    A plan file brings its own optimizer; --optimizer and its options are for the named plans.
    """
    import pockgraph as pg

    start = time.perf_counter()
    around = clip_norm, accumulate, ema_decay, group
    graph, chosen = graph_and_plan(
        task, plan, lambda: make_optimizer(optimizer, momentum, weight_decay, *around)
    )
    say(f"Compiling for {target} …")
    options = dict(map(_option, option or []))
    artifact = pg.compile(
        graph, chosen, target=target, out=out_folder, options=options, parity=parity, force=force,
        replace=replace or force,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    figures = artifact.manifest.predicted
    if as_json:
        print_json(
            {
                "artifact": str(artifact.path),
                "target": target,
                "bytes": artifact.nbytes,
                "seconds": seconds,
                "predicted": figures,
                "tensors": len(chosen.tensors),
                "parity": artifact.manifest.parity_json,
            }
        )
        return
    said = (
        f": {size(artifact.nbytes)} for {target}, {len(chosen.tensors)} tensors learn, "
        f"modelled peak {size(figures['peak_bytes'])}, extra {size(figures['extra_bytes'])}, "
        f"{flops(figures['step_flops'])} a step. Took {seconds:.1f} s."
    )
    out().print(styled((str(out_folder), "bold"), said))
    process = process_peak(chosen)
    if process is not None and chosen.provenance.get("process_target") == target:
        out().print(process)
    print_parity(artifact.manifest.parity_json)


def _option(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise PockError(f"--option takes NAME=VALUE, got {item!r}.")
    return name, value


def print_parity(record: Mapping[str, Any] | str | None) -> None:
    """Whether an artefact agrees with PyTorch, and by how much."""
    badge = parity_badge(record)
    colour = {"good": "green", "unknown": "yellow", "bad": "red"}[badge.level]
    out().print(styled((badge.text, colour), f". {badge.detail}"))
