"""`python -m pockgraph.runtime evaluate out/ --data data.npz`: the metric of an artefact or a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from .command_line import (
    add_artifact_and_data,
    add_checkpoint,
    add_common_options,
    peak_memory,
    print_report,
)
from .data.opening import training_data
from .data.source import Arrays, Data
from .process_memory import peak_resident_bytes
from .signals import StopRequest
from .trainer import Trainer

NAME = "evaluate"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog=f"python -m pockgraph.runtime {NAME}",
        usage="%(prog)s ARTIFACT --data DATA [options], see --help",
        description="Evaluate a compiled artefact, and train nothing.",
    )
    add_artifact_and_data(p)
    add_checkpoint(p)
    add_common_options(p)
    return p


def run(options: argparse.Namespace, stop: StopRequest) -> None:
    """Evaluate all samples.

    Raises:
        PockError: the artefact, the checkpoint or the data is none.
    """
    with Trainer.load(
        options.artifact, options.device, options.threads, allow_native_code=options.allow_native_code
    ) as trainer:
        if options.checkpoint:
            trainer.load_checkpoint(options.checkpoint)
        evaluation = trainer.evaluate(_until(stop, training_data(options.data, trainer.manifest)))
        if stop.requested:
            return
        report: dict[str, Any] = {
            "event": "done",
            "step": trainer.steps,
            "metric": evaluation.metric,
            "samples": evaluation.samples,
            "peak_rss_bytes": peak_resident_bytes(),
        }
        print_report(report, _line, options.json, stop)


def _until(stop: StopRequest, data: Data) -> Iterator[Arrays]:
    for batch in data.batches():
        yield batch
        if stop.requested:
            return


def _line(report: dict[str, Any]) -> str:
    metric = f"metric {report['metric']:.4f} on {report['samples']} samples"
    return "done: " + ", ".join([metric, f"after {report['step']} steps", *peak_memory(report)])
