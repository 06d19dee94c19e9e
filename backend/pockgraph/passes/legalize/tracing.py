"""A function of tensors → the ATen operators that it calls; with `capture/` and
`targets/torch/aot_package.py` the only file that touches torch's unstable interfaces.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from ...ir.graph import Graph, Role, Slot, bound_args, dtype_name, meta_like
from ..canonicalize import Canonicalize


def read_results(node: fx.Node) -> tuple[int, ...]:
    """Which of a call's results are read; none named where there is only one."""
    if isinstance(node.meta["val"], torch.Tensor):
        return ()
    return tuple(sorted({user.args[1] for user in node.users if user.users}))  # pyright: ignore


def traced(function: Callable[..., Any], node: fx.Node) -> Graph:
    """What `function` computes of the arguments of a call, of those results that are read.

    Its inputs are the call's tensors in the order of its arguments, a tensor given twice twice, and after
    them constants.
    """
    arguments = _plain(bound_args(node))
    vals: list[torch.Tensor] = []
    fx.map_arg(arguments, lambda n: vals.append(n.meta["val"]) or n)
    read = read_results(node)
    several = not isinstance(node.meta["val"], torch.Tensor)
    schema = node.target._schema.arguments  # pyright: ignore

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(tensors)
        bound = list(zip(schema, _plain(fx.map_arg(arguments, lambda _: next(given)))))
        positional = [v for a, v in bound if not a.kwarg_only]
        results = function(*positional, **{a.name: v for a, v in bound if a.kwarg_only})
        return tuple(results[i] for i in read) if several else (results,)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = [torch.empty(v.shape, dtype=v.dtype) for v in vals]
        # Formulas inside PyTorch work in place on what they have just made.
        module = make_fx(torch.func.functionalize(call), tracing_mode="fake")(*empty)
    graph = module.graph
    _scalars_as_calls(module)
    slots = []
    for inner in graph.nodes:
        if inner.op == "output":
            continue
        inner.meta = {"val": meta_like(inner.meta["val"]), "phase": "forward", "layer": "", "source": ""}
        if inner.op == "placeholder":
            val = inner.meta["val"]
            slots.append(Slot(Role.BATCH, f"tensor_{len(slots)}", tuple(val.shape), dtype_name(val.dtype)))
    outputs = []
    for i, result in enumerate(graph.output_node().args[0]):  # pyright: ignore
        val = result.meta["val"]
        outputs.append(Slot(Role.METRIC, str(i), tuple(val.shape), dtype_name(val.dtype)))
    return Canonicalize()(Graph(graph, tuple(slots), tuple(outputs), {}))


def _plain(argument: Any) -> Any:
    """Lists as functions may take them apart; those of a node cannot be changed."""
    return [_plain(a) for a in argument] if isinstance(argument, list) else argument


def _scalars_as_calls(module: fx.GraphModule) -> None:
    """Numbers that a function wraps in tensors: attributes after tracing, calls here."""
    graph = module.graph
    for node in graph.find_nodes(op="get_attr"):
        value = getattr(module, node.target)
        assert value.numel() == 1, f"{node.target} holds {value.numel()} numbers: make it with torch.arange"
        with graph.inserting_before(node):
            call = graph.call_function(
                torch.ops.aten.full.default, (list(value.shape), value.item()), {"dtype": value.dtype}
            )
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
