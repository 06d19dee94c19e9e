"""The parent's side: contenders asked in turn for blocks of steps, and the reference kernel in between."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ..files import ScratchFolder
from ..runtime.process_memory import Memory
from .contender import ANSWER
from .figures import MeasureError, StepFigures, StepTime
from .reference import Reference, ReferenceClock

LEAST_STEPS, MOST_STEPS = 3, 20  # of a block whose length is a time


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
    with ScratchFolder("batch") as folder:
        path = folder / "batch.npz"
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
    `steps` measured ones. The reference kernel is timed before each block and at the end. A contender that
    fails has its error as its result.

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
    taken: dict[str, list[TakenStep]] = {name: [] for name in commands}
    draw, clock = random.Random(seed), ReferenceClock()
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
                clock.tick()
                try:
                    taken[name] += running[name].run(steps + 1)[1:]
                except MeasureError as e:
                    results[name] = e
                    del running[name]
        clock.tick()
        for name, contender in running.items():
            results[name] = contender.figures(taken[name], clock.reading())
    if progress is not None:
        progress(total, total, "measured")
    return {name: results[name] for name in commands}


def measure_alone(command: Sequence[str], block_s: float) -> StepFigures | MeasureError:
    """Measure one contender with no other process alive.

    Args:
        block_s: about how long its steps take, within `LEAST_STEPS` and `MOST_STEPS`.
    """
    clock = ReferenceClock()
    clock.tick()
    try:
        with _Contender(command, warmup=0) as contender:
            wall_ms = contender.run(2)[-1].wall_ms
            clock.tick()
            steps = min(max(round(block_s * 1e3 / wall_ms), LEAST_STEPS), MOST_STEPS)
            taken = contender.run(steps)
            clock.tick()
            return contender.figures(taken, clock.reading())
    except MeasureError as e:
        return e


class TakenStep(NamedTuple):
    """Wall-clock time of one step, and what it would be without waiting for a processor."""

    wall_ms: float
    net_ms: float | None


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

    def run(self, steps: int) -> list[TakenStep]:
        """Take steps."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; reading tells why
        reply = self._read()
        self._memory = reply["memory"]
        return [TakenStep(*both) for both in zip(reply["times_ms"], reply["net_ms"], strict=True)]

    def figures(self, taken: Sequence[TakenStep], reference: Reference) -> StepFigures:
        net_ms = [t.net_ms for t in taken if t.net_ms is not None]
        return StepFigures(
            time=StepTime.of([t.wall_ms for t in taken]),
            memory=None if self._memory is None else Memory(**self._memory),
            load_ms=self._start["load_ms"],
            first_step_ms=self._start["first_step_ms"],
            net_time=StepTime.of(net_ms) if len(net_ms) == len(taken) else None,
            reference=reference,
        )

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # lines without the mark are what the process printed before
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        self._process.wait()
        self._stderr.seek(0)
        lines = [x for x in self._stderr if x.strip()]
        raise MeasureError(lines[-1].strip() if lines else f"exit status {self._process.returncode}")

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()
