"""The evidence: model × data pairs, each trained as found automatically and as others choose.

    python -m benchmarks.evidence.fetch                      # the data, once
    python -m benchmarks.evidence --out docs/results/evidence.md
    python -m benchmarks.evidence --pair watch --seeds 2     # a part of it
    python -m benchmarks.evidence --report --out FILE        # the page anew, from what is there

Every trial and run is a line of `build/evidence/evidence.jsonl`; a run that was stopped goes on where it was.
A pair that fails is reported, and the others go on. Exit status 1 says that one failed, or that a goal is
missed; `--smoke` looks at no goal.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path

from pockgraph.errors import PockError
from pockgraph.machine import machine, usable_cores
from pockui.demo.results import write_text
from pockui.versions import versions

from . import report
from .experiment import Settings, run
from .fetch import ROOT
from .log import Log, opened, read
from .pairs import PAIRS, SMOKE

BUILD = ROOT / "build" / "evidence"


def main() -> int:
    """Run the pairs, write the page; returns the exit status."""
    options = _options()
    setups = SMOKE if options.smoke else PAIRS
    unknown = [name for name in options.pair or () if name not in setups]
    if unknown:
        print(f"There is no pair {unknown[0]!r}; there are {', '.join(setups)}.", file=sys.stderr)
        return 2
    path = options.build / "evidence.jsonl"
    failed = 0
    if not options.report:
        try:
            with opened(path) as log:
                failed = _run(options, log)
        except BlockingIOError:
            print(f"Another process writes to {path}. Wait for it, or pass another --build.", file=sys.stderr)
            return 2
    rows = read(path)
    text = report.markdown(rows, setups, "python -m benchmarks.evidence")
    if options.out:
        write_text(options.out, text)
    print(text)
    return 1 if failed or (report.missed(rows) and not options.smoke) else 0


def _run(options: argparse.Namespace, log: Log) -> int:
    """How many pairs failed."""
    setups = SMOKE if options.smoke else PAIRS
    settings = Settings(
        seeds=tuple(range(options.seeds)), budget_mb=options.budget, threads=options.threads,
        **({"blocks": 1, "block_steps": 1, "probes": 5} if options.smoke else {}),
    )  # fmt: skip
    log.add(
        kind="session", date=time.strftime("%Y-%m-%d"), machine=machine(), versions=versions(),
        threads=settings.threads, revision=_revision(), command=shlex.join(sys.argv[1:]),
    )  # fmt: skip
    failed = 0
    for name in options.pair or setups:
        try:
            run(name, setups[name], settings, log, options.build)
        except Exception as e:  # a pair's failure is a result, and no reason to leave out the others
            failed += 1
            if not isinstance(e, PockError):
                traceback.print_exc()
            reason = f"{type(e).__name__}: {' '.join(str(e).split())[:500]}"
            print(f"{name} failed: {reason}", file=sys.stderr, flush=True)
            log.add(kind="failed", pair=name, reason=reason)
    return failed


def _options() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("--pair", action="append", help=f"this one; may be given again: {', '.join(PAIRS)}")
    p.add_argument("--seeds", type=int, default=5, help="final runs of each method")
    p.add_argument("--budget", type=float, help="shared process memory in MB; the preset's unless given")
    p.add_argument("--threads", type=int, default=usable_cores())
    p.add_argument("--build", type=Path, default=BUILD, help="where log, studies and artefacts are")
    p.add_argument("--out", type=Path, help="write the page here")
    p.add_argument("--report", action="store_true", help="run nothing")
    p.add_argument("--smoke", action="store_true", help="two tiny pairs: seconds, and figures of no meaning")
    options = p.parse_args()
    if options.seeds < 1:
        p.error("--seeds must be 1 or more")
    return options


def _revision() -> str:
    """Of the sources that run; `unknown` outside of a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + (" with changes" if changed else "")


if __name__ == "__main__":
    sys.exit(main())
