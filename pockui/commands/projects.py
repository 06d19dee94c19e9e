"""`pockui analyze`, `search`, `compile`: from one's own task to a folder that a device runs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import PlanError, PockError, suggest

from ..info.format import UNKNOWN, flops, milliseconds, percent, signed, size
from ..info.parity import parity_badge
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
from .output import INTERRUPTED, JsonFlag, out, print_json, print_table, progress_bars, say, styled

if TYPE_CHECKING:
    from pockgraph import Plan, Study, TrainGraph
    from pockgraph.contribution import Contribution
    from pockgraph.optimizer import Optimizer

TaskArgument = Annotated[
    str, typer.Argument(metavar="MODULE:TASK", help="A Task or a function that returns one; or vision, text.")
]
WORDS = ("frozen", "free")  # instead of a ratio
NAMED_PLANS = ("head", "full", "preset", "biases:K")


def analyze(
    task: TaskArgument,
    study: Annotated[Path, typer.Option(help="The study file; made if it does not exist.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each measurement.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions with other heads and batches.")
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
    time_steps: Annotated[
        bool, typer.Option("--time", help="Also time some plans on OpenVINO, for budgets in ms.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A rough analysis in about a minute.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Measure even if the gradients deviate from PyTorch's.")
    ] = False,
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
    given = {"steps": steps, "tensors": tensors or None, "lr": lr}
    options |= {k: v for k, v in given.items() if v is not None}

    say(f"Loading {task} …")
    around = clip_norm, accumulate, ema_decay, group
    record = Study(study, load_task(task), make_optimizer(optimizer, momentum, weight_decay, *around))
    profile = record.profile  # made now, so that the study can be searched where there is no model
    if quick:
        from pockgraph.contribution.candidates import quick_settings

        options = quick_settings(profile) | options
    contribution = run_analysis(record, target=target, force=force, **options)
    if time_steps:
        from pockgraph.study.time_plans import fit, time_plans

        timed = time_plans(record.graph, profile, progress=lambda note: say(f"{note} …"))
        model = fit(profile, "openvino", timed)
        record.save_profile(profile.with_time(model))
        say(f"Timed {model.points} plans; the time model is off by {percent(model.error_ratio)} (median).")
    if as_json:
        print_json(contribution_json(contribution))
        return
    print_contribution(contribution)
    search_it, serve_it = (f"pockui search {study} --peak-mb N", "bold"), (f"pockui serve {study}", "bold")
    out().print(styled(f"\nStudy: {study}. Next: ", search_it, " or ", serve_it))


def run_analysis(record: Study, description: str = "Measuring contribution", **options: Any) -> Contribution:
    """`Study.analyze` with a progress bar; Ctrl-C says how to go on."""
    try:
        with progress_bars() as bars:
            bar = bars.add_task(description, total=None, note="")

            def show(event: Any) -> None:
                bars.update(bar, completed=event.done, total=event.total, note=event.label)

            return record.analyze(progress=show, **options)
    except KeyboardInterrupt:
        done, planned = record.progress()
        say(
            f"Stopped after {done} of {planned} measurements; {record.path} keeps them. "
            "The same command goes on from there."
        )
        raise typer.Exit(INTERRUPTED) from None


def search(
    study: Annotated[Path, typer.Argument(help="A study that was analysed.")],
    peak_mb: Annotated[
        float | None, typer.Option(help="Modelled peak memory of a step, MB (10^6 bytes).")
    ] = None,
    extra_mb: Annotated[float | None, typer.Option(help="Saved activations and optimizer state, MB.")] = None,
    step_ms: Annotated[float | None, typer.Option(help="Predicted time of a step, ms.")] = None,
    lock: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=RATIO",
            help="Fix the ratio of tensors: a name, a glob, or re: and a regular expression, and a ratio, "
            "frozen, or free; may be repeated, the last one counts.",
        ),
    ] = None,
    whole_blocks: Annotated[
        bool, typer.Option("--whole-blocks", help="Train all measured weights of a block, or none.")
    ] = False,
    weights_need_bias: Annotated[
        bool, typer.Option("--weights-need-bias", help="Train a weight only where its bias is trained.")
    ] = False,
    max_tensors: Annotated[
        int | None, typer.Option(min=1, help="Train at most so many tensors, the head's included.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="exact, or evolutionary: the paper's search, for comparison (needs pymoo).")
    ] = "exact",
    seed: Annotated[int, typer.Option(min=0, help="Of the evolutionary search.")] = 0,
    frontier: Annotated[
        int | None, typer.Option(min=2, help="Also list N best plans over the memory range.")
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the plan here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the plan that gains most within a budget of memory, time, or both."""
    from pockgraph import Budget, Constraints

    budget = Budget(
        peak_bytes=_bytes(peak_mb, "--peak-mb"),
        extra_bytes=_bytes(extra_mb, "--extra-mb"),
        step_ms=step_ms,
    )
    if peak_mb is None and extra_mb is None and step_ms is None and frontier is None:
        raise PockError("Give a budget: --peak-mb, --extra-mb, --step-ms, or any of them together.")
    asked = Constraints(
        locked=_locked(lock or []), whole_blocks=whole_blocks, weights_need_bias=weights_need_bias,
        max_tensors=max_tensors,
    )  # fmt: skip
    record = open_study(study)
    start = time.perf_counter()
    plan = record.search(budget, constraints=asked, method=method, seed=seed)  # pyright: ignore
    query_ms = (time.perf_counter() - start) * 1e3
    points = record.frontier(frontier, constraints=asked) if frontier else []
    if out_file is not None:
        plan.save(out_file)
    if as_json:
        print_json(
            {
                "plan": plan_json(plan),
                "query_ms": query_ms,
                "out": out_file and str(out_file),
                "frontier": [plan_json(p) for p in points],
            }
        )
        return
    print_plan(plan)
    if points:
        out().print("\nFrontier", style="bold")
        columns = (">Gain", ">Modelled peak", ">Extra", ">Work", ">Step", ">Tensors")
        print_table(columns, [(*_predicted(p), len(p.tensors)) for p in points])
    if out_file is not None:
        say(f"Wrote {out_file} (found in {query_ms:.0f} ms).")


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
    print_parity(artifact.manifest.parity_json)


