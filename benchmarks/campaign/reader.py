"""Reads what the campaign mutated, as users' programs do: a folder a line in, how it came out a line out."""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from subjects import state_digest  # first: it sets the import paths

import tiny_task

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.runtime import Trainer

MEMORY_BYTES = 4 << 30
GROWTH_BYTES = 1 << 30
_outside: list[str] = []
_watching = False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pty.spawn"):
        _outside.append(f"{event} {args!r}"[:200])
    elif event == "open" and isinstance(args[0], str | bytes):
        path = os.path.realpath(os.fsdecode(args[0]))
        if path.startswith(("/etc/passwd", "/etc/shadow")) or "canary" in path:
            _outside.append(f"open {path}")


def read(folder: Path, expected: dict[str, str]) -> tuple[str, str]:
    """The kind of outcome, and what was said."""
    try:
        got = _observed(folder)
    except PockError as e:
        lines = str(e).strip().splitlines()
        return ("clear error", lines[0]) if lines else ("error from inside", "an error without words")
    except MemoryError:
        return "memory", traceback.format_exc()
    except BaseException:
        return "error from inside", traceback.format_exc()
    return ("read as before", "") if got == expected[folder.name] else ("another valid file", "")


def _observed(folder: Path) -> str:
    """What a program sees of the folder: a step's numbers, a plan's text, a study's contents."""
    if (folder / "study.db").exists():
        with pg.Study(folder / "study.db") as study:
            return repr((study.name, study.measurements(), study.contribution, study.plans(), study.runs()))
    if not (folder / "manifest.json").exists():
        return pg.Plan.load(folder / "plan.json").to_json()
    trainer = Trainer.load(folder)
    if (folder / "c.safetensors").exists():
        trainer.load_checkpoint(folder / "c.safetensors")
    batch = tiny_task.batches(1)[0]
    result = trainer.step(batch)
    metric = trainer.evaluate([batch]).values
    return f"{result.loss!r} {state_digest({**trainer.state(), 'metric': metric})}"


def main(subjects: Path) -> None:
    global _watching
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    sys.addaudithook(_audit)
    expected = {p.name: _observed(p) for p in subjects.iterdir() if p.is_dir()}
    named = {p.name: p for p in subjects.iterdir()}
    print(json.dumps({"kind": "ready"}), flush=True)
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        # The mutated folder is always at one path; which subject it came from shows in what lies in it.
        kind_of = _subject_of(folder, named)
        before = _peak_bytes()
        _outside.clear()
        _watching = True
        try:
            kind, said = read(folder, {folder.name: expected[kind_of]})
        finally:
            _watching = False
        if _outside:
            kind, said = "reached outside", "; ".join(_outside)
        elif _peak_bytes() - before > GROWTH_BYTES:
            kind, said = "memory", f"the peak grew by {(_peak_bytes() - before) / 1e9:.1f} GB; {kind}: {said}"
        print(json.dumps({"kind": kind, "said": said}), flush=True)


def _subject_of(folder: Path, subjects: dict[str, Path]) -> str:
    names = {p.name for p in folder.iterdir()}
    return next(n for n, p in subjects.items() if {q.name for q in p.iterdir()} == names)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
