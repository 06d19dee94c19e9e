"""kill -9 at random moments: nothing finished is lost, nothing half remains, resumed runs end as others.

Each operation runs in a process of its own, is killed at a moment drawn uniformly between its start of work
and its end, and is started again until it has been killed as often as asked; then it runs to its end.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from subjects import TARGETS, checkpoint_digest, compile_artifact, litter, write_data

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.runtime import Trainer

HERE = Path(__file__).parent
STEPS = 60
READY = "ready"
# Kills land within the unbroken run's time or shortly after it, when the process is ending.
OVERRUN_RATIO = 1.05


@dataclass
class Outcome:
    """What one operation's kills showed."""

    operation: str
    kills: int = 0
    faults: list[str] = field(default_factory=list)
    resumed_equal: bool = True


def run(seed: int, kills: int, work: Path) -> list[Outcome]:
    """Every operation, `kills` moments in all."""
    operations: list[tuple[str, Callable[[random.Random, int, Path], Outcome], float]] = [
        *((f"train with checkpoints, {t}", _training(t), 0.15) for t in TARGETS),
        ("analyse", _analysis, 0.25),
        *((f"compile over an artefact, {t}", _compiling(t), 0.05) for t in TARGETS),
        ("save plans", _plans, 0.075),
        ("save plans and runs in a study", _study_writes, 0.075),
    ]
    outcomes = []
    for index, (name, operation, share) in enumerate(operations):
        folder = work / f"kills-{index}"
        folder.mkdir(parents=True)
        outcome = operation(random.Random(f"{seed} {name}"), max(1, round(kills * share)), folder)
        outcome.operation = name
        print(f"{name}: {outcome.kills} kills, {len(outcome.faults)} faults", flush=True)
        outcomes.append(outcome)
        shutil.rmtree(folder)
    return outcomes


# ---------------------------------------------------------------- processes


def _start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def _await_ready(process: subprocess.Popen[str]) -> list[str]:
    """Read up to the line that says work begins; an error message if it never does."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if READY in line or line.startswith('{"event": "step"'):
            return said
    return said


def _drain(process: subprocess.Popen[str]) -> tuple[list[str], threading.Thread]:
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    return lines, reader


def _to_the_end(command: list[str]) -> tuple[float, str]:
    """Seconds of work, and what an unsuccessful process said."""
    process = _start(*command)
    said = _await_ready(process)
    start = time.perf_counter()
    lines, reader = _drain(process)
    code = process.wait(600)
    reader.join(5)
    return time.perf_counter() - start, "" if code == 0 else f"exit {code}: {''.join([*said, *lines])[-600:]}"


def _killed(command: list[str], delay_s: float) -> str:
    """Start, let it work for `delay_s`, kill; what it said if it failed by itself."""
    process = _start(*command)
    said = _await_ready(process)
    lines, reader = _drain(process)
    try:
        code = process.wait(delay_s)
    except subprocess.TimeoutExpired:
        code = None
    if code is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(5)
    return "" if not code else f"exit {code}: {''.join([*said, *lines])[-600:]}"


def _moments(draw: random.Random, count: int, duration_s: float) -> Iterator[float]:
    for _ in range(count):
        yield draw.uniform(0, duration_s * OVERRUN_RATIO)


# ---------------------------------------------------------------- operations


def _training(target: str) -> Callable[[random.Random, int, Path], Outcome]:
    def operation(draw: random.Random, kills: int, folder: Path) -> Outcome:
        outcome = Outcome("")
        artifact, data = folder / "artefact", write_data(folder / "data.npz")
        compile_artifact(target, artifact)
        reference = folder / "reference"
        command = [str(HERE / "children.py"), "train", str(artifact), str(data), str(STEPS)]
        duration_s, error = _to_the_end([*command, str(reference / "at")])
        if error:
            outcome.faults.append(f"the unbroken run failed: {error}")
            return outcome
        digests = {p.name: checkpoint_digest(p) for p in reference.iterdir()}
        work = folder / "work"
        rounds = max(1, kills // 8)  # a run is killed about eight times before it may end
        for _ in range(rounds):
            work.mkdir()
            for moment in _moments(draw, kills // rounds, duration_s):
                error = _killed([*command, str(work / "at"), "--one"], min(moment, duration_s / 3))
                outcome.kills += 1
                if error:
                    outcome.faults.append(error)
                outcome.faults += _checkpoint_faults(work / "at", artifact, digests)
            _, error = _to_the_end([*command, str(work / "at"), "--one"])
            if error:
                outcome.faults.append(f"resumed: {error}")
            elif checkpoint_digest(work / "at") != digests[f"at-{STEPS}"]:
                outcome.resumed_equal = False
                outcome.faults.append("the resumed run's last checkpoint is not the unbroken run's")
            if left := litter(work, {"at"}):
                outcome.faults.append(f"left behind after the next start: {left}")
            shutil.rmtree(work)
        return outcome

    return operation


def _checkpoint_faults(path: Path, artifact: Path, digests: dict[str, str]) -> list[str]:
    """A checkpoint that is there is whole, and one of the unbroken run's."""
    if not path.exists():
        return []
    try:
        trainer = Trainer.load(artifact)
        trainer.load_checkpoint(path)
        wanted = digests[f"at-{trainer.steps}"]
        return (
            []
            if checkpoint_digest(path) == wanted
            else [f"step {trainer.steps} differs from the unbroken run"]
        )
    except PockError as e:
        return [f"after a kill the checkpoint does not load: {e}"]