# ---------------------------------------------------------------- reading options


def graph_and_plan(task: str, plan: str, rule: Callable[[], Optimizer]) -> tuple[TrainGraph, Plan]:
    """A task's training graph, and a plan file or named plan.

    Args:
        rule: makes the optimizer of a named plan; a file brings its own.

    Raises:
        PockError: no such task, plan or optimizer, or a task that cannot be trained.
    """
    from pockgraph import build
    from pockgraph.optimizer import optimizer_from_dict

    from ..project import load_task

    say(f"Loading {task} …")
    loaded = load_task(task)
    from_file = _file_plan(plan)
    optimizer = rule() if from_file is None else optimizer_from_dict(from_file.optimizer)
    say("Deriving the training graph …")
    graph = build(loaded, optimizer)
    return graph, from_file or named_plan(graph, plan)


def open_study(path: Path) -> Study:
    """An existing study, without its task."""
    from pockgraph import Study

    if not os.path.lexists(path):
        near = suggest(path.name, [p.name for p in path.parent.glob("*.db")])
        raise PockError(
            f"There is no study {path}.{near} Make one with: pockui analyze MODULE:TASK --study {path}"
        )
    return Study(path)


def named_plan(graph: TrainGraph, name: str) -> Plan:
    """`head`, `full`, `preset` or `biases:K`.

    Raises:
        PlanError: none of these.
    """
    from pockgraph.plan import Plan

    rules = {"head": Plan.head, "full": Plan.full, "preset": Plan.preset}
    if name in rules:
        return rules[name](graph)
    kind, _, count = name.partition(":")
    if kind == "biases" and count.isdecimal():
        return Plan.last_k_biases(graph, int(count))
    raise PlanError(
        f"There is no plan file {name!r}, and no plan of that name: those are {', '.join(NAMED_PLANS)}."
        f"{suggest(name, [*rules, 'biases:'])}"
    )


