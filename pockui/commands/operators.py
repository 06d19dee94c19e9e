"""`pockui operators`: what an ONNX artefact is made of, and which vendors' runtimes list that."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, out, print_json, print_table, styled


def operators(
    artifact: Annotated[Path, typer.Argument(help="The folder that `pockui compile --target onnx` wrote.")],
    evaluation: Annotated[bool, typer.Option("--eval", help="Of its evaluation, not of its step.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List an ONNX artefact's operators, and what each vendor's runtime says about them.

    A listed operator may still fall back to the CPU where a condition is not met.
    """
    from pockgraph.targets.onnx.vendors import coverage, operator_counts

    counts = operator_counts(artifact / ("eval.onnx" if evaluation else "train.onnx"))
    vendors = coverage(counts)
    if as_json:
        print_json(
            {"operators": counts, "vendors": [asdict(v) | {"node_ratio": v.node_ratio} for v in vendors]}
        )
        return
    print_table(
        ("Operator", ">Nodes", *(v.vendor for v in vendors)),
        [
            (op, n, *("–" if op in v.missing else v.notes.get(op, "yes") for v in vendors))
            for op, n in counts.items()
        ],
    )
    for v in vendors:
        share = f"{len(v.listed)} of {len(counts)} operators, {v.node_ratio:.0%} of the nodes"
        out().print(styled((v.vendor, "bold"), f" ({v.hardware}) lists {share}. Source: {v.source}"))
