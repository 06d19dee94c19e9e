"""`pockui demo`, `bench` and `report`: this project against plain PyTorch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import FAILED, JsonFlag, out, print_json, print_table, progress_bars, say, styled

if TYPE_CHECKING:
    from ..bench.result import Bench


class Demo(StrEnum):
    """The tasks with a real model and real data."""

    VISION = "vision"
    TEXT = "text"


def demo(
    which: Annotated[Demo, typer.Argument(help="Which task.")] = Demo.VISION,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough comparison in under three minutes.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Final runs of each method: 3, with --quick 1.")
    ] = None,
    all_baselines: Annotated[
        bool, typer.Option("--all-baselines", help="With --quick, compare what the whole demo does.")
    ] = False,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where report, study, plan and artefact go: out/demo-TASK.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Analyse, plan, compile and train a real network, and compare with full fine-tuning.

    Stopped by Ctrl-C, the study keeps what was measured and the same command goes on from there.
    """
    from ..demo import experiment, report
    from ..demo.answers import answers_text
    from ..demo.settings import settings_for

    folder = out_folder or Path("out") / f"demo-{which}"
    settings = settings_for(which, quick, seeds, all_baselines or None)
    with _stages() as progress:
        found = experiment.run(
            which, folder, settings, quick=quick, command=command_line(), progress=progress
        )
    data, page = report.write(found, folder)
    if as_json:
        print_json(report.summary(found))
        return
    print_report(found)
    out().print(f"\nReport     {page}\nFigures    {data}")
    out().print(f"Plan       {folder / 'plan.json'}\nArtefact   {folder / experiment.ARTIFACT}")
    if found.answers is not None:
        out().print(f"Trained    {folder / experiment.CHECKPOINT}\n\n{answers_text(found)}")
    serve_it = f"pockui serve {folder / 'study.db'}"
    out().print(styled("\nLook into it: ", (serve_it, "bold"), "  (or: make app)"))


def report_(
    file: Annotated[Path, typer.Argument(help="A report.json, or the folder that holds one.")] = Path(
        "out/demo-vision"
    ),
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the page here; beside the file by default.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables as Markdown, too.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a comparison again, and write its page anew."""
    from ..demo import report as pages
    from ..demo.results import Report, write_text

    path = file / "report.json" if file.is_dir() else file
    found = Report.load(path)
    page = html or (path.with_suffix(".html") if path.suffix == ".json" else Path(f"{path}.html"))
    write_text(page, pages.render(found))
    if markdown is not None:
        write_text(markdown, pages.markdown(found))
    if as_json:
        print_json(pages.summary(found))
        return
    print_report(found)
    out().print(f"\nPage: {page}")


def bench(
    which: Annotated[
        str, typer.Argument(help="A scenario, as mobilenet-8x224; `all` for one after the other.")
    ] = Demo.VISION,
    peers: Annotated[
        str | None,
        typer.Option(help="Who takes part beside this project, as pytorch,channels_last,tensorflow; or all."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a batch.")] = None,
    px: Annotated[int | None, typer.Option(min=32, help="Side of the images.")] = None,
    length: Annotated[int | None, typer.Option(min=3, help="Tokens of a text.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds; of all scenarios, few.")] = False,
    compiled: Annotated[bool, typer.Option(help="Time torch.compile too; compiling takes minutes.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For every side; by default all usable cores.")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the figures of one scenario here, as JSON.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Write bench-SCENARIO.json and .md into this folder.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when a goal is missed.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time a training step on OpenVINO, in PyTorch and elsewhere, in turn in one run, and check the goals."""
    from ..bench.contenders import PEERS_OF_DEMO, peers_named
    from ..bench.run import run
    from ..bench.scenarios import ALIASES, EVERY, scenarios

    if which == EVERY and out_file is not None:
        raise typer.BadParameter(
            "it holds one scenario; for all of them give --results FOLDER", param_hint="--out"
        )
    chosen = [s.sized(batch_size=batch, px=px, length=length) for s in scenarios(which, quick)]
    default = PEERS_OF_DEMO if which in ALIASES else None
    takes_part = {s.name: peers_named(peers, s.kind, default) for s in chosen}
    met = True
    for one in chosen:
        names = [*takes_part[one.name], *(["torch.compile"] if compiled else [])]
        with _stages() as progress:
            found = run(
                one, list(dict.fromkeys(names)), quick=quick, threads=threads, command=command_line(),
                progress=progress,
            )  # fmt: skip
        met &= all(g.met for g in found.goals)
        _tell_bench(found, out_file, results, as_json)
    if check and not met:
        raise typer.Exit(FAILED)


def _tell_bench(found: Bench, out_file: Path | None, results: Path | None, as_json: bool) -> None:
    from ..bench import tables
    from ..demo.results import write_text

    if out_file is not None:
        found.save(out_file)
    if results is not None:
        found.save(results / f"bench-{found.scenario}.json")
        write_text(results / f"bench-{found.scenario}.md", tables.markdown(found))
    if as_json:
        print_json(found.to_dict())
        return
    print_table(tables.COLUMNS, tables.table(found), title=found.title)
    print()
    print_table(tables.GOAL_COLUMNS, tables.goal_table(found))
    out().print("\n".join(["", found.context, tables.ceilings_text(found)]).rstrip())


def print_report(report: object) -> None:
    """The tables and what they say."""
    from ..demo import report as pages
    from ..demo.results import Report

    assert isinstance(report, Report)
    print_table(pages.COLUMNS, pages.table(report), title=f"{report.title}: {report.metric}")
    out().print(f"{pages.NOTE}\n", style="dim")
    for predicted in pages.predictions(report):
        print_table(predicted.columns, predicted.rows, title=predicted.title)
        out().print(f"{predicted.note}\n", style="dim")
    for finding in pages.findings(report):
        out().print(f"• {finding}")


def command_line() -> str:
    """What was typed, as it can be typed again."""
    program = Path(sys.argv[0])
    return shlex.join(
        ["pockui" if program.stem in ("pockui", "cli", "__main__") else program.name, *sys.argv[1:]]
    )


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int, str], None]]:
    """One bar for each stage, as a function of (stage, done, total, note)."""
    with progress_bars() as bars:
        known: dict[str, object] = {}

        def progress(stage: str, done: int, total: int, note: str) -> None:
            if stage not in known:
                known[stage] = bars.add_task(stage, total=total, note="")
                if not bars.console.is_terminal:
                    say(f"{stage} …")
            bars.update(known[stage], completed=done, total=total, note=note)  # pyright: ignore

        yield progress
