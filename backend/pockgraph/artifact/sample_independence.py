"""Does a metric, or a prediction, look at each sample alone? Only then can a batch of fewer rows be padded.

Statistics of the batch (a batch norm without running ones), distances and ranks within it do not. Found out
by a trial: the first half of a batch, with its own rows after it and with copies of its last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ..ir.graph import Graph, Role

TOLERANCE_RATIO = 1e-4  # of the largest value; rounding is far below


def samples_apart(evaluation: Graph, example: Mapping[str, Tensor]) -> bool:
    """Args:
    evaluation: a forward graph, of one value or row for each row of a batch.
    example: a batch.
    """
    rows = evaluation.outputs[0].shape[0]
    kept = rows // 2
    if not kept:
        return True
    padded = {
        name: torch.cat([v[:kept], v[kept - 1 : kept].expand(rows - kept, *v.shape[1:])])
        if v.ndim and len(v) == rows
        else v
        for name, v in example.items()
    }
    one, other = _rows_of(evaluation, example, rows), _rows_of(evaluation, padded, rows)
    pending, seen = list(evaluation.results.values()), set()
    while pending:
        node = pending.pop()
        if node in seen or node.op != "call_function":
            continue
        seen.add(node)
        a = one.get(node)
        if a is not None and not _same(a.values[:kept], other[node].values[:kept]):
            return False
        # Counts and decisions hide most of what they are made from.
        if a is None or a.whole:
            pending += node.all_input_nodes
    return True


@dataclass(frozen=True)
class _Rows:
    """A value with a row for each sample: two numbers of each row, and whether all of it is whole numbers."""

    values: Tensor
    whole: bool


def _rows_of(graph: Graph, batch: Mapping[str, Tensor], rows: int) -> dict[fx.Node, _Rows]:
    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, Tensor) and result.ndim and len(result) == rows:
                real = torch.view_as_real(result.resolve_conj()) if result.is_complex() else result
                flat = real.reshape(rows, -1).float()
                numbers = torch.stack([flat.sum(1), torch.linalg.vector_norm(flat, dim=1)], 1)
                found[n] = _Rows(numbers, not real.is_floating_point() or torch.equal(flat, flat.round()))
            return result

    found: dict[fx.Node, _Rows] = {}
    inputs = [batch[s.fqn] if s.role is Role.BATCH else graph.values[s.name] for s in graph.inputs]
    with torch.no_grad():
        Recorder(nn.Module(), graph=graph.fx).run(*inputs)
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    limit = TOLERANCE_RATIO * float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=limit, equal_nan=True)
