"""`pockui serve` and `pockui study`: look at what was measured and trained, take it out and bring it in."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import PockError, StudyError, reason

from ..info.format import UNKNOWN, milliseconds, size
from ..info.process_memory import account_of
from .analysis import analysis_json, contribution_json, print_analysis, print_contribution
from .output import JsonFlag, out, print_json, print_table, say, styled
from .search import forecast_text
from .tasks_and_plans import open_study

if TYPE_CHECKING:
    from pockgraph import Plan, Study
    from pockgraph.study import Run

app = typer.Typer(no_args_is_help=True, help="List, show, export and import studies.")
ADDRESS = "127.0.0.1"


class Table(StrEnum):
    """What is written as a table."""

    RUNS = "runs"
    MEASUREMENTS = "measurements"


def serve(
    study: Annotated[
        Path | None, typer.Argument(help="A study; without one the page offers to make one.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5006,
    show: Annotated[bool, typer.Option(help="Open it in the browser.")] = True,
    task: Annotated[
        str | None,
        typer.Option(metavar="MODULE:TASK", help="The study's task, which training in the page then runs."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Address to listen on. Another than loopback needs a password.")
    ] = ADDRESS,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name under which browsers may open it; may be repeated."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(
            envvar="POCKUI_PASSWORD", show_envvar=True,
            help="Asked for before anything is shown. Other users see a command's arguments; the environment "
            "they do not.",
        ),
    ] = None,
    max_sessions: Annotated[
        int | None, typer.Option(min=1, help="Pages that may be open at once; 30 unless given.")
    ] = None,
) -> None:  # fmt: skip
    """Open the dashboard on this machine; nobody else can reach it unless --address says so."""
    os.environ.pop("POCKUI_PASSWORD", None)  # processes that train have no use for it
    if task is not None:
        from ..project import name_task

        name_task(task)
    if study is not None:
        open_study(study)
    try:
        from ..serving import serve as serve_app
    except ModuleNotFoundError as e:
        raise PockError(f"The dashboard needs {e.name!r}. Install it with: pip install 'pockui[app]'") from e
    serve_app(
        study, port, show, address=address, allow_hosts=allow_host or (), password=password,
        max_sessions=max_sessions, started=lambda url: say(f"Dashboard on {url} – Ctrl-C ends it."),
    )  # fmt: skip


@app.command("ls")
def list_studies(
    folder: Annotated[Path, typer.Argument(help="Where to look for .db files.")] = Path(),
    as_json: JsonFlag = False,
) -> None:
    """List the studies of a folder and of the folders in it."""
    if not folder.is_dir():
        raise PockError(f"There is no folder {folder}.")
    rows = []
    for path in sorted({*folder.glob("*.db"), *folder.glob("*/*.db")}):
        try:
            with open_study(path, read_only=True) as record:
                rows.append({"path": str(path), **_summary(record)})
        except (StudyError, sqlite3.DatabaseError) as e:  # damaged, or some other program's
            say(f"Left out: {reason(e)}.")
    if as_json:
        print_json(rows)
    elif not rows:
        out().print(
            f"No study in {folder.resolve()}. Make one with: pockui analyze MODULE:TASK --study study.db"
        )
    else:
        print_table(
            ("Study", "Task", ">Measured", ">Plans", ">Runs", ">Size"),
            [
                (
                    r["path"],
                    r["reference"] or r["task"],
                    f"{r['measured']} of {r['planned']}",
                    r["plans"],
                    r["runs"],
                    size(r["bytes"]),
                )
                for r in rows
            ],
        )


@app.command("show")
def show_study(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    limit: Annotated[int, typer.Option(min=1, help="Tensors, and runs, to list.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Show what a study holds: contribution, plans, runs and profiles."""
    record = open_study(study, read_only=True)
    summary = _summary(record)
    contribution = record.contribution if record.has_contribution else None
    plans, runs = record.plans(), record.runs()
    if as_json:
        print_json(
            {
                **summary,
                "contribution": contribution and contribution_json(contribution),
                **analysis_json(record),
                "saved_plans": {name: _with_forecast(record, plan).predicted for name, plan in plans.items()},
                "saved_runs": [_run_json(run) for run in runs],
            }
        )
        return
    profiles = ", ".join(f"{name} {size(n)}" for name, n in record.documents().items()) or "no profile"
    said = (
        f" {summary['reference']}: {summary['measured']} of {summary['planned']} measurements, "
        f"{_count(summary['plans'], 'plan')}, {_count(summary['runs'], 'run')}. "
        f"{size(summary['bytes'])}, schema {summary['schema']}, {profiles}.\n"
    )
    out().print(styled((summary["task"], "bold"), said))
    if contribution is not None:
        print_contribution(contribution, limit)
        print_analysis(record)
    if plans:
        print()
        rows = [
            (
                name, len(plan.tensors), *forecast_text(_with_forecast(record, plan)),
                size(plan.predicted.get("peak_bytes")), milliseconds(plan.predicted.get("step_ms")),
                size(plan.predicted.get("process_bytes")), account_of(plan) or UNKNOWN,
            )
            for name, plan in plans.items()
        ]  # fmt: skip
        columns = (
            "Plan",
            ">Tensors",
            ">Forecast",
            ">Interval",
            ">Modelled peak",
            ">Step",
            ">Process peak",
            "Of it",
        )
        shown = len(columns) if any(account_of(plan) for plan in plans.values()) else len(columns) - 2
        print_table(columns[:shown], [row[:shown] for row in rows])
    if runs:
        print()
        columns = ("Run", "From", "State", ">Tensors", ">Steps", ">Rate", ">Step", ">Validation", ">Gain",
                   ">Forecast", ">Test")  # fmt: skip
        print_table(columns, map(_run_row, runs[-limit:]))
        if len(runs) > limit:
            out().print(f"and {len(runs) - limit} earlier", style="dim")


