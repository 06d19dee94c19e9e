"""What the commands of the runtime share: options, and reports as a line or as JSON."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable
from typing import Any

from ..standard_streams import drop_output
from .signals import StopRequest

MOST = 2**31 - 1  # of steps, threads, and steps between two reports
DATA_HELP = (
    "npz with one array [N, ...] per batch entry, or a folder: shards that `pockui data` wrote, or images "
    "with labels.csv and data.json"
)


def add_common_options(p: argparse.ArgumentParser) -> None:
    """Where it runs, and how it reports."""
    p.add_argument("--device", default="CPU", help="device name of the artefact's target (default: CPU)")
    p.add_argument("--threads", type=count, help="CPU threads; by default all cores")
    p.add_argument(
        "--allow-native-code", action="store_true", help="run an artefact's machine code: trust its author"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object a line")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")


def count(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and 0 < (value := int(text[:20])) <= MOST):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 1 to {MOST}")
    return value


def print_report(
    report: dict[str, Any], line: Callable[[dict[str, Any]], str], as_json: bool, stop: StopRequest
) -> None:
    """Print a report as JSON, or as `line` says it."""
    try:
        print(json.dumps(report) if as_json else line(report), flush=True)
    except BrokenPipeError:  # as in `… | head -1`: end as after a signal, with what was learnt saved
        drop_output()
        stop.signal = signal.SIGPIPE
