"""Counts of operators and bytes, layer by layer, are those of the graphs that they stand for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from oracle import built

from pockgraph.cost.flops import node_flops
from pockgraph.cost.graph_memory import steps_of
from pockgraph.profile.graph_summary import graph_summary
from pockgraph.profile.profiler import profile_of


@pytest.mark.parametrize(("model", "optimizer"), [("mobilenet", "momentum"), ("transformer", "adamw")])
def test_a_plan_has_the_operators_and_bytes_of_its_pruned_graph(model: str, optimizer: str) -> None:
    graph = built(model, optimizer)
    profile = profile_of(graph)
    assert profile.has_layers
    draw = random.Random(model)
    for _ in range(3):
        some = draw.sample(profile.tensors, draw.randint(1, len(profile.tensors)))
        choice = {t.fqn: draw.choice([1.0, 0.5]) if t.channels else 1.0 for t in some}
        small = graph.prune(profile.plan(choice))
        layers = graph_summary(profile, choice)
        nodes, steps = steps_of(small)
        assert sum(layer.of().plan_operators for layer in layers) == len(nodes)
        assert sum(layer.of().plan_bytes for layer in layers) == sum(s.owns_bytes for s in steps)
        figures = profile.figures(choice)
        assert sum(layer.of().plan_flops for layer in layers) == figures.flops == sum(map(node_flops, nodes))
        own = Counter[str]()
        for node in nodes:
            own[node.meta["layer"]] += node_flops(node)
        for layer in layers:
            if layer.layer and not layer.added:  # what is added has no layer in the graph
                assert layer.of().plan_flops == own[layer.layer], layer.layer
        there = Counter(node.meta["layer"] for node in nodes if node.meta["phase"] == "forward")
        for layer in layers:
            assert layer.of("forward").plan_operators - layer.added.get("forward", 0) <= there[layer.layer]
        assert sum(layer.of().operators for layer in layers) == len(profile.operators)
        assert sum(layer.of().flops for layer in layers) == sum(o.flops for o in profile.operators)
        trained = {fqn: share for layer in layers for fqn, share in layer.trained.items()}
        assert trained.keys() == choice.keys()
        for i, tensor in enumerate(profile.tensors):
            if tensor.fqn in choice:
                assert trained[tensor.fqn] == profile.share(i, choice[tensor.fqn])
