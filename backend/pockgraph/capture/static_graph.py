"""What a trace holds that no static graph can: left out where it computes nothing, refused where it does."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator

from ..ir.graph import aten, dtype_name
from ..ir.reachability import ancestors
from . import refusals
from .node_metadata import source_of
from .refusals import NotOneGraph

ASSERTIONS = (aten._assert_async.default, aten._assert_async.msg)
# They take operands of one dtype, though tensors without data do not say so.
PRODUCTS = (
    aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default, aten.mv.default,
    aten.addmv.default, aten.dot.default, aten.convolution.default,
)  # fmt: skip


def drop_profiling(graph: fx.Graph) -> None:
    """Leave out the marks of `torch.profiler.record_function`, which compute nothing."""
    for node in reversed(graph.nodes):  # an end before its beginning, which it refers to
        if getattr(node.target, "namespace", "") == "profiler":
            graph.erase_node(node)


def drop_assertions(graph: fx.Graph) -> list[str]:
    """Leave out `torch._assert_async`, which no device runs; where (`file:line`) it stood."""
    found = [n for n in graph.nodes if n.target in ASSERTIONS]
    for node in found:
        graph.erase_node(node)
    return list(dict.fromkeys(map(line_of, found)))


def refuse_dynamic(graph: fx.Graph) -> None:
    """Refuse values and shapes that only a run can tell, and products that none computes.

    Raises:
        NotOneGraph: naming the user's line.
    """
    for node in graph.nodes:
        if isinstance(node.target, HigherOrderOperator):
            name = node.target.name()
            raise NotOneGraph(refusals.HIGHER_ORDER.format(name=name), source_of(node.meta))
        dtypes = (
            {dtype_name(n.meta["val"].dtype): None for n in node.all_input_nodes}
            if node.target in PRODUCTS
            else ()
        )
        if len(dtypes) > 1:
            raise NotOneGraph(refusals.MIXED.format(dtypes=" and ".join(dtypes)), line_of(node))
        value = node.meta.get("val")
        for v in value if isinstance(value, tuple | list) else (value,):
            symbolic = isinstance(v, torch.SymInt | torch.SymFloat | torch.SymBool)
            sized = isinstance(v, Tensor) and any(isinstance(s, torch.SymInt) for s in v.shape)
            if symbolic or sized:
                number = node.target is aten._local_scalar_dense.default
                reason = refusals.AS_NUMBER if number else refusals.DATA_DEPENDENT
                raise NotOneGraph(reason, line_of(node))


def line_of(node: fx.Node) -> str:
    """The user's line of an operator: its own, else of what reads the same, else of what it comes from."""
    beside = (user for operand in node.all_input_nodes for user in operand.users)
    above = ancestors(node)
    before = (n for n in reversed(node.graph.nodes) if n in above)
    return next(filter(None, (source_of(n.meta) for n in (node, *beside, *before))), "")
