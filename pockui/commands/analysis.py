"""`pockui analyze`: what each tensor contributes when it learns beside the head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.contribution.agreement import RANKED_BY
from pockgraph.errors import PockError

from ..info.format import percent
from ..study_job import QUICK_S
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
from .output import INTERRUPTED, JsonFlag, out, print_json, print_table, progress_bar, say, styled
from .tasks_and_plans import TaskArgument

if TYPE_CHECKING:
    from pockgraph import Study
    from pockgraph.contribution import Contribution, Gain
    from pockgraph.contribution.agreement import Agreement
    from pockgraph.profile import Profile


class Mode(StrEnum):
    """How contribution is found."""

    MEASURED = "measured"
    PROBE = "probe"
    MIXED = "mixed"


def analyze(
    task: TaskArgument,
    study: Annotated[Path, typer.Option(help="The study file; made if it does not exist.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each measurement.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Repetitions with other heads and batches.")
    ] = None,
    ratios: Annotated[str | None, typer.Option(help="Shares of a weight's channels, as 1,0.5,0.25.")] = None,
    tensors: Annotated[
        list[str] | None, typer.Option(help="Only tensors that match this glob; may be repeated.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the measurements.")] = None,
    optimizer: OptimizerOption = "sgd",
    momentum: MomentumOption = 0.9,
    weight_decay: DecayOption = 0.0,
    clip_norm: ClipOption = None,
    accumulate: AccumulateOption = 1,
    ema_decay: EmaOption = None,
    group: GroupOption = None,
    target: Annotated[str, typer.Option(help="Where to measure: auto, openvino or torch.")] = "auto",
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="measured: train each tensor; probe: score all by their gradients, in seconds; mixed: "
            "probe, and train what could change the plans."
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Measure no longer than this; call again to go on."),
    ] = None,
    time_steps: Annotated[
        bool,
        typer.Option(
            "--time", help="Also measure some plans on OpenVINO, for budgets in ms and of process memory."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough analysis in about a minute, in mode mixed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure even if the gradients deviate from PyTorch's.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Processes that measure at once; by default as many as pay, 1: none."
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Measure on the workers of this Dask scheduler, as tcp://host:8786.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what each tensor contributes when it learns beside the head.

    Every measurement is stored as soon as it is made: stopped at any time, the same command goes on
    where it was.
    """
    from pockgraph import Study

    from ..project import load_task

    options: dict[str, Any] = {}
    if ratios is not None:
        options["ratios"] = _ratios(ratios)
    if seeds is not None:
        options["seeds"] = tuple(range(seeds))
    given = {"steps": steps, "tensors": tensors or None, "lr": lr, "time_budget_s": time_budget}
    options |= {k: v for k, v in given.items() if v is not None}

    if workers is not None and cluster is not None:
        raise PockError("--workers counts processes of this machine, and a --cluster has its own. Give one.")

    say(f"Loading {task} …")
    around = clip_norm, accumulate, ema_decay, group
    record = Study(study, load_task(task), make_optimizer(optimizer, momentum, weight_decay, *around))
    profile = record.profile  # made now, so that the study can be searched where there is no model
    if quick:
        from pockgraph.contribution.candidates import quick_settings

        rough = {"mode": Mode.MIXED, "tensors": None, "time_budget_s": QUICK_S}
        options = quick_settings(profile) | rough | options
    if mode is not None:
        options["mode"] = mode
    with _executor(cluster) as executor:
        contribution = run_analysis(
            record, target=target, force=force, workers=workers, executor=executor, **options
        )
    if time_steps:
        from pockgraph.study.device_kit import measure_here

        say("Measuring a few plans on this machine …")
        record.add_device(measure_here(record.graph, profile))
        say_models(record.profile)
    if as_json:
        print_json(contribution_json(contribution) | analysis_json(record))
        return
    print_contribution(contribution)
    print_analysis(record)
    search_it, serve_it = (f"pockui search {study} --peak-mb N", "bold"), (f"pockui serve {study}", "bold")
    out().print(styled(f"\nStudy: {study}. Next: ", search_it, " or ", serve_it))


@contextmanager
def _executor(address: str | None) -> Iterator[Executor | None]:
    """A cluster's; None where no address is given."""
    if address is None:
        yield None
        return
    from pockgraph.workers.cluster import cluster

    with cluster(address) as executor:
        say(f"Measuring on {address}, {executor.workers} workers …")
        yield executor


