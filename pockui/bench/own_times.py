"""This project's own times on a network: to prune for another plan, to answer a budget query."""

from __future__ import annotations

import random
import statistics
import time

import pockgraph as pg

from .prepare import PLANS

QUERIES = 10
RATIOS = (1.0, 0.5, 0.25, 0.125)


def prune_ms(graph: pg.TrainGraph) -> float:
    """To prune a built graph, for the slowest of three plans."""
    slowest = 0.0
    for name in PLANS:
        plan = getattr(pg.Plan, name)(graph)
        start = time.perf_counter()
        graph.prune(plan)
        slowest = max(slowest, (time.perf_counter() - start) * 1e3)
    return slowest


def query_ms(graph: pg.TrainGraph) -> float:
    """Median of a search over a full table of contributions, for budgets from head to full.

    The gains are drawn, with noise as measured ones have it: the search runs on a model's costs, and
    measuring its contributions would take the benchmark an hour.
    """
    from pockgraph.contribution import Contribution, Gain
    from pockgraph.plan.presets import biases, head
    from pockgraph.profile.profiler import profile_of
    from pockgraph.search import search

    draw = random.Random(0)
    profile, top = profile_of(graph), head(graph)

    def gain(most: float, share: float) -> Gain:
        return Gain(most * share**0.5 + draw.gauss(0, 0.005), 0.005, 3)

    weights = {}
    for row in graph.tensors:
        if row.fqn not in top and row.kind == "weight":
            most = max(0.0, draw.gauss(0.03, 0.02))
            weights[row.fqn] = {q: gain(most, q) for q in RATIOS if q == 1 or row.channels}
    order = tuple(r.fqn for r in biases(graph))
    last = {k: gain(0.04, k / len(order)) for k in range(1, len(order) + 1)}
    contribution = Contribution(Gain(0.8, 0.01, 3), weights, last, order, tuple(top))
    low, high = profile.figures(dict.fromkeys(top, 1.0)).peak_bytes, graph.peak_bytes
    times = []
    for i in range(1, QUERIES + 1):
        budget = pg.Budget(peak_bytes=round(low + (high - low) * i / QUERIES))
        start = time.perf_counter()
        search(profile, contribution, budget)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)
