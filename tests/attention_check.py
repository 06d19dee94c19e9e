"""Are the channels that `heads` names those that a head computes with? Found by changing them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from models import zoo
from oracle import built

import pockgraph as pg
from pockgraph.plan import Trained
from pockgraph.task.batch import as_named


def changed_inputs(name: str, output: str, chosen: dict[str, Trained]) -> set[int]:
    """Which inputs of the module `output` change when the other tensors in `chosen` do."""
    task = zoo(name)
    net = copy.deepcopy(task.model)
    batch = task.rebuild(as_named(next(iter(task.train))))
    seen: list[torch.Tensor] = []
    net.get_submodule(output).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        task.loss(net, batch)
        for fqn, part in chosen.items():
            if not fqn.startswith(f"{output}."):
                index = torch.tensor(part.channels)
                net.get_parameter(fqn).index_add_(
                    part.dim or 0, index, net.get_parameter(fqn).index_select(part.dim or 0, index)
                )
        task.loss(net, batch)
    differs = (seen[0] != seen[1]).flatten(0, -2).any(0)
    return {int(c) for c in differs.nonzero().flatten()}


def check_heads(name: str, layer: str, output: str, heads: Sequence[int], sharing: Sequence[int]) -> None:
    """Doubling what some heads read with changes the result of these heads and of those that share it."""
    graph = built(name)
    chosen = pg.heads(graph, layer, heads)
    reached = pg.heads(graph, layer, sharing, of=["o"])[f"{output}.weight"]
    columns = range(graph.tensor(f"{output}.weight").shape[reached.dim]) if reached.dim is not None else None
    assert changed_inputs(name, output, chosen) == set(reached.channels or columns or ())
