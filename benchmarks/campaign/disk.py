"""A disk that is full: everything that writes says so in one paragraph, and what was there stays whole.

A small tmpfs is filled but for a number of bytes, drawn between none and more than the operation needs.
Each operation has one of its own, in a process with its own mounts: no root is needed where Linux lets users
make such name spaces; elsewhere nothing is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from subjects import OPTIMIZER, ROOT, TARGETS, compile_artifact  # first: it sets the import paths

import tiny_task
from safetensors.numpy import load_file

import pockgraph as pg
from pockgraph.runtime import Trainer
from pockgraph.study import Run
from pockui.demo import report
from pockui.demo.results import Report
from pockui.foreign_exceptions import explain

DISK_BYTES = 64 << 20
BALLAST = "ballast"


@dataclass
class Outcome:
    """What one operation did on a disk that was filled again and again."""

    operation: str
    tries: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def run(seed: int, tries: int, work: Path) -> list[Outcome]:
    """Every operation; none where no small file system can be mounted."""
    if not is_possible(work):
        print("no file system can be mounted here", flush=True)
        return []
    outcomes = []
    for name in OPERATIONS:
        outcomes += try_some([name], seed, tries, work / "disk")
        print(f"{name}: {outcomes[-1].tries} tries, {len(outcomes[-1].faults)} faults", flush=True)
    return outcomes


def is_possible(folder: Path) -> bool:
    """Whether a process may mount a small file system of its own at `folder`."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return False
    return subprocess.run([*_on_small_disk(folder), "true"], capture_output=True, check=False).returncode == 0


def try_some(names: Sequence[str], seed: int, tries: int, folder: Path) -> list[Outcome]:
    """Operations, in turn, in a process of their own, which has a small file system at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*_on_small_disk(folder), sys.executable, __file__, str(folder), str(seed), str(tries), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        fault = f"ended with {done.returncode}: {done.stderr[-600:]}"
        outcomes.append(Outcome(names[len(outcomes)], faults=[fault]))
    return outcomes


def _on_small_disk(folder: Path) -> list[str]:
    mount = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]


# ---------------------------------------------------------------- operations


def _compiling(target: str) -> Callable[[Path], Callable[[], object]]:
    return lambda folder: lambda: compile_artifact(target, folder / "artefact")


def _checkpoint(folder: Path) -> Callable[[], object]:
    trainer = _trainer(folder)
    return lambda: trainer.save(folder / "checkpoint")


def _export(folder: Path) -> Callable[[], object]:
    trainer = _trainer(folder)
    return lambda: trainer.export(folder / "weights.safetensors")


def _trainer(folder: Path) -> Trainer:
    compile_artifact("onnx", folder.parent / "artefact")
    return pg.Artifact.load(folder.parent / "artefact").trainer(threads=1)


def _plan(folder: Path) -> Callable[[], object]:
    plan = tiny_task.make_plan("sparse", OPTIMIZER)
    return lambda: plan.save(folder / "plan.json")


def _study(folder: Path) -> Callable[[], object]:
    plan, task = tiny_task.make_plan(), tiny_task.make_task()

    def write() -> None:
        with pg.Study(folder / "study.db", task) as study:
            study.save_plan("plan", plan)
            study.add_run(Run(plan, name="run", steps=5000, losses=tuple(float(i) for i in range(5000))))

    return write


def _report(folder: Path) -> Callable[[], object]:
    found = Report.load(ROOT / "tests/cli/report.json")
    return lambda: report.write(found, folder)


OPERATIONS: dict[str, Callable[[Path], Callable[[], object]]] = {
    **{f"compile over an artefact, {t}": _compiling(t) for t in TARGETS},
    "save a checkpoint": _checkpoint,
    "export weights": _export,
    "save a plan": _plan,
    "save a plan and a run in a study": _study,
    "write a report": _report,
}


def attempt(name: str, folder: Path, seed: int, tries: int) -> Outcome:
    """One operation, in a folder whose file system is small and its own."""
    outcome, draw = Outcome(name), random.Random(f"{seed} {name}")
    write = OPERATIONS[name](folder)
    before = _free(folder)
    write()
    needed = before - _free(folder)
    for _ in range(tries):
        there, runs = _content(folder), _runs(folder)
        room = draw.uniform(0, 1.2) * needed
        with _filled(folder, int(room)):
            refused = ""
            try:
                write()
            except Exception as e:
                refused = explain(e)[0]
            after = _content(folder)
        outcome.tries += 1
        outcome.refused += bool(refused)
        if refused and ("room" not in refused or "\n" in refused):
            outcome.faults.append(f"with {room:.0f} bytes of room it said: {refused}")
        if refused and after != there:
            changed = sorted(n for n in {**after, **there} if after.get(n) != there.get(n))
            outcome.faults.append(f"with {room:.0f} bytes of room it left other files: {changed}")
        if after.keys() != there.keys():
            outcome.faults.append(f"with {room:.0f} bytes of room it left {sorted(after)}")
        _read(folder)
        if (kept := _runs(folder)) < runs:
            outcome.faults.append(f"{runs - kept} recorded runs were lost")
    write()  # with room again
    return outcome


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@contextmanager
def _filled(folder: Path, room: int) -> Iterator[None]:
    ballast = folder / BALLAST
    with ballast.open("wb") as f:
        os.posix_fallocate(f.fileno(), 0, max(1, _free(folder) - room))
    try:
        yield
    finally:
        ballast.unlink()


def _content(folder: Path) -> dict[str, str]:
    """Every file and folder -> a digest; a study's own files come and go with its readers."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in folder.rglob("*")
        if p.name != BALLAST and not p.name.startswith("study.db")
    }


def _read(folder: Path) -> None:
    """Open what lies there; raises what it raises for half a file."""
    for path in folder.iterdir():
        if path.name == "artefact":
            Trainer.load(path, threads=1)
        elif path.name == "plan.json":
            pg.Plan.load(path)
        elif path.name == "report.json":
            Report.load(path)
        elif path.suffix == ".safetensors" or path.name == "checkpoint":
            load_file(path)


def _runs(folder: Path) -> int:
    """How many runs the study holds, if there is one; it is read where it lies."""
    path = folder / "study.db"
    if not path.exists():
        return 0
    with pg.Study(path) as study:
        return len(list(study.runs()))


if __name__ == "__main__":
    for number, operation in enumerate(sys.argv[4:]):
        own = Path(sys.argv[1]) / str(number)
        own.mkdir()
        print(json.dumps(asdict(attempt(operation, own, int(sys.argv[2]), int(sys.argv[3])))), flush=True)
