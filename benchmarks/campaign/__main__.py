"""The reliability campaign: kills, mutated files, long runs, determinism, full disks, the server.

    python benchmarks/campaign --out docs/results/reliability.md     # or: make campaign
    python benchmarks/campaign --only kills --kills 20 --seed 7      # a part of it, another seed

Results of the parts are kept in `build/campaign` as JSON, and the report is made of all that are there.
Exit status 1 says that a fault was found.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import determinism
import disk
import endurance
import kills
import mutations
import report
import server
import subjects

# Options that say how large a part is.
SIZES = {"kills": ("kills",), "mutations": ("files",), "endurance": ("steps", "loads"), "determinism": (),
         "disk": ("fills",), "server": ("sessions",)}  # fmt: skip
PARTS = tuple(SIZES)
BUILD = subjects.ROOT / "build" / "campaign"


def main() -> int:
    """Run the parts, write the report; returns the exit status."""
    p = argparse.ArgumentParser(prog="python benchmarks/campaign", description=__doc__, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", choices=PARTS, action="append", help="run this part; may be given again")
    p.add_argument("--kills", type=int, default=200)
    p.add_argument("--files", type=int, default=10_000, help="mutated files")
    p.add_argument("--steps", type=int, default=10_000)
    p.add_argument("--loads", type=int, default=100)
    p.add_argument("--fills", type=int, default=40, help="full disks for each operation")
    p.add_argument("--sessions", type=int, default=30)
    p.add_argument("--out", type=Path, help="write the report here")
    options = p.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    for part in options.only or PARTS:
        work = BUILD / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        start, commit = time.perf_counter(), _commit()
        print(f"== {part}", flush=True)
        found = _run(part, options, work)
        record = {
            "command": _command(part, options),
            "commit": commit, "date": time.strftime("%Y-%m-%d"),
            "minutes": (time.perf_counter() - start) / 60,
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
            + ", ".join(f"{n} {version(n)}" for n in ("torch", "openvino", "onnxruntime", "panel")),
            "found": found,
        }  # fmt: skip
        (BUILD / f"{part}.json").write_text(json.dumps(record, indent=1))
        shutil.rmtree(work)
    records = {p: json.loads(f.read_text()) for p in PARTS if (f := BUILD / f"{p}.json").exists()}
    text, faults = report.write(records)
    if options.out:
        options.out.write_text(text)
    print(text)
    return 1 if faults else 0


def _command(part: str, options: argparse.Namespace) -> str:
    """What runs this part again, as large as it was."""
    sizes = " ".join(f"--{name} {getattr(options, name)}" for name in SIZES[part])
    return f"python benchmarks/campaign --only {part} --seed {options.seed} {sizes}".rstrip()


def _commit() -> str:
    """Of the sources that run; `unknown` outside of a repository."""
    git = ["git", "-C", str(subjects.ROOT)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + (" with changes" if changed else "")


def _run(part: str, options: argparse.Namespace, work: Path) -> Any:
    match part:
        case "kills":
            found: Any = kills.run(options.seed, options.kills, work)
        case "mutations":
            found = mutations.run(options.seed, options.files, work / "mutations")
        case "endurance":
            found = endurance.run(options.steps, options.loads, work)
        case "determinism":
            found = determinism.run(work)
        case "disk":
            found = disk.run(options.seed, options.fills, work)
        case _:
            found = server.run(options.sessions, work)
    return [dataclasses.asdict(f) for f in found] if isinstance(found, list) else dataclasses.asdict(found)


if __name__ == "__main__":
    sys.exit(main())
