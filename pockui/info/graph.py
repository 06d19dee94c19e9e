"""The training graph as rows of a tree: blocks, their layers, the operators of each phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pockgraph.errors import listing
from pockgraph.profile.graph_summary import Count, LayerCount

from . import format as fmt

if TYPE_CHECKING:
    from pockgraph.profile.operator_cost import Phase
    from pockgraph.runtime.manifest import Manifest

OUTSIDE = "outside all layers"
COLUMNS = (
    ("Operators", "Of the whole step → of this plan's, after pruning. Views of memory count, too."),
    ("Bytes made", "What the operators allocate, all added up: more than is ever alive at once."),
    ("Compute", "Floating-point operations of the step; a multiply-add counts two."),
    ("Trained", "Tensors that learn, with the share of their channels."),
)
NO_LAYERS = (
    "This study's profile was made by an earlier version, which did not keep the layer of each operator. The "
    "next analysis keeps it: pockui analyze MODULE:TASK --study {}"
)
PHASES: tuple[Phase, ...] = ("forward", "backward", "update")
# Pass -> what it does to the operators.
PASSES = {
    "fold_constants": "Folded: computed when compiling, from constants",
    "fold_scale": "Folded: frozen scales of batch norms, into frozen convolutions",
    "guard_indices": "Added: checks of computed indices",
    "legalize": "Expanded: operators that the target lacks, into others",
    "pointwise_as_matmul": "Rewritten: 1 × 1 convolutions as matrix products",
    "flatten_update": "Rewritten: updates, on vectors instead of kernels' shapes",
    "lower_precision": "Converted: to the precision that was asked for",
}


class Change(NamedTuple):
    """A row of the tree.

    Attributes:
        level: 1 for a block, 2 for a layer, 3 for a phase.
        cells: as `COLUMNS`.
        state: `whole`, `changed`, or `gone`: nothing of it is left.
    """

    id: str
    level: int
    name: str
    cells: tuple[str, ...]
    state: str
    opens: bool


def tree_rows(layers: Sequence[LayerCount]) -> list[dict[str, Any]]:
    """Rows of `components/tree.js`: every block, then its layers, then their phases."""
    blocks: dict[str, list[LayerCount]] = {}
    for layer in sorted(layers, key=lambda layer: not layer.layer):
        blocks.setdefault(layer.block, []).append(layer)
    rows: list[Change] = []
    for block, inside in blocks.items():
        alone = len(inside) == 1 and inside[0].layer == block
        if not alone:
            trained = {fqn: share for layer in inside for fqn, share in layer.trained.items()}
            rows.append(_row(f"block {block}", 1, block or OUTSIDE, _sum(inside), trained, True))
        for layer in inside:
            level = 1 if alone else 2
            name = layer.layer or OUTSIDE
            if not alone:
                name = layer.layer.removeprefix(f"{block}.") if layer.layer != block else "itself"
            rows.append(_row(f"layer {layer.layer}", level, name, layer.of(), layer.trained, True))
            for phase in PHASES:
                count = layer.of(phase)
                if count.operators or count.plan_operators:
                    gone = "" if count.plan_operators else ", pruned"
                    text = f"{phase}{gone}: {operators(layer, phase)}"
                    rows.append(_row(f"{phase} {layer.layer}", level + 1, text, count, {}, False))
    return [row._asdict() for row in rows]


def _sum(layers: Iterable[LayerCount]) -> Count:
    total = Count()
    for layer in layers:
        total.add(layer.of())
    return total


def _row(id: str, level: int, name: str, count: Count, trained: Mapping[str, float], opens: bool) -> Change:
    gone = not count.plan_operators
    whole = count.operators, count.bytes, count.flops
    left = count.plan_operators, count.plan_bytes, count.plan_flops
    texts = ("{:,}".format, fmt.size, fmt.flops)
    cells = (*(arrow(text(a), text(b)) for text, a, b in zip(texts, whole, left)), shares(trained))
    state = "gone" if gone else "whole" if whole == left else "changed"
    return Change(id, level, name, cells, state, opens)


def arrow(before: str, after: str) -> str:
    """`12 → 7`, or `12` where nothing has changed."""
    return before if before == after else f"{before} → {after}"


def shares(trained: Mapping[str, float]) -> str:
    """`weight 50 %, bias`; of many, how many."""
    if len(trained) > 3:
        return f"{len(trained)} tensors"
    return ", ".join(
        fqn.rpartition(".")[2] + (f" {fmt.percent(share)}" if share < 1 else "")
        for fqn, share in trained.items()
    )


def operators(layer: LayerCount, phase: Phase) -> str:
    """`convolution, add 2 → 1`; of a phase that is pruned altogether, what there was."""
    found = []
    for (its, op), count in layer.counts.items():
        if its == phase:
            left = count.plan_operators if layer.of(phase).plan_operators else count.operators
            number = arrow(f"{count.operators}", f"{left}")
            found.append(op if number == "1" else f"{op} {number}")
    return ", ".join(found)


def totals(layers: Sequence[LayerCount], name: str) -> str:
    """What is left in all, in a sentence or two."""
    whole = _sum(layers)
    added = sum(sum(layer.added.values()) for layer in layers)
    by_phase = []
    for phase in PHASES:
        there = sum(layer.of(phase).operators for layer in layers)
        kept = sum(layer.of(phase).plan_operators - layer.added.get(phase, 0) for layer in layers)
        if there:
            by_phase.append(f"{kept:,} of {there:,} {phase}")
    more = f" and adds {added} (selected channels, clamp masks, joined weights)" if added else ""
    return (
        f"The training graph of {name} has {whole.operators:,} operators. This plan keeps {listing(by_phase)}"
        f"{more}: {whole.plan_operators:,} in all."
    )


def passes_table(manifest: Manifest) -> list[tuple[str, str]]:
    """What compiling did after pruning, of passes that changed the number of operators: (what, number)."""
    return [
        (PASSES.get(p.name, p.name), arrow(f"{p.before:,}", f"{p.after:,}"))
        for p in manifest.passes
        if p.before != p.after
    ]
