"""What the manifest says of graphs, predictions and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..ir.graph import Graph, Role, Slot
from ..passes.batch_limits import limits_of
from ..passes.guard_indices import guards_of
from ..runtime.artifact_files import file_sha256
from ..runtime.graph_specs import GraphSpec, PredictionSpec, SlotSpec
from ..runtime.manifest import FileSpec
from ..runtime.result_marks import INEXACT, OUT_OF_BOUNDS
from ..task.batch import nonfinite_entries
from ..train_graph.predictions import Prediction
from .sample_independence import samples_apart


def graph_spec(graph: Graph) -> GraphSpec:
    """The slots of a graph."""
    return GraphSpec(inputs=_slot_specs(graph.inputs), outputs=_slot_specs(graph.outputs))


def prediction_spec(prediction: Prediction, integers_below: int | None) -> PredictionSpec:
    """What is predicted of batches of one size.

    Args:
        integers_below: the target's.
    """
    graph = prediction.graph
    apart = prediction.samples is not None and samples_apart(graph, prediction.batch)
    return PredictionSpec(
        samples=prediction.samples, graph=graph_spec(graph), limits=limits_of(graph, integers_below),
        guards=guards_of(graph, OUT_OF_BOUNDS), integers=guards_of(graph, INEXACT),
        nonfinite_entries=nonfinite_entries(prediction.batch), samples_apart=apart,
    )  # fmt: skip


def _slot_specs(slots: Iterable[Slot]) -> tuple[SlotSpec, ...]:
    return tuple(
        SlotSpec(
            role=Role(s.role).value, fqn=s.fqn, shape=s.shape, dtype=s.dtype, key=s.key, trained=s.trained,
            changes=s.changes, dim=s.dim, indices=s.indices,
        )
        for s in slots
    )  # fmt: skip


def file_spec(path: Path) -> FileSpec:
    """The digest and size of a file."""
    return FileSpec(sha256=file_sha256(path), bytes=path.stat().st_size)