def _file_plan(name: str) -> Plan | None:
    from pockgraph.plan import Plan

    path = Path(name)
    named = name in NAMED_PLANS or name.startswith("biases:")
    is_file = path.suffix == ".json" or len(path.parts) > 1 or (not named and os.path.lexists(path))
    return Plan.load(path) if is_file or path.is_file() else None


def _bytes(megabytes: float | None, option: str) -> int | None:
    if megabytes is None:
        return None
    if not 0 < megabytes < math.inf:
        raise PockError(f"{option} is a number of megabytes above 0, such as {option} 40; got {megabytes}.")
    return max(1, round(megabytes * 1e6))


def _ratios(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PockError(f"--ratios takes numbers with commas, as 1,0.5,0.25; got {text!r}.") from None
    if not all(0 < r <= 1 for r in ratios):
        raise PockError(f"--ratios: each lies above 0 and is at most 1; got {text!r}.")
    return ratios


def _locked(items: Iterable[str]) -> dict[str, Any]:
    locked: dict[str, Any] = {}
    for item in items:
        pattern, equals, text = item.rpartition("=")  # the last one: a module may have another in its name
        if not equals:
            raise PockError(
                "--lock takes PATTERN=RATIO, as in --lock conv.weight=0.5 or --lock 'blocks.0.*=frozen'; "
                f"got {item!r}."
            )
        locked.pop(pattern, None)  # the last one counts, wherever it stood first
        try:
            locked[pattern] = text if text in WORDS else float(text)
        except ValueError:
            raise PockError(
                f"--lock {item}: the ratio must be a number between 0 and 1, frozen or free."
                f"{suggest(text, WORDS)}"
            ) from None
    return locked


def _option(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise PockError(f"--option takes NAME=VALUE, got {item!r}.")
    return name, value


# ---------------------------------------------------------------- showing results


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


def print_parity(record: Mapping[str, Any] | str | None) -> None:
    """Whether an artefact agrees with PyTorch, and by how much."""
    badge = parity_badge(record)
    colour = {"good": "green", "unknown": "yellow", "bad": "red"}[badge.level]
    out().print(styled((badge.text, colour), f". {badge.detail}"))


def _gain(gain: Any) -> str:
    if gain is None:
        return "–"
    spread = f" ± {gain.std:.3f}" if gain.std == gain.std else ""
    return f"{gain.mean:+.4f}{spread}"


def contribution_json(contribution: Contribution) -> dict[str, Any]:
    def gain(g: Any) -> dict[str, float]:
        return {"mean": g.mean, "std": g.std, "seeds": g.seeds}

    return {
        "baseline": gain(contribution.baseline),
        "weights": {f: {str(r): gain(g) for r, g in gs.items()} for f, gs in contribution.weights.items()},
        "biases": {str(k): gain(g) for k, g in contribution.biases.items()},
    }


def _predicted(plan: Plan) -> tuple[str, ...]:
    p = plan.predicted
    gain = p.get("gain")
    return (
        "–" if gain is None else signed(gain), size(p.get("peak_bytes")), size(p.get("extra_bytes")),
        flops(p.get("flops")), milliseconds(p.get("step_ms")),
    )  # fmt: skip


def print_plan(plan: Plan) -> None:
    gain, peak, extra, work, step = _predicted(plan)
    said = (
        f"; measured gains over the head alone add up to {gain} (they overlap), modelled peak {peak}, "
        f"extra {extra}, {work} a step, {'time not measured' if step == UNKNOWN else step}.\n"
    )
    out().print(styled((f"{len(plan.tensors)} of {len(plan.model)} tensors learn", "bold"), said))
    rows = [(fqn, percent(plan.ratio(fqn)), "×".join(map(str, plan.model[fqn]))) for fqn in plan.tensors]
    print_table(("Tensor", ">Trained", ">Shape"), rows)


def plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "predicted": plan.predicted, "provenance": plan.provenance,
        "ratios": {fqn: plan.ratio(fqn) for fqn in plan.tensors},
    }  # fmt: skip
