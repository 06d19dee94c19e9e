"""`pockui demo`, `bench` and `report`: this project against plain PyTorch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .output import FAILED, JsonFlag, out, print_json, print_table, progress_bars, say, styled


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
    which: Annotated[Demo, typer.Argument(help="Which model.")] = Demo.VISION,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 8,
    px: Annotated[int, typer.Option(min=32, help="Side of the images (vision).")] = 224,
    length: Annotated[int, typer.Option(min=3, help="Tokens of a text (text).")] = 64,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds.")] = False,
    compiled: Annotated[bool, typer.Option(help="Time torch.compile too; compiling takes minutes.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="For every side; by default all usable cores.")
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the figures here, as JSON.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when a goal is missed.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time a training step on OpenVINO and in PyTorch, in turn, in one run, and check the goals."""
    from .. import bench as benchmark

    size = {"px": px} if which is Demo.VISION else {"length": length}
    with _stages() as progress:
        found = benchmark.run(
            which, {"batch_size": batch, **size}, quick=quick, compiled=compiled, threads=threads,
            command=command_line(), progress=progress,
        )  # fmt: skip
    if out_file is not None:
        found.save(out_file)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(benchmark.COLUMNS, benchmark.table(found), title=found.title)
        print()
        print_table(("Goal", ">Measured", ">Wanted", ""), benchmark.goal_table(found))
        out().print(f"\n{found.context}")
    if check and not all(g.met for g in found.goals):
        raise typer.Exit(FAILED)


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
