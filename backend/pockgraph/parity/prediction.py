"""Is a compiled prediction that of the user's own module? Compared as a metric is, see `metric.py`.

Every size that was compiled is compared, and every output by itself: each has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from ..ir.graph import Slot
from ..task import Task
from ..task.batch import Batch
from ..train_graph import TrainGraph
from ..train_graph.predictions import Prediction
from .eager_metric import predict
from .metric import ForwardCheck, MetricComparison, Start, _Compared, said

# (state by slot name, stem of a size, batch) -> the outputs by slot name
Run = Callable[[dict[str, Tensor], str, Batch], dict[str, Tensor]]


class PredictionCheck(ForwardCheck):
    """Compares one output of one batch size, as a vector of all its elements.

    Args:
        prediction: of a plan; output: which of its outputs; else as `ForwardCheck`.
    """

    what = "prediction"
    which_batch = "its example batch"

    def __init__(
        self, task: Task, prediction: Prediction, output: Slot, tolerance: float, eps: float | None
    ) -> None:
        super().__init__(task, prediction.graph, prediction.batch, tolerance, eps)
        self._output = output
        self._at = prediction.graph.outputs.index(output)

    def _eager(self, start: Start, batch: Batch, **how: object) -> Tensor:
        return predict(self._task, start, batch, **how)[self._output.fqn].double().reshape(-1)

    def _picked(self, outputs: Sequence[Tensor]) -> Tensor:
        return outputs[self._at].reshape(-1)

    def _said(self, found: _Compared) -> str:
        of = f" of {self._output.fqn!r}" if self._output.fqn else ""
        shape = list(self._output.shape)
        return said(
            found, f"values{of} ({shape}, counted flat)", f"value{of} ({shape}, counted flat)", "which"
        )


def compared(
    graph: TrainGraph, run: Run, target: str, tolerance: float, eps: float | None
) -> MetricComparison | None:
    """The comparison that is refused, or the one that deviates most; None where nothing is predicted.

    Args:
        graph: a plan's.
        run: what was compiled. target: its name.
    """
    found = list(_each(graph, run, target, tolerance, eps))
    refused = next((c for c in found if c.refusal), None)
    return refused or max(found, key=lambda c: c.deviation / c.allowed, default=None)


def _each(
    graph: TrainGraph, run: Run, target: str, tolerance: float, eps: float | None
) -> Iterator[MetricComparison]:
    for prediction in graph.prediction_graphs():
        for output in prediction.graph.outputs:
            if not all(output.shape):
                continue  # it has no elements

            def compiled(
                state: dict[str, Tensor], batch: Batch, stem: str = prediction.stem, name: str = output.name
            ) -> Tensor:
                return run(state, stem, batch)[name].reshape(-1)

            check = PredictionCheck(graph.task, prediction, output, tolerance, eps)
            yield check.check(compiled, target)
