"""Time and memory of a training step, each measured in a fresh process of its own.

A contender is a command line. Its process imports what it needs, loads the model, takes a few steps,
and then waits to be asked for blocks of steps. The parent asks all contenders in turn, so that whatever
else the machine does hits them alike, and no two of them ever compute at once.

Memory is what the operating system says (resident set size, Linux only), at four moments:

    imported -> loaded -> highest while training; and highest of all, loading included.

Imports no torch: it measures OpenVINO artefacts on a device. `python -m pockgraph.measure out/ --batch
batch.npz` prints one artefact's figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from .errors import PockError
from .runtime.process_memory import Memory, peak_resident_bytes, reset_peak, resident_bytes

LEARNING_RATE = 1e-4  # of measured steps: the work is the same at any rate, and this one cannot diverge
_ANSWER = "pockgraph.measure:"
Step = Callable[[], object]


class MeasureError(PockError):
    """A step could not be measured; the message is the process's own last words."""


@dataclass(frozen=True)
class StepTime:
    """Wall-clock time of a training step: median and quartiles over `steps` steps."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    steps: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> StepTime:
        if len(times_ms) < 2:
            return cls(times_ms[0], times_ms[0], times_ms[0], len(times_ms))
        q1, median, q3 = statistics.quantiles(times_ms, n=4, method="inclusive")
        return cls(median, q1, q3, len(times_ms))


@dataclass(frozen=True)
class StepFigures:
    """What one contender needed.

    Attributes:
        time: of a step.
        memory: None where the system does not say (anything but Linux).
        load_ms: from the imported libraries to a loaded model.
        first_step_ms: of the first step, which compiles or allocates lazily.
    """

    time: StepTime
    memory: Memory | None
    load_ms: float
    first_step_ms: float


# ---------------------------------------------------------------- the parent's side


def measure_step(
    artifact: str | os.PathLike[str],
    batch: Mapping[str, Any],
    *,
    steps: int = 20,
    warmup: int = 3,
    threads: int | None = None,
) -> StepFigures:
    """Time and memory of one artefact's training step.

    Args:
        batch: name -> array, as the artefact's manifest describes.
        steps: measured ones, after `warmup` others.
        threads: None leaves the number to the runtime.

    Raises:
        MeasureError: the artefact cannot be loaded, or a step fails.
    """
    with batch_file(batch) as path:
        command = artifact_command(artifact, path, threads)
        figures = measure_interleaved({"step": command}, blocks=1, steps=steps, warmup=warmup)["step"]
    if isinstance(figures, MeasureError):
        raise figures
    return figures


def artifact_command(
    artifact: str | os.PathLike[str], batch: Path, threads: int | None = None
) -> tuple[str, ...]:
    """The command line that makes an artefact a contender."""
    command = (sys.executable, "-m", "pockgraph.measure", str(artifact), "--batch", str(batch), "--wait")
    return command if threads is None else (*command, "--threads", str(threads))


@contextmanager
def batch_file(batch: Mapping[str, Any]) -> Iterator[Path]:
    """One batch as an npz file, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="pockui-batch-") as folder:
        path = Path(folder) / "batch.npz"
        arrays: dict[str, Any] = {name: np.asarray(array) for name, array in batch.items()}
        np.savez(path, **arrays)
        yield path


def measure_interleaved(
    commands: Mapping[str, Sequence[str]],
    *,
    blocks: int = 6,
    steps: int = 5,
    warmup: int = 3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, StepFigures | MeasureError]:
    """Measure contenders against each other in one run.

    Each of `blocks` rounds asks every contender, in an order drawn anew, for one unmeasured step and
    `steps` measured ones. A contender that fails has its error as its result.

    Args:
        commands: name -> command line of a process that ends in `serve_steps`.
        warmup: steps before the first round; memory counts them too.
        progress: called with (done, total, what is being done).
    """
    total, done = len(commands) * (1 + blocks), 0

    def report(label: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, label)
        done += 1

    results: dict[str, StepFigures | MeasureError] = {}
    times: dict[str, list[float]] = {name: [] for name in commands}
    draw = random.Random(seed)
    with ExitStack() as stack:
        running: dict[str, _Contender] = {}
        for name, command in commands.items():
            report(f"loading {name}")
            try:
                running[name] = stack.enter_context(_Contender(command, warmup))
            except MeasureError as e:
                results[name] = e
        for _ in range(blocks):
            for name in draw.sample(list(commands), len(commands)):
                report(f"timing {name}")
                if name not in running:
                    continue
                try:
                    times[name] += running[name].run(steps + 1)[1:]
                except MeasureError as e:
                    results[name] = e
                    del running[name]
        for name, contender in running.items():
            results[name] = contender.figures(times[name])
    if progress is not None:
        progress(total, total, "measured")
    return {name: results[name] for name in commands}


