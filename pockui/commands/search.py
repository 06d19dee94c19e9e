"""`pockui search`: the plan of the best forecast within a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import PockError, suggest

from ..info.format import UNKNOWN, flops, milliseconds, percent, signed, significant, size
from ..info.process_memory import process_peak
from .output import JsonFlag, out, print_json, print_table, say, styled
from .tasks_and_plans import open_study, tell_if_stale

if TYPE_CHECKING:
    from pockgraph import Plan


INSTEAD_OF_A_RATIO = ("frozen", "free")


def search(
    study: Annotated[Path, typer.Argument(help="A study that was analysed.")],
    peak_mb: Annotated[
        float | None, typer.Option(help="Modelled peak memory of a step, MB (10^6 bytes).")
    ] = None,
    extra_mb: Annotated[float | None, typer.Option(help="Saved activations and optimizer state, MB.")] = None,
    process_mb: Annotated[
        float | None,
        typer.Option(help="Predicted peak of the whole process, MB; needs analyze --time."),
    ] = None,
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
    cautious: Annotated[
        bool,
        typer.Option(
            "--cautious",
            help="Count what is uncertain less: the largest gain that 19 of 20 such plans would exceed.",
        ),
    ] = False,
    method: Annotated[
        str, typer.Option(help="exact, or evolutionary: the paper's search, for comparison (needs pymoo).")
    ] = "exact",
    seed: Annotated[int, typer.Option(min=0, help="Of the evolutionary search.")] = 0,
    frontier: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=1000,
            help="Also list N best plans over the memory range: the process's with --process-mb and no "
            "--peak-mb, else that of the modelled peak.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Plan for this device; pockui device ls names them."),
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the plan here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the plan of the best forecast within a budget of memory, time, or both."""
    from pockgraph import Budget, Constraints

    budget = Budget(
        peak_bytes=_bytes(peak_mb, "--peak-mb"),
        extra_bytes=_bytes(extra_mb, "--extra-mb"),
        process_bytes=_bytes(process_mb, "--process-mb"),
        step_ms=step_ms,
    )
    if not budget.limits and frontier is None:
        raise PockError(f"Give a budget, or several together. {_feasible(study)}")
    if cautious and (frontier is not None or method != "exact"):
        raise PockError(
            "--cautious is one exact search, for one budget. Leave out --frontier and --method, or itself."
        )
    asked = Constraints(
        locked=_locked(lock or []), whole_blocks=whole_blocks, weights_need_bias=weights_need_bias,
        max_tensors=max_tensors,
    )  # fmt: skip
    record = open_study(study)
    start = time.perf_counter()
    plan = record.search(
        budget, constraints=asked, method=method, seed=seed,  # pyright: ignore[reportArgumentType]
        objective="lower_bound" if cautious else "mean", device=device,
    )  # fmt: skip
    query_ms = (time.perf_counter() - start) * 1e3
    by = "process_bytes" if process_mb is not None and peak_mb is None else "peak_bytes"
    points = record.frontier(frontier, by, constraints=asked, device=device) if frontier else []
    if (costs_of := device or record.used_device) is not None:
        tell_if_stale(record.device(costs_of))
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
        columns = (
            ">Forecast", ">Interval", ">Gain", ">Modelled peak", ">Extra", ">Work", ">Step", ">Process peak",
            ">Tensors",
        )  # fmt: skip
        rows = [
            (*forecast_text(p), *_predicted(p), size(p.predicted.get("process_bytes")), len(p.tensors))
            for p in points
        ]
        print_table(columns, rows)
    if out_file is not None:
        say(f"Wrote {out_file} (found in {query_ms:.0f} ms).")


OPTIONS = {"peak_bytes": "--peak-mb", "extra_bytes": "--extra-mb", "process_bytes": "--process-mb",
           "step_ms": "--step-ms"}  # fmt: skip


def _feasible(path: Path) -> str:
    """What the plans of a study need, from the head alone to the best there is, for each option."""
    from ..facts import read_facts
    from ..info.costs import COSTS

    open_study(path, read_only=True).close()
    facts = read_facts(path)
    said = []
    for key, option in OPTIONS.items():
        low, high = (getattr(facts.known_plans[name].figures, key) for name in ("Head", "Best"))
        if low is None:
            said.append(f"{option} once some plans were measured")
            continue
        unit = "MB" if key.endswith("bytes") else "ms"
        scale = 1e6 if unit == "MB" else 1.0
        number = significant(math.ceil(low / scale * 1000) / 1000, 4)
        said.append(
            f"{option} from {number} {unit} ({COSTS[key].title.lower()} of the head alone) to "
            f"{COSTS[key].text(high)} (the best plan)"
        )
    return f"Feasible are {'; '.join(said)}."


def _bytes(megabytes: float | None, option: str) -> int | None:
    if megabytes is None:
        return None
    if not 0 < megabytes < math.inf:
        raise PockError(f"{option} is a number of megabytes above 0, such as {option} 40; got {megabytes}.")
    return max(1, round(megabytes * 1e6))


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
            locked[pattern] = text if text in INSTEAD_OF_A_RATIO else float(text)
        except ValueError:
            raise PockError(
                f"--lock {item}: the ratio must be a number between 0 and 1, frozen or free."
                f"{suggest(text, INSTEAD_OF_A_RATIO)}"
            ) from None
    return locked


def print_plan(plan: Plan) -> None:
    from ..info.gains import COVERAGE_TEXT

    gain, peak, extra, work, step = _predicted(plan)
    metric, interval = forecast_text(plan)
    promised = (
        f"forecast {metric} ({interval} in {COVERAGE_TEXT} trainings), {gain} over the head alone"
        if "metric" in plan.predicted
        else f"measured gains over the head alone add up to {gain} (they overlap)"
    )
    said = (
        f"; {promised}, modelled peak {peak}, extra {extra}, {work} a step, "
        f"{'time not measured' if step == UNKNOWN else step}.\n"
    )
    out().print(styled((f"{len(plan.tensors)} of {len(plan.model)} tensors learn", "bold"), said))
    process = process_peak(plan)
    if process is not None:
        out().print(f"{process}\n")
    rows = [(fqn, percent(plan.ratio(fqn)), "×".join(map(str, plan.model[fqn]))) for fqn in plan.tensors]
    print_table(("Tensor", ">Trained", ">Shape"), rows)


def forecast_text(plan: Plan) -> tuple[str, str]:
    """The expected metric, and its interval."""
    values = [plan.predicted.get(key) for key in ("metric", "metric_low", "metric_high")]
    metric, low, high = (UNKNOWN if value is None else significant(value, 3) for value in values)
    return metric, UNKNOWN if values[1] is None else f"{low} to {high}"


def _predicted(plan: Plan) -> tuple[str, ...]:
    p = plan.predicted
    gain = p.get("gain")
    return (
        "–" if gain is None else signed(gain), size(p.get("peak_bytes")), size(p.get("extra_bytes")),
        flops(p.get("flops")), milliseconds(p.get("step_ms")),
    )  # fmt: skip


def plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "predicted": plan.predicted, "provenance": plan.provenance,
        "ratios": {fqn: plan.ratio(fqn) for fqn in plan.tensors},
    }  # fmt: skip
