"""Mutated files, half of them re-hashed as an attacker would: clear errors, no crash, nothing outside read.

A worker process reads the files as users' programs do; it is watched from outside (its end, its time, a
folder that nothing may open) and from inside (memory; an audit hook sees files, processes, sockets).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import queue
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_task
from mutate import changed
from subjects import TARGETS, compile_artifact

from pockgraph.runtime import Trainer

HERE = Path(__file__).parent
TIME_LIMIT_S = 60
CANARY_MASK = 0x1 | 0x20 | 0x100 | 0x200  # IN_ACCESS, IN_OPEN, IN_CREATE, IN_DELETE

# How a mutated file may come out. The last four are faults.
KINDS = (
    "clear error", "read as before", "another valid file", "error from inside", "crash", "hang", "memory",
    "reached outside",
)  # fmt: skip
FAULTS = KINDS[3:]


@dataclass
class Outcome:
    """By file: how often what came out, and an example of each fault."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[dict[str, str]] = field(default_factory=list)

    def add(self, name: str, kind: str, row: dict[str, str]) -> None:
        counts = self.counts.setdefault(name, {})
        counts[kind] = counts.get(kind, 0) + 1
        if kind in FAULTS:
            self.faults.append({"file": name, "kind": kind, **row})
            print(self.faults[-1], flush=True)


def run(seed: int, count: int, work: Path) -> Outcome:
    """`count` mutated files, spread over all kinds of files."""
    work.mkdir(parents=True)
    subjects = _subjects(work / "subjects")
    canary = work / "canary"
    canary.mkdir()
    (canary / "secret").write_bytes(b"secret")
    watch = _Watch(canary)
    worker = _Worker(work)
    outcome = Outcome()
    try:
        for number in range(count):
            draw = random.Random(f"{seed} {number}")
            subject, name = subjects[number % len(subjects)]
            trial = work / "trial"
            shutil.rmtree(trial, ignore_errors=True)
            shutil.copytree(subject, trial)
            how, data = changed(draw, name, (trial / name).read_bytes(), str(canary))
            (trial / name).write_bytes(data)
            rehashed = (trial / "manifest.json").exists() and draw.random() < 0.5
            if rehashed:
                _rehash(trial)
            kind, said = worker.read(trial)
            if watch.touched() and kind != "crash":
                kind, said = "reached outside", f"the canary was opened; {said}"
            label = f"{subject.name}: {name}{', re-hashed' if rehashed else ''}"
            outcome.add(label, kind, {"number": str(number), "change": how, "said": said[-400:]})
            if (number + 1) % 500 == 0:
                print(f"{number + 1} files, {len(outcome.faults)} faults", flush=True)
    finally:
        worker.stop()
    return outcome


def _subjects(folder: Path) -> list[tuple[Path, str]]:
    """(folder, name of the file to change) of everything that is read."""
    import children

    found = []
    for target in TARGETS:
        out = folder / target
        compile_artifact(target, out, "adamw")
        trainer = Trainer.load(out)
        trainer.step(tiny_task.batches(1)[0])
        trainer.save(folder / f"checkpoint for {target}" / "c.safetensors")
        shutil.copytree(out, folder / f"checkpoint for {target}", dirs_exist_ok=True)
        # Graphs and manifests more often than raw values, which a digest or nothing guards.
        for path in sorted(out.iterdir()):
            if not path.name.startswith((".", "last_checkpoint")):
                often = 1 if path.suffix in (".bin", ".safetensors") else 3
                found += [(out, path.name)] * often
        found += [(folder / f"checkpoint for {target}", "c.safetensors")] * 2
    plan = folder / "plan"
    plan.mkdir()
    tiny_task.make_plan().save(plan / "plan.json")
    study = folder / "study"
    study.mkdir()
    with contextlib.redirect_stdout(None):
        children.analyse(str(study / "study.db"))
    return [*found, *[(plan, "plan.json")] * 3, *[(study, "study.db")] * 3]


def _rehash(folder: Path) -> None:
    """Bring digests and sizes of the manifest up to date, where it can still be read."""
    path = folder / "manifest.json"
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        manifest = json.loads(path.read_bytes())
        for name in manifest["files"]:
            if (folder / name).is_file():
                data = (folder / name).read_bytes()
                manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        path.write_text(json.dumps(manifest))


class _Worker:
    """The reading process; made anew when it is gone."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def read(self, folder: Path) -> tuple[str, str]:
        """How reading `folder` came out, and what was said."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        try:
            line = self._lines.get(timeout=TIME_LIMIT_S)
        except queue.Empty:
            self.stop()
            return "hang", f"no answer within {TIME_LIMIT_S} s"
        if line is None:
            code = process.wait()
            self._process = None
            errors = (self._work / "worker.log").read_text(errors="replace")
            return "crash", f"the process ended with {code}: {errors[-300:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer["kind"], answer["said"]

    def _start(self) -> subprocess.Popen[str]:
        with (self._work / "worker.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "reader.py"), str(self._work / "subjects")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()

        def forward() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"kind"'):
                    lines.put(line)
            lines.put(None)

        threading.Thread(target=forward, daemon=True).start()
        if lines.get() is None:
            raise RuntimeError(f"The reader does not start: {(self._work / 'worker.log').read_text()}")
        self._process, self._lines = process, lines
        return process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class _Watch:
    """Says whether anything in a folder was opened, by whatever means: the kernel tells (inotify)."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        if (
            self._handle < 0
            or self._libc.inotify_add_watch(self._handle, os.fsencode(folder), CANARY_MASK) < 0
        ):
            raise OSError(ctypes.get_errno(), "inotify is not to be had")

    def touched(self) -> bool:
        """Since the last call."""
        found = False
        while select.select([self._handle], [], [], 0)[0]:
            events = os.read(self._handle, 65536)
            found = found or len(events) >= struct.calcsize("iIII")
        return found