def run_analysis(record: Study, description: str = "Measuring contribution", **options: Any) -> Contribution:
    """`Study.analyze` with a progress bar; Ctrl-C says how to go on."""
    try:
        with progress_bar(description) as show:
            return record.analyze(progress=show, **options)
    except KeyboardInterrupt:
        done, planned = record.progress()
        say(
            f"Stopped after {done} of {planned} measurements; {record.path} keeps them. "
            "The same command goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None


def say_models(profile: Profile) -> None:
    """How far the models of time and memory are off."""
    if profile.time is not None:
        say(
            f"Measured {profile.time.points} plans; the time model is off by "
            f"{percent(profile.time.error_ratio)} (median)."
        )
    if profile.memory is not None:
        say(
            f"The model of process memory is off by less than {percent(profile.memory.error_ratio)} for 9 of "
            "10 plans, each left out of the fit."
        )


def _ratios(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PockError(f"--ratios takes numbers with commas, as 1,0.5,0.25; got {text!r}.") from None
    if not all(0 < r <= 1 for r in ratios):
        raise PockError(f"--ratios: each lies above 0 and is at most 1; got {text!r}.")
    return ratios


def print_contribution(contribution: Contribution, limit: int = 20) -> None:
    """The head's metric and the tensors that gain most."""
    out().print(styled("Metric of the head alone: ", (f"{contribution.baseline.mean:.4f}", "bold"), "\n"))
    best = sorted(contribution.weights.items(), key=lambda item: -max(g.mean for g in item[1].values()))[
        :limit
    ]
    ratios = sorted({r for gains in contribution.weights.values() for r in gains}, reverse=True)
    rows = [(fqn, *(_gain(gains.get(r)) for r in ratios)) for fqn, gains in best]
    if rows:
        print_table(("Weight", *(f">{percent(r)}" for r in ratios)), rows)
        hidden = len(contribution.weights) - len(rows)
        if hidden:
            out().print(f"and {hidden} more that gain less", style="dim")
    if contribution.biases:
        print()
        rows = [(k, _gain(g)) for k, g in sorted(contribution.biases.items())]
        print_table(("Last biases", ">Gain"), rows)


def print_analysis(record: Study, limit: int = 10) -> None:
    """What was measured and what was not, and what gradients say of the latter."""
    coverage = record.coverage
    if coverage.probed:
        scores = record.scores
        whole = {fqn: scores.weights[fqn][max(scores.weights[fqn])] for fqn in coverage.probed}
        best = sorted(whole.items(), key=lambda item: -getattr(item[1], RANKED_BY))
        print()
        rows = [(fqn, f"{s.update:.3g}", f"{s.taylor:.3g}", f"{s.fisher:.3g}") for fqn, s in best[:limit]]
        print_table(("Probed, not measured", ">Update", ">Taylor", ">Fisher"), rows)
        if len(best) > limit:
            out().print(f"and {len(best) - limit} more of a lower score", style="dim")
    out().print(f"\n{coverage.text}")
    for line in map(agreement_text, record.agreements()):
        out().print(line)


def agreement_text(found: Agreement) -> str:
    if math.isnan(found.spearman):
        return f"Ranks by the {found.by} score cannot be held against measured gains: all of one are alike."
    return (
        f"Ranks by the {found.by} score and by measured gain: Spearman {found.spearman:+.2f} (90 % interval "
        f"{found.low:+.2f} to {found.high:+.2f}), Kendall {found.kendall:+.2f}, over {found.pairs} ratios of "
        f"{found.tensors} weights."
    )


def analysis_json(record: Study) -> dict[str, Any]:
    """Coverage, scores and how they agree with the gains."""
    coverage = record.coverage
    scores = record.scores if coverage.scores else None
    return {
        "coverage": {**asdict(coverage), "text": coverage.text},
        "scores": scores
        and {
            "weights": {f: {str(r): asdict(s) for r, s in by.items()} for f, by in scores.weights.items()},
            "biases": {str(k): asdict(s) for k, s in scores.biases.items()},
        },
        "agreement": [asdict(found) for found in record.agreements()],
    }


def _gain(gain: Any) -> str:
    if gain is None:
        return "–"
    spread = f" ± {gain.std:.3f}" if gain.std == gain.std else ""
    return f"{gain.mean:+.4f}{spread}"


def contribution_json(contribution: Contribution) -> dict[str, Any]:
    weights = contribution.weights
    return {
        "baseline": gain_json(contribution.baseline),
        "weights": {f: {str(r): gain_json(g) for r, g in gains.items()} for f, gains in weights.items()},
        "biases": {str(k): gain_json(g) for k, g in contribution.biases.items()},
    }


def gain_json(gain: Gain) -> dict[str, float]:
    return {"mean": gain.mean, "std": gain.std, "seeds": gain.seeds}
