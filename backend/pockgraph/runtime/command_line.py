"""What the commands of the runtime share: options, and reports as a line or as JSON."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..standard_streams import drop_output
from .signals import StopRequest

MOST = 2**31 - 1  # of steps, threads, and steps between two reports
DATA_HELP = (
    "npz with one array [N, ...] per batch entry, or a folder: shards that `pockui data` wrote, or images "
    "with labels.csv and data.json"
)


def add_artifact_and_data(p: argparse.ArgumentParser) -> None:
    """What is run, and on what."""
    p.add_argument("artifact", type=Path, help="the folder that pockgraph.compile wrote")
    p.add_argument("--data", type=Path, required=True, help=DATA_HELP)


def add_checkpoint(p: argparse.ArgumentParser) -> None:
    """The weights, of commands that train none."""
    p.add_argument("--checkpoint", type=Path, help="weights that were trained; else the artefact's own")


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


def peak_memory(report: dict[str, Any]) -> list[str]:
    """What a line says of a report's `peak_rss_bytes`; nothing where the system does not tell it."""
    peak_bytes = report.get("peak_rss_bytes")
    return [f"peak memory of the process {peak_bytes / 1e6:.0f} MB"] if peak_bytes else []


def print_report(
    report: dict[str, Any], line: Callable[[dict[str, Any]], str], as_json: bool, stop: StopRequest
) -> None:
    """Print a report as JSON, or as `line` says it."""
    try:
        print(json.dumps(report) if as_json else line(report), flush=True)
    except BrokenPipeError:  # as in `… | head -1`: end as after a signal, with what was learnt saved
        drop_output()
        stop.signal = signal.SIGPIPE
