"""How many wrong steps does the parity record let through, and how many right ones does it refuse?

    python benchmarks/judge_mutants.py --mutants 240 --seed 0 > docs/results/judge.md

Mutants are made by `tests/mutants.py`, one mistake each, in what a target compiles or in the graph itself.
Those that float32 cannot tell from the right step are counted apart, by float64 runs that do not use the
judge.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "backend"), str(ROOT / "tests")]

from judging import CELLS, mutant, right_cells, right_step  # noqa: E402


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mutants", type=int, default=240)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--right", type=int, default=120, help="right steps to judge")
    given = options.parse_args()
    start = time.process_time()
    counts: Counter[str] = Counter()
    missed: list[str] = []
    by_kind: dict[str, Counter[str]] = {}
    seed = given.seed
    while counts["refused"] + counts["missed"] < given.mutants:
        found = mutant(*CELLS[seed % len(CELLS)], seed)
        seed += 1
        if found is None:
            continue
        counts[found.outcome] += 1
        by_kind.setdefault(found.kind, Counter())[found.outcome] += 1
        if found.outcome == "missed":
            missed.append(f"{found.cell}, seed {seed - 1}: {found.what}")
            print(missed[-1], file=sys.stderr, flush=True)
    wrong: list[str] = []
    cells, judged = right_cells(), 0
    while judged < given.right:
        cell = next(cells)
        refusal = right_step(*cell)
        judged += refusal is not None
        if refusal:
            wrong.append(f"{', '.join(cell)}: {refusal}")
            print(wrong[-1], file=sys.stderr, flush=True)
    told = counts["refused"] + counts["missed"]
    print("# The judge, judged\n")
    command = f"--mutants {given.mutants} --seed {given.seed} --right {given.right}"
    share = 100 * counts["refused"] / max(told, 1)
    print(f"`python benchmarks/judge_mutants.py {command}`\n")
    print(
        f"{told} wrong steps, of which {counts['refused']} were refused ({share:.1f} %); "
        f"{counts['equivalent']} more mutants differ from the right step by rounding only: no fault. "
        f"{judged} right steps, of which {len(wrong)} were refused. "
        f"{time.process_time() - start:.0f} s of CPU.\n"
    )
    print("| mistake | refused | missed |\n| --- | --: | --: |")
    for kind, count in sorted(by_kind.items()):
        print(f"| {kind} | {count['refused']} | {count['missed']} |")
    for title, lines in (("Missed", missed), ("Right steps refused", wrong)):
        if lines:
            print(f"\n{title}:\n")
            print("\n".join(f"- {line}" for line in lines))


if __name__ == "__main__":
    main()