@app.command("export")
def export(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    file: Annotated[
        Path, typer.Argument(help="Where to: .json holds everything, .csv and .parquet one table.")
    ],
    table: Annotated[
        Table, typer.Option(help="Which table: runs, or measurements with what each gained.")
    ] = Table.RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Write a study to a file that other programs read."""
    from pockgraph.study.exchange import export_study

    with open_study(study, read_only=True) as record:
        written = export_study(record, file, table.value)
    found = {"file": str(file), "bytes": written.stat().st_size}
    if as_json:
        print_json(found)
    else:
        out().print(styled((str(file), "bold"), f": {size(found['bytes'])}."))


@app.command("import")
def import_(
    study: Annotated[Path, typer.Argument(help="The study; a .json file makes it where there is none.")],
    file: Annotated[Path, typer.Argument(help="What pockui study export wrote.")],
    as_json: JsonFlag = False,
) -> None:
    """Bring an exported file into a study of the same task.

    What the study lacks is added, what it has stays as it is.
    """
    from pockgraph.study.exchange import import_study

    added = import_study(study, file)
    if as_json:
        print_json(asdict(added))
        return
    said = (
        f"{' is new' if added.made else ''}: added {_count(added.runs, 'run')}, "
        f"{_count(added.measurements, 'measurement')} and {_count(added.plans, 'plan')}; "
        f"{added.known} runs and measurements were known."
    )
    out().print(styled((str(study), "bold"), said))
    if added.other_plans:
        say(f"Its own plans stay where the file has another one of the name: {', '.join(added.other_plans)}.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _with_forecast(record: Study, plan: Plan) -> Plan:
    """The plan as what is known by now forecasts it; as it was kept where nothing was measured."""
    try:
        figures = record.forecast(plan).figures
    except PockError:
        return plan
    return plan.model_copy(update={"predicted": {**plan.predicted, **figures}})


def _run_row(run: Run) -> tuple[object, ...]:
    def number(value: float | None, form: str) -> str:
        return UNKNOWN if value is None else format(value, form)

    return (
        run.name or f"run {run.id}", run.origin, run.status, len(run.plan.tensors), run.steps,
        number(run.lr, "g"), milliseconds(run.step_ms), number(run.validation_metric, ".4f"),
        number(run.gain, "+.4f"), forecast_text(run.plan)[1], number(run.metric, ".4f"),
    )  # fmt: skip


def _run_json(run: Run) -> dict[str, Any]:
    """A run without its long parts: the plan, and all losses but the first and last."""
    from pockgraph.study.records import run_json

    found = run_json(run)
    plan, losses = found.pop("plan"), found.pop("losses")
    ends = {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}
    return {"id": run.id, **found, **ends, "gain": run.gain, "tensors": list(plan["tensors"])}


def _summary(record: Study) -> dict[str, Any]:
    measured, planned = record.progress()
    return {
        "task": record.name, "reference": record.reference, "measured": measured, "planned": planned,
        "plans": len(record.plans()), "runs": len(record.runs()), "profiles": list(record.documents()),
        "schema": record.schema_version, "bytes": record.nbytes(),
    }  # fmt: skip
