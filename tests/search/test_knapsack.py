"""The multiple-choice knapsack against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pockgraph.search.knapsack import Knapsack, solve


def tried(problem: Knapsack, room: np.ndarray) -> float | None:
    """The most gain of all solutions."""
    classes = np.split(np.arange(len(problem.gain)), problem.starts[1:])
    gains = [
        problem.gain[list(items)].sum()
        for items in itertools.product(*classes)
        if np.all(problem.cost[list(items)].sum(0) <= room * (1 + 1e-12))
    ]
    return max(gains, default=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Knapsack, np.ndarray]:
    """Small ones; gains in coarse steps, so that many are the same, or fine ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rows, items = draw(st.integers(0, 3)), sum(sizes)
    step = draw(st.sampled_from([1e-9, 0.25]))
    gain = np.round(rng.normal(0.3, 0.5, items) / step) * step
    cost = np.round(rng.gamma(1.0, 30.0, (items, rows)) / (10 if step > 0.1 else 1)) * draw(
        st.sampled_from([1, 1e6])
    )
    starts = np.cumsum([0, *sizes[:-1]])
    least = np.minimum.reduceat(cost, starts).sum(0)
    most = np.maximum.reduceat(cost, starts).sum(0)
    return Knapsack(gain, cost, starts), least + draw(st.floats(-0.1, 1.1)) * (most - least)


@settings(max_examples=300)
@given(problems())
def test_no_solution_is_better(drawn: tuple[Knapsack, np.ndarray]) -> None:
    problem, room = drawn
    found, best = solve(problem, room), tried(problem, room)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.gain == pytest.approx(best, abs=1e-9)
    assert np.all(problem.cost[found.items].sum(0) <= room * (1 + 1e-9))
    assert np.array_equal(
        np.searchsorted(problem.starts, found.items, "right"), np.arange(len(problem.starts)) + 1
    )
    assert solve(problem, room, best) is None
    above = solve(problem, room, best - 1e-6)
    assert above is not None
    assert above.gain == pytest.approx(best, abs=1e-9)


def test_a_hundred_classes_are_solved_within_their_bound() -> None:
    rng = np.random.default_rng(0)
    most = rng.normal(0.03, 0.02, (100, 1))
    share = np.array([0.0, 0.0625, 0.125, 0.25, 0.5, 1.0])
    gain = (most * share**0.5 + rng.normal(0, 0.005, (100, 6)) * (share > 0)).ravel()
    cost = (rng.gamma(1.0, 1e6, (100, 1)) * share).reshape(-1, 1)
    problem = Knapsack(gain, cost, np.arange(0, 600, 6))
    last = -np.inf
    for part in np.linspace(0.05, 0.95, 10):
        room = part * np.maximum.reduceat(cost, problem.starts).sum(0)
        found = solve(problem, room)
        assert found is not None
        assert last <= found.gain
        assert cost[found.items].sum() <= room[0]
        last = found.gain
