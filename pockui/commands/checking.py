"""`pockui check`: does a plan compile for a target, and if not, what would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .optimizers import DecayOption, MomentumOption, OptimizerOption, make_optimizer
from .output import FAILED, JsonFlag, out, print_json, print_table, say, styled
from .tasks_and_plans import NAMED_PLANS, TaskArgument, graph_and_plan


def check(
    task: TaskArgument,
    target: Annotated[str, typer.Option(help="Any target of `pockui doctor`.")] = "openvino",
    plan: Annotated[str, typer.Option(help=f"A plan file, or one of {', '.join(NAMED_PLANS)}.")] = "full",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the nearest plan that compiles here.")
    ] = None,
    optimizer: OptimizerOption = "sgd",
    momentum: MomentumOption = 0.9,
    weight_decay: DecayOption = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """List every operator that a target lacks, and the nearest plan that compiles.

    Exit status 0 when the plan compiles as it is, 1 when it does not.
    """
    graph, chosen = graph_and_plan(task, plan, lambda: make_optimizer(optimizer, momentum, weight_decay))
    found = graph.prune(chosen).check(target)
    if out_file is not None and found.plan is not None:
        found.plan.save(out_file)
    if as_json:
        print_json(found.to_dict() | {"out": out_file and found.plan and str(out_file)})
    elif found.ok:
        out().print(styled(("compiles", "green"), f" {found}"))
    else:
        rows = [(p.op, p.needed_by, p.layer or "–", p.source or "–", p.reason) for p in found.problems]
        print_table(("Operator", "Needed by the", "Layer", "Source", "Why not"), rows)
        out().print(f"\n{found.advice}", style="bold")
        for other in found.other_targets:
            out().print(f"As it is, the plan compiles for the target {other}.")
    if out_file is not None:
        say(
            f"Wrote {out_file}."
            if found.plan is not None
            else f"No plan compiles; {out_file} was not written."
        )
    if not found.ok:
        raise typer.Exit(FAILED)
