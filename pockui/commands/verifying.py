"""`pockui verify`: train a plan for real, and see whether it reaches what was forecast."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import PockError, suggest

from ..info.format import milliseconds
from .analysis import gain_json
from .output import INTERRUPTED, JsonFlag, out, print_json, print_table, progress_bar, say, styled
from .search import plan_json
from .tasks_and_plans import NAMED_PLANS, file_plan, is_named, named_plan, study_with_task

if TYPE_CHECKING:
    from pockgraph import Plan, Study
    from pockgraph.contribution.forecast import Forecast
    from pockgraph.study.verification import Verification


def verify(
    study: Annotated[Path, typer.Argument(help="A study that was analysed.")],
    plan: Annotated[
        str,
        typer.Argument(
            help=f"A plan file, the name of a plan that the study keeps, or one of {', '.join(NAMED_PLANS)}."
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(metavar="MODULE:TASK", help="The study's task; the demo's are found by themselves."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many trainings, with other heads and batches; the analysis's if left out."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Where to train: openvino, onnx or torch; as the analysis did.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if the gradients deviate from PyTorch's.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a plan for real, and compare what it reaches with its forecast.

    It is trained as the analysis trained: the same data, steps, learning rate and fresh heads. The study
    keeps the runs, and they count in the next forecast.
    """
    record = study_with_task(study, task)
    chosen, name = _plan_of(record, plan)
    try:
        with progress_bar("Training") as show:
            found = record.verify(
                chosen, name=name, seeds=None if seeds is None else range(seeds), target=target, force=force,
                progress=show,
            )  # fmt: skip
    except KeyboardInterrupt:
        say(f"Stopped. {record.path} keeps the trainings that were finished, and this one as cancelled.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(_json(found, record))
    else:
        _show(found, name, record)


def _plan_of(record: Study, name: str) -> tuple[Plan, str]:
    """A plan and what it is called: of a file, kept in the study, or a named one."""
    kept = record.plans()
    if name in kept:
        return kept[name], name
    if (from_file := file_plan(name)) is not None:
        return from_file, Path(name).name.removesuffix(".json")
    if is_named(name):
        return named_plan(record.graph, name), name
    near = suggest(name, [*kept, *NAMED_PLANS])
    raise PockError(
        f"There is no plan file {name!r}, and the study keeps no plan of that name; it keeps "
        f"{', '.join(kept) or 'none'}, and there are {', '.join(NAMED_PLANS)}.{near}"
    )


def _json(found: Verification, record: Study) -> dict[str, Any]:
    return {
        "plan": plan_json(found.plan),
        "head_metric": found.head.mean,
        "predicted_gain": found.predicted_gain,
        "forecast": dataclasses.asdict(found.forecast),
        "next_forecast": dataclasses.asdict(record.forecast(found.plan)),
        "measured_gain": gain_json(found.measured),
        "difference": found.difference,
        "runs": [
            {
                "id": run.id, "uid": run.uid, "seed": run.seed, "steps": run.steps, "lr": run.lr,
                "target": run.target, "metric": run.validation_metric,
                "metric_before": run.validation_baseline, "head_metric": run.head_metric,
                "gain": run.gain, "step_ms": run.step_ms, "duration_s": run.duration_s,
            }
            for run in found.runs
        ],
    }  # fmt: skip


def _show(found: Verification, name: str, record: Study) -> None:
    from ..info.gains import COVERAGE_TEXT

    run, count = found.runs[0], len(found.runs)
    samples = run.data["validation"].samples
    times = "once" if count == 1 else f"{count} times"
    said = (
        f": {len(found.plan.tensors)} of {len(found.plan.model)} tensors learn. Trained {times}, "
        f"{run.steps} steps each at rate {run.lr:g} on {run.target} ({milliseconds(run.step_ms)} a step), "
        f"and judged on {f'{samples:,} ' if samples else ''}validation samples.\n"
    )
    out().print(styled((name, "bold"), said))
    head, measured = found.head.mean, found.measured
    spread = f" ± {measured.std:.4f}" if count > 1 else ""

    def forecast(title: str, f: Forecast) -> tuple[str, ...]:
        return title, f"{f.metric:.4f}", f"{f.low:.4f} to {f.high:.4f}", f"{f.gain:+.4f}"

    rows = [
        ("Head alone", f"{head:.4f}", "", ""),
        forecast("Forecast", found.forecast),
        ("Measured", f"{head + measured.mean:.4f}", "", f"{measured.mean:+.4f}{spread}"),
        ("Difference", "", "", f"{found.difference:+.4f}"),
        forecast("Next forecast", record.forecast(found.plan)),
    ]
    print_table(("", ">Metric", f">In {COVERAGE_TEXT} trainings", ">Gain over the head"), rows)
    out().print(f"\n{_verdict(found)}")
    say(f"The study {record.path} keeps {'the run' if count == 1 else f'the {count} runs'}.")


def _verdict(found: Verification) -> str:
    """Whether the trainings keep to the interval, in a sentence."""
    metrics = [run.validation_metric for run in found.runs]
    inside = sum(found.forecast.holds(metric) for metric in metrics if metric is not None)
    if len(metrics) == 1:
        where = "inside" if inside else "outside"
        return f"The training lies {where} the interval. How much is chance shows with --seeds 3 or more."
    less = "less" if found.difference < 0 else "more"
    return (
        f"{inside} of {len(metrics)} trainings lie inside the interval; on average they gain "
        f"{abs(found.difference):.4f} {less} than forecast."
    )
