"""`python -m pockgraph.runtime predict out/ --data data.npz`: what an artefact, or a checkpoint, answers."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, BatchError, reason
from ..files import begins_with, replacing, require_kind, resolved, sweep
from .command_line import (
    add_artifact_and_data,
    add_checkpoint,
    add_common_options,
    peak_memory,
    print_report,
)
from .data.opening import open_data
from .data.source import Wanted
from .predictor import Predictor
from .process_memory import peak_resident_bytes
from .signals import StopRequest

NAME = "predict"
_ONE = "prediction"  # what the file calls an array without a name


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog=f"python -m pockgraph.runtime {NAME}",
        usage="%(prog)s ARTIFACT --data DATA [options], see --help",
        description="Predict with a compiled artefact, without its training step.",
    )
    add_artifact_and_data(p)
    add_checkpoint(p)
    p.add_argument(
        "--out", type=Path, help=f"npz to write, an array [N, ...] per output; one without name: {_ONE!r}"
    )
    p.add_argument(
        "--constant-weights", action="store_true", help="compile the weights in: faster, on OpenVINO and ONNX"
    )
    add_common_options(p)
    return p


def run(options: argparse.Namespace, stop: StopRequest) -> None:
    """Predict all samples of a file or a folder.

    Raises:
        PockError: the artefact, the checkpoint or the data is none, or the answers cannot be written.
    """
    if options.out:
        sweep(options.out.parent)
        if resolved(options.out) == resolved(options.data):
            raise BatchError(f"{options.out} is the data itself. Name another file for --out.")
        require_kind(resolved(options.out), "npz file", begins_with(b"PK"), ArtifactError)
    with Predictor.load(
        options.artifact,
        options.checkpoint,
        options.device,
        options.threads,
        allow_native_code=options.allow_native_code,
        constant_weights=options.constant_weights,
    ) as predictor:
        sizes = predictor.manifest.predict
        data = open_data(options.data, Wanted.for_prediction(predictor.manifest))
        parts: list[dict[str, np.ndarray]] = []
        times: list[float] = []
        for batch in data.batches():
            start = time.perf_counter()
            found = predictor.predict(batch)
            times.append((time.perf_counter() - start) * 1e3)
            parts.append(found if isinstance(found, dict) else {_ONE: found})
            if stop.requested:
                return
        whole = sizes[-1].samples is None
        answers = parts[0] if whole else {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
        report: dict[str, Any] = {
            "event": "done",
            "outputs": {n: {"dtype": str(a.dtype), "shape": list(a.shape)} for n, a in answers.items()},
            "batch_ms": statistics.median(times),
            "batch_samples": sizes[-1].samples,
        }
        if options.out:
            report["written"] = str(_written(resolved(options.out), answers))
        report["peak_rss_bytes"] = peak_resident_bytes()
        print_report(report, _line, options.json, stop)


def _written(path: Path, answers: dict[str, np.ndarray]) -> Path:
    """Write an npz file, whole or not at all."""
    if "file" in answers:
        raise BatchError("An output is called 'file', which numpy.savez cannot write. Give it another name.")
    try:
        with replacing(path) as new, new.open("wb") as f:
            np.savez(f, **answers)  # pyright: ignore[reportArgumentType]
    except OSError as e:
        raise ArtifactError(
            f"Cannot write {path}: {reason(e)}. Choose another place, or make room."
        ) from None
    return path


def _line(report: dict[str, Any]) -> str:
    outputs = [f"{n} {o['dtype']} {o['shape']}" for n, o in report["outputs"].items()]
    parts = [", ".join(outputs)]
    samples = report["batch_samples"]
    parts.append(f"{report['batch_ms']:.1f} ms a batch" + (f" of {samples}" if samples else ""))
    parts += peak_memory(report)
    if "written" in report:
        parts.append(f"written to {report['written']}")
    return "done: " + ", ".join(parts)