def _analysis(draw: random.Random, kills: int, folder: Path) -> Outcome:
    outcome = Outcome("")
    command = [str(HERE / "children.py"), "analyse"]
    reference = folder / "reference.db"
    duration_s, error = _to_the_end([*command, str(reference)])
    if error:
        outcome.faults.append(f"the unbroken run failed: {error}")
        return outcome
    expected = _measured(reference)
    while outcome.kills < kills:
        study = folder / "study.db"
        finished: dict[str, str] = {}
        for moment in _moments(draw, min(5, kills - outcome.kills), duration_s / 2):
            error = _killed([*command, str(study)], moment)
            outcome.kills += 1
            if error:
                outcome.faults.append(error)
            if study.exists():
                present = _measured(study)
                lost = finished.keys() - present.keys()
                if lost:
                    outcome.faults.append(f"{len(lost)} finished measurements were lost")
                wrong = [k for k, v in present.items() if expected.get(k) != v]
                if wrong:
                    outcome.faults.append(
                        f"{len(wrong)} measurements differ from the unbroken run: {wrong[:2]}"
                    )
                finished = present
        _, error = _to_the_end([*command, str(study)])
        if error:
            outcome.faults.append(f"resumed: {error}")
        elif _measured(study) != expected:
            outcome.resumed_equal = False
            outcome.faults.append("the resumed analysis is not the unbroken one")
        left = litter(folder, {"reference.db", "study.db"})
        if left:
            outcome.faults.append(f"left behind: {left}")
        for path in folder.glob("study.db*"):
            path.unlink()
    return outcome


def _measured(path: Path) -> dict[str, str]:
    """What was measured -> its result, of the measurements that are finished."""
    with pg.Study(path) as study:
        return {
            f"{m.purpose} {m.candidate} seed {m.seed} lr {m.lr}": f"{m.status} {m.metric!r} {m.loss!r}"
            for m in study.measurements()
            if m.status != "planned"
        }


def _compiling(target: str) -> Callable[[random.Random, int, Path], Outcome]:
    def operation(draw: random.Random, kills: int, folder: Path) -> Outcome:
        outcome = Outcome("")
        out = folder / "artefact"
        command = [str(HERE / "children.py"), "compile", target, str(out)]
        compile_artifact(target, out)
        duration_s, error = _to_the_end(command)
        if error:
            outcome.faults.append(f"the unbroken run failed: {error}")
            return outcome
        for moment in _moments(draw, kills, duration_s):
            error = _killed(command, moment)
            outcome.kills += 1
            if error:
                outcome.faults.append(error)
            try:
                Trainer.load(out)
            except PockError as e:
                outcome.faults.append(f"after a kill the artefact does not load: {e}")
        _, error = _to_the_end(command)
        if error:
            outcome.faults.append(f"compiled again: {error}")
        if left := litter(folder, {"artefact"}):
            outcome.faults.append(f"left behind after the next compilation: {left}")
        return outcome

    return operation


def _plans(draw: random.Random, kills: int, folder: Path) -> Outcome:
    outcome = Outcome("")
    path = folder / "plan.json"
    command = [str(HERE / "children.py"), "plans", str(path)]
    duration_s, error = _to_the_end(command)
    if error:
        outcome.faults.append(f"the unbroken run failed: {error}")
        return outcome
    for moment in _moments(draw, kills, duration_s):
        error = _killed(command, moment)
        outcome.kills += 1
        if error:
            outcome.faults.append(error)
        try:
            pg.Plan.load(path)
        except PockError as e:
            outcome.faults.append(f"after a kill the plan does not load: {e}")
    _, error = _to_the_end(command)
    if error:
        outcome.faults.append(error)
    if left := litter(folder, {"plan.json"}):
        outcome.faults.append(f"left behind after the next save: {left}")
    return outcome


def _study_writes(draw: random.Random, kills: int, folder: Path) -> Outcome:
    """Plans and runs are added one after the other: what is there after a kill is a whole prefix."""
    outcome = Outcome("")
    study = folder / "study.db"
    command = [str(HERE / "children.py"), "study", str(study)]
    duration_s, error = _to_the_end(command)
    if error:
        outcome.faults.append(f"the unbroken run failed: {error}")
        return outcome
    before = 0
    for moment in _moments(draw, kills, duration_s):
        error = _killed(command, moment)
        outcome.kills += 1
        if error:
            outcome.faults.append(error)
        try:
            with pg.Study(study) as s:
                runs = list(s.runs())
        except PockError as e:
            outcome.faults.append(f"after a kill the study does not open: {e}")
            continue
        if len(runs) < before:
            outcome.faults.append(f"{before - len(runs)} recorded runs were lost")
        broken = [r.name for r in runs if len(r.losses) != r.steps]
        if broken:
            outcome.faults.append(f"half a run was recorded: {broken}")
        before = len(runs)
    if left := litter(folder, {"study.db"}):
        # SQLite's own journal may lie beside a database that was killed; the next writer takes it in.
        _, error = _to_the_end(command)
        if error:
            outcome.faults.append(error)
        if left := litter(folder, {"study.db"}):
            outcome.faults.append(f"left behind after the next start: {left}")
    return outcome
