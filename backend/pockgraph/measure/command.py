"""`python -m pockgraph.measure`: measure an artefact on the machine that it is to train on.

With `--wait` it is a contender for `measure_interleaved`. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import PockError
from ..files import require_working_folder
from .contender import LEARNING_RATE, Step, serve_steps
from .device_profile import DeviceProfile
from .figures import figures_to_json
from .interleaved import measure_step
from .kit import ROUNDS, Measuring, measure_kit


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one artefact or a kit; with `--wait`, be a contender. Exit status: 0 done, 1 the machine is in
    another state (`--state`), 2 bad input, 130 stopped by Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        require_working_folder()
        if options.profile is not None:
            return _measure_kit(options)
        if options.state is not None:
            return _tell_state(options.state)
        if options.artifact is None or options.batch is None:
            parser.error("say what to measure: an artefact and --batch, or --profile KIT -o device.json")
        return _measure_artifact(options)
    except (PockError, OSError, ValueError) as e:
        print(f"error: {e}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from what was measured.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pockgraph.measure", description="Time and memory of an artefact's training step."
    )
    p.add_argument("artifact", type=Path, nargs="?")
    p.add_argument("--batch", type=Path, help="npz with one batch")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--threads", type=int, help="by default as many as the runtime takes")
    p.add_argument("--wait", action="store_true", help="take steps when told to on standard input")
    p.add_argument("--forward", action="store_true", help="with --wait: evaluate instead of training")
    kit = p.add_argument_group("profile of this device")
    kit.add_argument("--profile", type=Path, metavar="KIT", help="measure what `pockui device kit` made")
    kit.add_argument("-o", "--out", type=Path, default=Path("device.json"), help="what was measured of it")
    kit.add_argument("--name", help="what this device shall be called")
    kit.add_argument("--rounds", type=int, default=ROUNDS, help="how often each plan is measured")
    kit.add_argument("--state", type=Path, metavar="FILE", help="is it as it was when FILE was measured?")
    return p


def _measure_artifact(options: argparse.Namespace) -> int:
    with np.load(options.batch, allow_pickle=False) as file:
        batch = dict(file)
    if options.wait:
        return _serve_artifact(options.artifact, batch, options.threads, options.forward)
    figures = measure_step(options.artifact, batch, steps=options.steps, threads=options.threads)
    print(json.dumps(figures_to_json(figures)))
    return 0


def _measure_kit(options: argparse.Namespace) -> int:
    for name in ("threads", "rounds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise PockError(f"--{name} is a whole number above 0; got {getattr(options, name)}.")
    how = Measuring(options.name or socket.gethostname(), options.threads, options.rounds)
    profile = measure_kit(options.profile, options.out, how, _tell_progress)
    for n, why in profile.failures.items():
        print(f"Plan {n + 1} could not be measured: {why}", file=sys.stderr)
    if changed := profile.change_while_measured():
        print(f"The device changed while it was measured: {changed}.", file=sys.stderr)
    report = {
        "profile": str(options.out), "device": profile.name, "plans": len(profile.plans()),
        "failures": len(profile.failures), "spread_ratio": profile.spread(), "changed": changed,
    }  # fmt: skip
    print(json.dumps(report))
    return 0 if profile.blocks else 2


def _tell_progress(done: int, total: int, label: str) -> None:
    print(f"{done} of {total}: {label}", file=sys.stderr, flush=True)


def _tell_state(path: Path) -> int:
    profile = DeviceProfile.load(path)
    changed = profile.change_since()
    print(json.dumps({"profile": str(path), "device": profile.name, "changed": changed}))
    return 1 if changed else 0


def _serve_artifact(artifact: Path, batch: dict[str, np.ndarray], threads: int | None, forward: bool) -> int:
    from ..runtime import Trainer
    from ..runtime.artifact_files import read_manifest
    from ..runtime.runner import import_runtime

    # The target's libraries belong to what is imported, not to what is loaded.
    import_runtime(artifact, read_manifest(artifact).target)

    def load() -> Step:
        trainer = Trainer.load(artifact, threads=threads)
        if forward:
            return lambda: trainer.evaluate([batch])
        return lambda: trainer.step(batch, LEARNING_RATE)

    serve_steps(load)
    return 0
