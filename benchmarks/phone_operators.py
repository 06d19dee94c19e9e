"""What the runtimes of phones list of the operators of the demos' artefacts.

    python benchmarks/phone_operators.py       # the tables of docs/phones.md

QNN, Core ML and XNNPACK: the lists of ONNX Runtime's execution providers, as `pockui operators` reads them
(`targets/onnx/vendors.json` has their sources and date). A provider that asks for constant weights takes a
convolution or a product only where its weight is in the file, not state: `with constant weights` leaves the
others out. ExecuTorch: the calls of a step that its target writes in terms of others, as they are no core
operators of PyTorch, or `targets/executorch/kernels.py` knows no right kernel; `make test-executorch` holds
that list against the installed package.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from pockgraph.passes import run  # noqa: E402
from pockgraph.targets.executorch.kernels import refusal  # noqa: E402
from pockgraph.targets.onnx.vendors import Coverage, coverage  # noqa: E402
from pockui.demo import text, vision  # noqa: E402

NETWORKS: dict[str, Callable[[], pg.Task]] = {
    "EfficientNet-Lite0": lambda: vision.task(8, 64),
    "MiniLM": lambda: text.task(8, 64),
}
PLANS: dict[str, Callable[[Any], pg.Plan]] = {
    "head": pg.Plan.head, "preset": pg.Plan.preset, "everything": pg.Plan.full
}  # fmt: skip
WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# As the lists say.
NEEDS_CONSTANTS = {"XNNPACK": ("Conv", "ConvTranspose"), "Core ML": ("ConvTranspose", "Gemm")}


def nodes_of(path: Path) -> tuple[Counter[str], Counter[str]]:
    """The nodes of an ONNX file by operator, and those of them whose weight is no constant."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {i.name for i in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    counts = Counter(node.op_type for node in graph.node)
    moving = Counter(n.op_type for n in graph.node if n.op_type in WEIGHED and n.input[1] not in constants)
    return counts, moving


def share(found: Coverage, moving: Counter[str]) -> str:
    """The nodes that a list has, and those of them whose weights are as the list asks."""
    total = sum(found.listed.values()) + sum(found.missing.values())
    listed = sum(found.listed.values())
    less = sum(moving[op] for op in NEEDS_CONSTANTS.get(found.vendor, ()) if op in found.listed)
    constant = f", {(listed - less) / total:.0%} with constant weights" if less else ""
    return f"{listed / total:.0%}{constant}"


def row(name: str, part: str, path: Path) -> str:
    counts, moving = nodes_of(path)
    found = coverage(counts)
    shares = " | ".join(share(c, moving) for c in found)
    return f"| {name} | {part} | {sum(counts.values())} | {len(counts)} | {shares} |"


def main() -> None:
    """Print the tables."""
    missing: dict[str, Counter[str]] = {}
    rows, refused = [], []
    for network, make in NETWORKS.items():
        graph = pg.build(make(), pg.SGD(lr=1e-2, momentum=0.9))
        for plan, choose in PLANS.items():
            chosen, name = choose(graph), f"{network}, {plan}"
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                pg.compile(graph, chosen, target="onnx", out=out, parity=False)
                rows += [row(name, "step", out / "train.onnx"), row(name, "answer", out / "predict-1.onnx")]
                for found in coverage(nodes_of(out / "train.onnx")[0]):
                    missing.setdefault(found.vendor, Counter()).update(dict.fromkeys(found.missing, 1))
            calls = list(run(graph.prune(chosen)).nodes())
            lacks = Counter(str(n.target).removeprefix("aten.") for n in calls if refusal(n))
            listed = ", ".join(f"{n} `{op}`" for op, n in lacks.most_common()) or "none"
            refused.append(f"| {name} | {len(calls)} | {sum(lacks.values())}: {listed} |")
    names = [c.vendor for c in coverage({})]
    print(f"| artefact | graph | nodes | operators | {' | '.join(names)} |")
    print(f"|---|---|--:|--:|{'---|' * len(names)}")
    print("\n".join(rows))
    print("\nNot listed, of the steps:")
    for vendor, operators in missing.items():
        print(f"- {vendor}: {', '.join(sorted(operators)) or 'none'}")
    print("\n| step | calls | of these in terms of others for ExecuTorch |\n|---|--:|---|")
    print("\n".join(refused))


if __name__ == "__main__":
    main()
