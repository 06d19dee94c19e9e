"""`pockui serve` and `pockui study ls|show`: look at what was measured."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pockgraph.errors import PockError, StudyError

from ..info.format import milliseconds, size
from .analysis import contribution_json, print_contribution
from .output import JsonFlag, out, print_json, print_table, say, styled
from .tasks_and_plans import open_study

if TYPE_CHECKING:
    from pockgraph import Study

app = typer.Typer(no_args_is_help=True, help="List and show studies.")
ADDRESS = "127.0.0.1"


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
            rows.append({"path": str(path), **_summary(open_study(path))})
        except (StudyError, sqlite3.DatabaseError):
            continue  # some other program's database
    if as_json:
        print_json(rows)
    elif not rows:
        out().print(
            f"No study in {folder.resolve()}. Make one with: pockui analyze MODULE:TASK --study study.db"
        )
    else:
        print_table(
            ("Study", "Task", ">Measured", ">Plans", ">Runs"),
            [
                (
                    r["path"],
                    r["reference"] or r["task"],
                    f"{r['measured']} of {r['planned']}",
                    r["plans"],
                    r["runs"],
                )
                for r in rows
            ],
        )


@app.command("show")
def show_study(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    limit: Annotated[int, typer.Option(min=1, help="Tensors to list.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Show what a study holds: contribution, plans and runs."""
    record = open_study(study)
    summary = _summary(record)
    contribution = record.contribution if summary["measured"] else None
    plans = record.plans()
    if as_json:
        print_json(
            {
                **summary,
                "contribution": contribution and contribution_json(contribution),
                "saved_plans": {name: plan.predicted for name, plan in plans.items()},
            }
        )
        return
    said = (
        f" {summary['reference']}: {summary['measured']} of {summary['planned']} measurements, "
        f"{summary['plans']} plans, {summary['runs']} runs\n"
    )
    out().print(styled((summary["task"], "bold"), said))
    if contribution is not None:
        print_contribution(contribution, limit)
    if plans:
        print()
        rows = [
            (
                name, len(plan.tensors), size(plan.predicted.get("peak_bytes")),
                milliseconds(plan.predicted.get("step_ms")),
            )
            for name, plan in plans.items()
        ]  # fmt: skip
        print_table(("Plan", ">Tensors", ">Modelled peak", ">Step"), rows)


def _summary(record: Study) -> dict[str, Any]:
    measured, planned = record.progress()
    return {
        "task": record.name, "reference": record.reference, "measured": measured, "planned": planned,
        "plans": len(record.plans()), "runs": len(record.runs()),
    }  # fmt: skip
