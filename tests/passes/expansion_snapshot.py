"""The operators that each expansion consists of, in order, in `expansion_snapshot.txt`.

PyTorch's formulas move between its releases, and ours with them where they build on its functions. A changed
one is compared with the old in numbers and in time before it is taken; then this renews the file:

    python tests/passes/expansion_snapshot.py
"""

from __future__ import annotations

import operator
import textwrap
from pathlib import Path

from torch import fx

from pockgraph.passes.legalize import Expansion

FILE = Path(__file__).with_suffix(".txt")
LONGEST_BLOCK = 40  # operators


def formula(expansion: Expansion) -> str:
    """Names in order; what is repeated stands once, `(mul add)*4`. The reason where there is no expansion."""
    if expansion.graph is None:
        return f"refused: {expansion.reason}"
    names = [_name(n) for n in expansion.graph.nodes() if n.target is not operator.getitem]
    return " ".join(_folded(names)) or "(its operand)"


def _name(node: fx.Node) -> str:
    name = str(node.target).removeprefix("aten.")
    return name.removesuffix(".default").removesuffix(".Tensor").removesuffix(".self")


def _folded(names: list[str]) -> list[str]:
    """The longest repetitions as one."""
    said, i = [], 0
    while i < len(names):
        found = (1, 1)
        for size in range(1, LONGEST_BLOCK + 1):
            times = 1
            block = names[i : i + size]
            while names[i + times * size : i + (times + 1) * size] == block:
                times += 1
            if times > 1 and (times - 1) * size > (found[1] - 1) * found[0]:
                found = size, times
        size, times = found
        block = " ".join(names[i : i + size])
        said.append(block if times == 1 else f"{block}*{times}" if size == 1 else f"({block})*{times}")
        i += size * times
    return said


def read() -> dict[str, str]:
    """Case and operator -> formula."""
    found: dict[str, str] = {}
    key = ""
    for line in FILE.read_text().splitlines():
        if line.startswith("    "):
            found[key] = f"{found[key]} {line.strip()}".strip()
        else:
            key = line
            found[key] = ""
    return found


def write(formulas: dict[str, str]) -> None:
    lines: list[str] = []
    for key, text in formulas.items():
        lines += [key, *textwrap.wrap(text, 110, initial_indent="    ", subsequent_indent="    ")]
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, "tests")
    from test_legalize import formulas_of_all_cases

    write(formulas_of_all_cases())
