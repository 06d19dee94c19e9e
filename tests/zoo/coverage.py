"""Run the coverage matrix and write it as a table: `make coverage`, or

    PYTHONPATH=tests python -m zoo.coverage [--quick | --all] [--jobs 2] [--out docs/coverage.md]
    PYTHONPATH=tests python -m zoo.coverage --quick --target executorch

The second one is about an experimental target, whose table is a file of its own. Every outcome is
stored as soon as it is there: stopped at any time, the same command goes on, as long as no source file
changed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pockgraph
from pockgraph.files import write_atomically
from pockgraph.targets import target_names
from zoo import families
from zoo.matrix import PLAN_KINDS, Cell, Outcome, cells, run_cell

ROOT = Path(__file__).parents[2]
QUICK_PLANS = ("full", "parts")
VERSIONS = ("torch", "openvino", "onnxruntime", "transformers", "executorch")
SHORT = 300  # characters of a reason


def main(argv: list[str] | None = None) -> int:
    """Run what is missing and write the table; 1 when a cell is wrong."""
    options = _parser().parse_args(argv)
    plans, alone = QUICK_PLANS if options.quick else tuple(PLAN_KINDS), options.target
    name = f"coverage-{alone}" if alone else "coverage"
    planned = cells(options.all, plans, (alone,) if alone else target_names())
    found = run(planned, ROOT / "out" / f"{name}.jsonl", options.jobs)
    how = " --quick" if options.quick else " --all" if options.all else ""
    how += f" --target {alone}" if alone else ""
    out = options.out or ROOT / "docs" / f"{name}.md"
    write_atomically(out, table(found, how).encode())
    wrong = [cell for cell, outcome in found.items() if outcome.kind == "wrong"]
    print(f"{len(found)} cells, {len(wrong)} wrong; wrote {out}")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m zoo.coverage", description=(__doc__ or "").partition(":")[0])
    group = p.add_mutually_exclusive_group()
    group.add_argument("--quick", action="store_true", help=f"only the plans {' and '.join(QUICK_PLANS)}")
    group.add_argument("--all", action="store_true", help="every optimizer in every cell; an hour")
    p.add_argument("--jobs", type=_jobs, default=1, help="processes, or auto: one a core; default 1")
    experimental = sorted({*target_names(experimental=True)} - {*target_names()})
    p.add_argument("--target", choices=experimental, help="an experimental target, alone")
    p.add_argument("--out", type=Path, help="the table; default docs/coverage.md, or docs/coverage-TARGET.md")
    return p


def _jobs(text: str) -> int:
    return os.cpu_count() or 1 if text == "auto" else int(text)


def run(planned: Iterable[Cell], record: Path, jobs: int = 1) -> dict[Cell, Outcome]:
    """The outcome of every planned cell: from the record, or run now and added to it."""
    sources = _digest_of_sources()
    known = _read(record, sources)
    planned = list(planned)
    todo = [cell for cell in planned if cell not in known]
    print(f"{len(planned)} cells, {len(planned) - len(todo)} known", file=sys.stderr)
    record.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with record.open("a" if known else "w", encoding="utf-8") as file:
        for done, (cell, outcome) in enumerate(_outcomes(todo, jobs), start=1):
            known[cell] = outcome
            file.write(
                json.dumps({"sources": sources, "cell": asdict(cell), "outcome": asdict(outcome)}) + "\n"
            )
            file.flush()
            left_s = (time.monotonic() - start) / done * (len(todo) - done)
            print(f"[{done}/{len(todo)}] {cell}: {outcome.kind}, {left_s:.0f} s left", file=sys.stderr)
    return {cell: known[cell] for cell in planned}


def _outcomes(todo: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, Outcome]]:
    if jobs == 1:
        yield from ((cell, run_cell(cell)) for cell in todo)
        return
    # The cells of one model and plan share what eager PyTorch makes of them: one process's.
    groups = [list(group) for _, group in itertools.groupby(todo, key=lambda c: (c.model, c.plan))]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for group, outcomes in zip(groups, pool.map(_run_cells, groups), strict=True):
            yield from zip(group, outcomes, strict=True)


def _run_cells(some: Sequence[Cell]) -> list[Outcome]:
    return [run_cell(cell) for cell in some]


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for folder in (ROOT / "backend", ROOT / "tests"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(record: Path, sources: str) -> dict[Cell, Outcome]:
    known: dict[Cell, Outcome] = {}
    if record.is_file():
        for line in record.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # a line that was cut short when the run was stopped
                continue
            if entry["sources"] == sources:
                known[Cell(**entry["cell"])] = Outcome(**entry["outcome"])
    return known


# ---------------------------------------------------------------- the table


def table(found: Mapping[Cell, Outcome], how: str = "") -> str:
    """The outcomes as Markdown."""
    plans = [p for p in PLAN_KINDS if any(c.plan == p for c in found)]
    targets = [t for t in target_names(experimental=True) if any(c.target == t for c in found)]
    columns = [(t, p) for t in targets for p in plans]
    notes: dict[str, int] = {}
    kinds = [o.kind for o in found.values()]
    lines = [
        "# What is covered",
        "",
        f"Written by `make coverage{_arguments(how)}`; do not edit. Each model (rows) "
        "is built, pruned to a plan of each kind, compiled for each target (columns), and trained for three "
        "steps, each with its own batch and learning rate. ✓: losses, trained weights and metric equal eager "
        "PyTorch's within the tolerances of `tests/oracle.py`, and what the plan freezes is unchanged, bit "
        "for bit. A number is the reason why not, below; ✗ is a bug.",
        "",
        f"{len(kinds)} cells were run: {kinds.count('right')} right, {kinds.count('refused')} refused with a "
        f"reason, {kinds.count('wrong')} wrong. {_optimizers(found)} The networks are small, with random "
        "weights; shapes of deployed ones are in the demos and benchmarks.",
        "",
        f"Versions: {_versions()}.",
        *_experimental(targets),
    ]
    for family, members in families().items():
        lines += ["", f"## {family.capitalize()}", ""]
        lines.append(f"| model | {' | '.join(f'{t}<br>{p}' for t, p in columns)} |")
        lines.append(f"|---|{':-:|' * len(columns)}")
        for model in members:
            marks = [_mark(found, model, t, p, notes) for t, p in columns]
            lines.append(f"| {model} | {' | '.join(marks)} |")
    if notes:
        lines += ["", "## Reasons", "", *(f"{number}. {reason}" for reason, number in notes.items())]
    return "\n".join(lines) + "\n"


def _experimental(targets: Sequence[str]) -> Iterator[str]:
    """Where the tables of the targets are that are not in this one."""
    others = [t for t in target_names(experimental=True) if t not in target_names() and t not in targets]
    if others:
        links = ", ".join(f"[{t}](coverage-{t}.md)" for t in others)
        yield from ("", f"Experimental, with a table of its own: {links}.")


def _arguments(how: str) -> str:
    """What follows `make coverage` on its command line."""
    given = how.strip()
    return f" ARGS='{given}'" if " " in given else f" ARGS={given}" if given else ""


def _mark(found: Mapping[Cell, Outcome], model: str, target: str, plan: str, notes: dict[str, int]) -> str:
    """✓ when every optimizer that was run is right; otherwise the numbers of the reasons."""
    here = [o for c, o in found.items() if (c.model, c.target, c.plan) == (model, target, plan)]
    if not here:
        return "–"
    reasons = dict.fromkeys(_shortened(o) for o in here if o.kind != "right")
    numbers = [str(notes.setdefault(reason, len(notes) + 1)) for reason in reasons]
    return ("✗ " if any(o.kind == "wrong" for o in here) else "") + ", ".join(numbers) if numbers else "✓"


def _shortened(outcome: Outcome) -> str:
    text = outcome.reason.replace("|", "\\|")
    text = text.replace(str(ROOT) + "/", "")
    return (
        f"**Wrong**: {text}" if outcome.kind == "wrong" else text[:SHORT] + ("…" if len(text) > SHORT else "")
    )


def _optimizers(found: Mapping[Cell, Outcome]) -> str:
    names = list(dict.fromkeys(c.optimizer for c in found))
    each = len(found) / len({(c.model, c.plan, c.target) for c in found}) if found else 0
    if each == len(names):
        return f"Each with every optimizer: {', '.join(names)}."
    turns = f"The optimizers take turns, one a cell: {', '.join(names)}"
    return f"{turns}; `ARGS=--all` runs every one in every cell."


def _versions() -> str:
    known = [f"pockui {pockgraph.__version__}", f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            known.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(known)


if __name__ == "__main__":
    sys.exit(main())
