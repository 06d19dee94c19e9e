"""What a task predicts, as forward graphs: one for each batch size that is compiled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..capture import trace_prediction
from ..errors import TaskError
from ..ir.graph import Graph, Role
from ..passes import run
from ..passes.canonicalize import Canonicalize
from ..passes.dropout_masks import refuse_random
from ..task import Task
from ..task.batch import Batch
from ..task.prediction import resized


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a task predicts of batches of one size.

    Attributes:
        graph: forward only; an output for each tensor, named like it.
        batch: an example, as `predict` takes it; the graph may take fewer entries.
        samples: of a batch; None where the outputs have no row for each sample.
    """

    graph: Graph
    batch: Batch
    samples: int | None

    @property
    def stem(self) -> str:
        """How its files are called."""
        return "predict" if self.samples is None else f"predict-{self.samples}"


def trace_predictions(task: Task) -> tuple[Prediction, ...]:
    """What the task predicts, in ascending sizes; nothing for a task without `predict`.

    Raises:
        TaskError: `predict` does not give named tensors, or sizes are asked for and its outputs have no row
            for each sample.
        CaptureError: the model has no static graph.
    """
    if task.predict is None:
        return ()
    example = task.predict_example
    first = _traced(task, example)
    samples = _samples(first)
    if samples is None:
        if task.predict_sizes is not None:
            raise TaskError(
                f"Task {task.name!r}: predict_sizes={task.predict_sizes} are batch sizes, but the outputs of "
                f"`predict` have no row for each sample of a batch: it gives {_shapes(first)}. Return them "
                "row by row, or leave predict_sizes out: then batches of one size are compiled."
            )
        return (Prediction(first, example, None),)
    found = {samples: Prediction(first, example, samples)}
    sizes = task.predict_sizes or tuple(sorted({1, samples}))
    for size in sizes:
        if size not in found:
            batch = resized(example, samples, size)
            found[size] = Prediction(_of_size(task, batch, first, size), batch, size)
    return tuple(found[size] for size in sizes)


def _traced(task: Task, batch: Batch) -> Graph:
    graph = run(trace_prediction(task, batch).graph, (Canonicalize(),), "prediction")
    refuse_random(graph, task.name, "prediction")
    complex_ones = [s.fqn or "it" for s in graph.outputs if s.dtype.startswith("complex")]
    if complex_ones:
        raise TaskError(
            f"Task {task.name!r}: `predict` gives complex numbers ({', '.join(complex_ones)}), which no "
            "target returns. Return their real and imaginary parts, or their size."
        )
    read = _without_unread(graph) if task.predict_batch is None else graph
    if not any(s.role is Role.BATCH for s in read.inputs):
        raise TaskError(
            f"Task {task.name!r}: `predict(model, batch)` reads nothing of the batch. Compute what it "
            "returns from the batch's entries."
        )
    return read


def _without_unread(graph: Graph) -> Graph:
    """The graph without the entries of a training batch that it does not read, such as labels."""
    slots = []
    for slot, node in zip(graph.inputs, graph.placeholders.values()):
        if slot.role is Role.BATCH and not node.users:
            graph.fx.erase_node(node)
        else:
            slots.append(slot)
    return replace(graph, inputs=tuple(slots))


def _samples(graph: Graph) -> int | None:
    """The batch size, where every output has a row for each sample."""
    rows = {s.shape[:1] for s in graph.outputs}
    entries = {s.shape[:1] for s in graph.inputs if s.role is Role.BATCH}
    (first,) = rows if len(rows) == 1 else {()}
    return first[0] if first and first in entries else None


def _of_size(task: Task, batch: Batch, first: Graph, size: int) -> Graph:
    """The graph of another batch size.

    Args:
        first: of the example.

    Raises:
        TaskError: its outputs are not those of `first` with `size` rows.
    """
    graph = _traced(task, batch)
    wanted = [(s.fqn, (size, *s.shape[1:])) for s in first.outputs]
    if [(s.fqn, s.shape) for s in graph.outputs] != wanted:
        raise TaskError(
            f"Task {task.name!r}: `predict` gives {_shapes(first)} for its example batch, but "
            f"{_shapes(graph)} for one of {size}, which is not {size} rows of the same. A squeeze() "
            "without a dimension does that; name the dimension, or name sizes that work, as in "
            "predict_sizes=(8,)."
        )
    return graph


def _shapes(graph: Graph) -> str:
    return " and ".join(f"{s.fqn or 'a tensor'} {list(s.shape)}" for s in graph.outputs)
