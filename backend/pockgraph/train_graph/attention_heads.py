"""Attention heads as units of a plan: which channels of which projections belong to a head.

    q = x Wq   k = x Wk   v = x Wv        a head: some output channels of Wq, Wk and Wv,
    y = (softmax(q kᵀ) v) Wo                      the input channels of Wo that read its result

No layer's name or layout is assumed. An attention is a softmax between two batched products; which
channels a head reads and writes is what differentiating the operators between a projection and a
product says. So fused projections, grouped queries (several heads share a k and a v) and rotary
positions need no rule of their own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..errors import PlanError, listing, require, suggest
from ..ir.graph import Graph, Role, aten
from ..plan import Trained
from .train_graph import TrainGraph

PARTS = ("q", "k", "v", "o")
PRODUCTS = (aten.mm.default, aten.addmm.default)


@dataclass(frozen=True)
class _Attention:
    """Scores [N * H, T, S] = bmm(q, kᵀ), their softmax [N, H, T, S], and its product with v."""

    scores: fx.Node
    softmax: fx.Node
    mixed: fx.Node

    @property
    def layer(self) -> str:
        return self.softmax.meta["layer"]

    @property
    def heads(self) -> int:
        return int(self.softmax.meta["val"].shape[1])


def heads(
    graph: TrainGraph, layer: str, heads: Iterable[int], *, of: Sequence[str] = PARTS
) -> dict[str, Trained]:
    """The channels of some attention heads, for `Plan.of`.

        Plan.of(graph, heads(graph, "model.layers.3.self_attn", [0, 2]) | {"lm_head.weight": 1.0})

    Args:
        graph: from `build`.
        layer: the attention's module, or one that holds no other attention.
        heads: query heads, counted from 0. Where several share a key and value, that one is trained
            along with any of them.
        of: which projections: `"q"`, `"k"`, `"v"` (weights' and biases' output channels) and `"o"` (the
            output projection's input channels; its bias belongs to all heads and stays frozen).

    Returns:
        FQN -> channels.

    Raises:
        PlanError: no attention there or several, a head or projection that does not exist, or heads
            that do not keep to channels of their own.
    """
    require(PlanError, "graph", graph, TrainGraph, "Pass what pockgraph.build(task) returns.")
    require(PlanError, "layer", layer, str, "Pass the name of the attention's module.")
    require(PlanError, "of", of, Sequence, "Pass a tuple of projections, such as ('q', 'k').")
    try:
        wanted = sorted({operator.index(h) for h in heads})
    except TypeError:
        raise PlanError(
            f"heads={str(heads)[:40]!r} are no numbers of heads. Pass a list such as [0, 2]."
        ) from None
    attention = _find(graph.gradients, layer)
    bad = [h for h in wanted if not 0 <= h < attention.heads]
    if bad or not wanted:
        got = f"got {bad}" if bad else "none is named"
        raise PlanError(f"{attention.layer!r} has heads 0 to {attention.heads - 1}; {got}.")
    unknown = [p for p in of if p not in PARTS]
    if unknown or not of:
        known = ", ".join(map(repr, PARTS))
        raise PlanError(f"An attention has the projections {known}; got {list(of)}.")

    queries = _input(graph, attention, "q")  # whatever is asked for: it proves that heads can be told apart
    chosen: dict[tuple[str, int], set[int]] = {}
    for part in (p for p in PARTS if p in of):
        found = (
            queries if part == "q"
            else _output(graph.gradients, attention) if part == "o"
            else _input(graph, attention, part)
        )  # fmt: skip
        for (fqn, dim), by_head in found.items():
            chosen.setdefault((fqn, dim), set()).update(*(by_head[h] for h in wanted))
    result: dict[str, Trained] = {}
    for (fqn, dim), channels in chosen.items():
        if fqn in result:
            raise PlanError(f"{fqn!r} is more than one projection of {attention.layer!r}: name its channels.")
        whole = len(channels) == graph.tensor(fqn).shape[dim]
        result[fqn] = Trained() if whole else Trained(dim=dim, channels=tuple(sorted(channels)))
    return result


def attentions(graph: TrainGraph) -> dict[str, int]:
    """The modules whose heads can be named -> how many heads each has, in forward order."""
    return {a.layer: a.heads for a in _all(graph.gradients)}


# ---------------------------------------------------------------- finding the attention


def _all(graph: Graph) -> list[_Attention]:
    return [a for node in graph.nodes("forward") if (a := _attention(node)) is not None]


def _find(graph: Graph, layer: str) -> _Attention:
    found = _all(graph)
    inside = [a for a in found if not layer or a.layer == layer or a.layer.startswith(f"{layer}.")]
    names = list(dict.fromkeys(a.layer for a in found))
    if not inside:
        known = f" Attentions are {listing(names)}." if names else " The model has none with heads."
        raise PlanError(f"There is no attention in layer {layer!r}.{suggest(layer, names)}{known}")
    if len(inside) > 1:
        raise PlanError(
            f"Layer {layer!r} holds {len(inside)} attentions, name one: {listing([a.layer for a in inside])}."
        )
    return inside[0]


def _attention(node: fx.Node) -> _Attention | None:
    if node.target is not aten._softmax.default or node.meta["val"].ndim != 4:
        return None
    product = lambda n: n.target is aten.bmm.default  # noqa: E731
    scores = _nearest(node.all_input_nodes, product, lambda n: n.all_input_nodes)
    mixed = _nearest(list(node.users), product, lambda n: list(n.users))
    return _Attention(scores[0], node, mixed[0]) if len(scores) == 1 and len(mixed) == 1 else None


def _nearest(
    start: Iterable[fx.Node],
    wanted: Callable[[fx.Node], bool],
    onward: Callable[[fx.Node], Iterable[fx.Node]],
) -> list[fx.Node]:
    """The first such operators of the forward pass on every way from `start`."""
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    todo = list(start)
    while todo:
        node = todo.pop(0)
        if node in seen or node.op != "call_function" or node.meta["phase"] != "forward":
            continue
        seen.add(node)
        if wanted(node):
            found[node] = None
        elif node.target not in PRODUCTS and node.target is not aten.bmm.default:
            todo.extend(onward(node))
    return list(found)


# ---------------------------------------------------------------- its projections

Channels = dict[tuple[str, int], list[set[int]]]  # (tensor, dimension) -> each head's channels


def _input(graph: TrainGraph, attention: _Attention, part: str) -> Channels:
    """The output channels of a q, k or v projection that each head reads."""
    product, at = {"q": (attention.scores, 0), "k": (attention.scores, 1), "v": (attention.mixed, 1)}[part]
    operand: Any = product.args[at]
    made = _only(_nearest([operand], lambda n: n.target in PRODUCTS, lambda n: n.all_input_nodes), part)
    x, y = _computed_from(graph.gradients, made, operand)
    by_head = []
    for h in range(attention.heads):
        mine = y.unflatten(0, (-1, attention.heads))[:, h]
        (reads,) = torch.autograd.grad(mine, x, _drawn(mine.shape), retain_graph=True)
        by_head.append({int(c) for c in reads.flatten(0, -2).any(0).nonzero().flatten()})
    if part == "q":
        _own_channels(by_head, attention)
    fqn, dim = _weight(graph.gradients, made, part)
    found = {(fqn, 1 - dim): by_head}
    bias = _bias(graph.gradients, made)
    return found | ({(bias, 0): by_head} if bias else {})


def _output(graph: Graph, attention: _Attention) -> Channels:
    """The input channels of the output projection that each head's result reaches."""
    users = list(attention.mixed.users)
    reader = _only(_nearest(users, lambda n: n.target in PRODUCTS, lambda n: list(n.users)), "o")
    operand: Any = reader.args[-2]
    x, y = _computed_from(graph, attention.mixed, operand)
    # The transposed derivative is linear in `v`; its own derivative by `v` says what x reaches.
    v = _drawn(y.shape).requires_grad_()
    (back,) = torch.autograd.grad(y, x, v, create_graph=True)
    by_head = []
    for h in range(attention.heads):
        mine = back.unflatten(0, (-1, attention.heads))[:, h]
        (reached,) = torch.autograd.grad(mine, v, _drawn(mine.shape), retain_graph=True)
        by_head.append({int(c) for c in reached.flatten(0, -2).any(0).nonzero().flatten()})
    _own_channels(by_head, attention)
    return {_weight(graph, reader, "o"): by_head}


def _only(nodes: list[fx.Node], part: str) -> fx.Node:
    if len(nodes) == 1:
        return nodes[0]
    raise PlanError(
        f"The attention's {part!r} is made by {len(nodes)} linear layers, not by one, so its heads are "
        "unknown. Leave it out (`of=`), or name channels with `Trained`."
    )


def _own_channels(by_head: list[set[int]], attention: _Attention) -> None:
    if sum(map(len, by_head)) != len(set().union(*by_head)):
        raise PlanError(
            f"The heads of {attention.layer!r} have no channels of their own: its projections mix them. "
            "Name channels with `Trained`."
        )


def _weight(graph: Graph, product: fx.Node, part: str) -> tuple[str, int]:
    """FQN and input dimension of the weight `[in, out]`, or transposed, of a linear layer."""
    weight: Any = product.args[-1]
    dim = 0
    if weight.target is aten.permute.default:
        weight, dim = weight.args[0], 1
    fqn = _parameter(graph, weight)
    if not fqn:
        raise PlanError(f"The attention's {part!r} projection ({product.name}) multiplies by no parameter.")
    return fqn, dim


def _bias(graph: Graph, product: fx.Node) -> str:
    if product.target is aten.addmm.default:
        return _parameter(graph, product.args[0])
    for user in product.users:
        wide = user if user.target is not aten.reshape.default else next(iter(user.users), user)
        for operand in wide.args if wide.target is aten.add.Tensor else ():
            if isinstance(operand, fx.Node) and operand.meta["val"].ndim == 1:
                return _parameter(graph, operand)
    return ""


def _parameter(graph: Graph, node: Any) -> str:
    """The FQN of a trainable parameter's input, or nothing."""
    trainable = {s.fqn for s in graph.outputs if s.role is Role.GRAD}
    for slot, placeholder in zip(graph.inputs, graph.placeholders.values()):
        if placeholder is node and slot.role is Role.PARAM and slot.fqn in trainable:
            return slot.fqn
    return ""


def _computed_from(graph: Graph, start: fx.Node, end: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Random values of `start`, and those of `end` that the graph makes of them, differentiable."""
    between = _between(start, end)
    named = {node: graph.values.get(name) for name, node in graph.placeholders.items()}

    def outside(node: fx.Node) -> torch.Tensor:
        val, value = node.meta["val"], named.get(node)
        if value is not None:
            return value.detach()
        return torch.ones(val.shape, dtype=val.dtype)  # a mask that leaves everything, a scale of one

    x = _drawn(start.meta["val"].shape).requires_grad_()
    values: dict[fx.Node, Any] = {start: x}
    for node in graph.nodes("forward"):
        if node in between:
            at = lambda n: values[n] if n in values else outside(n)  # noqa: E731
            args, kwargs = fx.map_arg((node.args, node.kwargs), at)
            values[node] = node.target(*args, **kwargs)  # pyright: ignore
    return x, values[end]


def _drawn(shape: Sequence[int]) -> torch.Tensor:
    """Positive numbers of no pattern, so that nothing cancels; without touching the caller's generator."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0)) + 0.5


def _between(start: fx.Node, end: fx.Node) -> set[fx.Node]:
    """The operators on the ways from `start` to `end`, `end` included."""
    above: set[fx.Node] = set()
    todo = [end]
    while todo:
        node = todo.pop()
        if node not in above and node is not start:
            above.add(node)
            todo.extend(node.all_input_nodes)
    below: set[fx.Node] = set()
    todo = list(start.users)
    while todo:
        node = todo.pop()
        if node in above and node not in below:
            below.add(node)
            todo.extend(node.users)
    return below
