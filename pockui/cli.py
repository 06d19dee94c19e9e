"""`pockui`: the command line.

Exit status: 0 done; 1 the work failed (training diverged, a goal was missed); 2 bad input, told in one
paragraph on standard error; 70 a bug of pockui; 130 stopped by Ctrl-C; 141 nobody
reads the output any more.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pockgraph import __version__
from pockgraph.errors import NonFiniteLoss
from pockgraph.files import require_working_folder
from pockgraph.standard_streams import UNREAD, drop_output, settle_streams

from .commands import (
    analysis,
    checking,
    comparison,
    compiling,
    data,
    device,
    devices,
    doctor,
    exporting,
    operators,
    search,
    studies,
    verifying,
)
from .commands.output import FAILED, INTERRUPTED, fail, say
from .foreign_exceptions import explain

# Nothing here may report its use to anybody, and no library may look for models elsewhere.
QUIET = {
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


class _Group(TyperGroup):
    """Turns the project's errors into one paragraph and an exit status."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _told(debug=False):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _told(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


@contextmanager
def _told(debug: bool) -> Iterator[None]:
    try:
        with _written():
            yield
    except (BrokenPipeError, SystemExit) as e:  # as in `… | head -1`, which rich makes an exit of its own
        if not isinstance(e, BrokenPipeError) and not isinstance(e.__context__, BrokenPipeError):
            raise
        drop_output()
        raise typer.Exit(UNREAD) from None
    except typer.Abort:
        raise
    except KeyboardInterrupt:
        say("Stopped.")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as e:
        if hasattr(e, "exit_code"):  # typer's own
            _in_our_words(e)
            raise
        if debug:
            traceback.print_exc()
        fail(str(e), FAILED) if isinstance(e, NonFiniteLoss) else fail(*explain(e))


@contextmanager
def _written() -> Iterator[None]:
    """Has what was printed written at the end, also of typer's exceptions: a full disk can still be told."""
    try:
        yield
    except Exception as e:
        if hasattr(e, "exit_code"):
            sys.stdout.flush()
        raise
    sys.stdout.flush()


def _in_our_words(error: Any) -> None:
    """Option values are checked by pydantic, whose wording is for programmers."""
    if "Input should be" in (said := getattr(error, "message", "")):
        error.message = said.partition(", unable to")[0].replace("Input should be", "it must be")


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Choose what a trained network keeps learning, compile that training step, run it on the device.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"pockui {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, too.")] = False,
) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    require_working_folder()


app.command("demo")(comparison.demo)
app.command("serve")(studies.serve)
app.command("analyze")(analysis.analyze)
app.command("search")(search.search)
app.command("verify")(verifying.verify)
app.command("data")(data.data)
app.command("check")(checking.check)
app.command("compile")(compiling.compile_)
app.command("train")(device.train)
app.command("show")(device.show)
app.command("bench")(comparison.bench)
app.command("report")(comparison.report_)
app.add_typer(exporting.app, name="export")
app.add_typer(studies.app, name="study")
app.add_typer(devices.app, name="device")
app.command("operators")(operators.operators)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """The command line, in this process."""
    settle_streams("replace")
    try:
        app()
    except KeyboardInterrupt:  # before or after a command
        say("Stopped.")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