class _Contender:
    """A process that takes steps when asked."""

    def __init__(self, command: Sequence[str], warmup: int) -> None:
        # A file and not a pipe: nobody empties a pipe while the process computes.
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True
        )
        try:
            self._start = self._read()
            self._memory = self._start["memory"]
            if warmup:
                self.run(warmup)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, steps: int) -> list[float]:
        """Take steps; returns the wall-clock time of each, in ms."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; reading tells why
        reply = self._read()
        self._memory = reply["memory"]
        return reply["times_ms"]

    def figures(self, times_ms: Sequence[float]) -> StepFigures:
        memory = None if self._memory is None else Memory(**self._memory)
        return StepFigures(
            StepTime.of(times_ms), memory, self._start["load_ms"], self._start["first_step_ms"]
        )

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # lines without the mark are what the process printed before
            if line.startswith(_ANSWER):
                return json.loads(line.removeprefix(_ANSWER))
        self._process.wait()
        self._stderr.seek(0)
        lines = [x for x in self._stderr if x.strip()]
        raise MeasureError(lines[-1].strip() if lines else f"exit status {self._process.returncode}")

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()


# ---------------------------------------------------------------- the contender's side


def serve_steps(load: Callable[[], Step], imported_bytes: Callable[[int], int] | None = None) -> None:
    """Load, then take as many steps as each line of standard input says, until it ends.

    Args:
        load: makes the step; called when everything that is no model is imported.
        imported_bytes: from the loaded process's memory to what it would be without the model, for
            contenders that cannot import first and load later.
    """
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    imported = resident_bytes()
    start = time.perf_counter()
    step = load()
    load_ms = (time.perf_counter() - start) * 1e3
    loaded, whole_peak = resident_bytes(), peak_resident_bytes()
    if loaded is not None and imported_bytes is not None:
        imported = imported_bytes(loaded)
    can_measure = loaded is not None and reset_peak()

    def memory() -> dict[str, int | None] | None:
        peak = peak_resident_bytes()
        if not can_measure or peak is None:
            return None
        return {
            "imported_bytes": imported, "loaded_bytes": loaded, "peak_bytes": peak,
            "whole_peak_bytes": max(whole_peak or 0, peak),
        }  # fmt: skip

    first_step_ms = _timed(step)
    _answer(answers, load_ms=load_ms, first_step_ms=first_step_ms, memory=memory())
    for line in sys.stdin:
        times_ms = [_timed(step) for _ in range(int(line))]
        _answer(answers, times_ms=times_ms, memory=memory())


def _timed(step: Step) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def _answer(stream: Any, **content: Any) -> None:
    stream.write(f"{_ANSWER}{json.dumps(content)}\n")
    stream.flush()


# ---------------------------------------------------------------- artefacts as contenders


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one artefact; with `--wait`, be a contender for `measure_interleaved`."""
    p = argparse.ArgumentParser(
        prog="python -m pockgraph.measure", description="Time and memory of an artefact's training step."
    )
    p.add_argument("artifact", type=Path)
    p.add_argument("--batch", type=Path, required=True, help="npz with one batch")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--threads", type=int)
    p.add_argument("--wait", action="store_true", help="take steps when told to on standard input")
    p.add_argument("--forward", action="store_true", help="with --wait: evaluate instead of training")
    options = p.parse_args(argv)
    try:
        with np.load(options.batch, allow_pickle=False) as file:
            batch = dict(file)
        if options.wait:
            return _serve_artifact(options.artifact, batch, options.threads, options.forward)
        figures = measure_step(options.artifact, batch, steps=options.steps, threads=options.threads)
    except (PockError, OSError, ValueError) as e:
        print(f"error: {e}".replace("\n", " "), file=sys.stderr)
        return 2
    print(json.dumps(figures_to_json(figures)))
    return 0


def _serve_artifact(artifact: Path, batch: dict[str, np.ndarray], threads: int | None, forward: bool) -> int:
    from .runtime import Trainer
    from .runtime.manifest import read_manifest
    from .runtime.runner import import_runtime

    # The target's libraries belong to what is imported, not to what is loaded.
    import_runtime(artifact, read_manifest(artifact).target)

    def load() -> Step:
        trainer = Trainer.load(artifact, threads=threads)
        if forward:
            return lambda: trainer.evaluate([batch])
        return lambda: trainer.step(batch, LEARNING_RATE)

    serve_steps(load)
    return 0


def figures_to_json(figures: StepFigures) -> dict[str, float | int | None]:
    """Flat, keys with unit suffixes."""
    memory = figures.memory
    return {
        "step_ms": figures.time.median_ms,
        "step_q1_ms": figures.time.q1_ms,
        "step_q3_ms": figures.time.q3_ms,
        "steps": figures.time.steps,
        "load_ms": figures.load_ms,
        "first_step_ms": figures.first_step_ms,
        "over_loaded_bytes": memory and memory.over_loaded_bytes,
        "over_imported_bytes": memory and memory.over_imported_bytes,
        "whole_peak_bytes": memory and memory.whole_peak_bytes,
    }


if __name__ == "__main__":
    sys.exit(main())
