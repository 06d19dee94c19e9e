"""Bytes alive over a schedule: by hand, and against following the rules step by step."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import numpy as np
import pytest

from pockgraph.cost.liveness import Step, liveness, schedule_of


def step(storage: int, owns: int, *operands: int, elementwise: bool = False, forward: bool = True) -> Step:
    return Step(f"s{storage}", storage, owns, operands, elementwise, forward)


def followed(steps: Sequence[Step], kept: Collection[int]) -> tuple[list[int], int]:
    """The same, one step after the other."""
    last: dict[int, int] = {}
    for i, one in enumerate(steps):
        last |= dict.fromkeys(one.operands, i)
        last.setdefault(one.storage, i)
    boundary = max((i for i, one in enumerate(steps) if one.forward), default=-1)
    alive: dict[int, int] = {}
    curve, saved = [], 0
    for i, one in enumerate(steps):
        dying = {s for s, at in last.items() if at == i and s not in kept}
        reuse = one.elementwise and any(
            alive.get(s) == one.owns_bytes for s in dying & set(one.operands) - {one.storage}
        )
        if one.owns_bytes:
            alive[one.storage] = one.owns_bytes
        curve.append(sum(alive.values()) - (one.owns_bytes if reuse else 0))
        for s in dying:
            alive.pop(s, None)
        if i == boundary:
            saved = sum(alive.values())
    return curve, saved


def test_a_step_writes_over_an_operand_of_its_size_that_dies_there() -> None:
    a, b = step(0, 8), step(1, 8, 0, elementwise=True)
    assert liveness(schedule_of([a, b])).live_bytes.tolist() == [8, 8]
    assert liveness(schedule_of([a, b, step(2, 4, 0)])).live_bytes.tolist() == [8, 16, 12]
    assert liveness(schedule_of([a, step(1, 4, 0, elementwise=True)])).live_bytes.tolist() == [8, 12]
    assert liveness(schedule_of([a, b]), kept=[0]).live_bytes.tolist() == [8, 16]


def test_a_view_keeps_alive_what_it_looks_at() -> None:
    steps = [step(0, 8), step(0, 0, 0), step(2, 2, forward=False), step(3, 1, 0, forward=False)]
    curve = liveness(schedule_of(steps))
    assert curve.live_bytes.tolist() == [8, 8, 10, 9]
    assert curve.saved_bytes == 8


def test_a_schedule_without_steps_holds_no_bytes() -> None:
    curve = liveness(schedule_of([]))
    assert (curve.live_bytes.tolist(), curve.saved_bytes) == ([], 0)


@pytest.mark.parametrize("seed", range(8))
def test_any_schedule_is_as_the_rules_followed_step_by_step(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(40):
        steps: list[Step] = []
        boundary = draw.randint(0, 20)
        for i in range(draw.randint(1, 24)):
            known = [s.storage for s in steps]
            operands = tuple(draw.sample(known, min(len(known), draw.randint(0, 3))))
            view = bool(operands) and draw.random() < 0.3
            owns = 0 if view else draw.choice([0, 4, 4, 8, 12])
            storage = draw.choice([operands[0], -1]) if view else i
            steps.append(
                step(storage, owns, *operands, elementwise=draw.random() < 0.6, forward=i < boundary)
            )
        kept = draw.sample(range(len(steps)), draw.randint(0, 2) if len(steps) > 1 else 0)
        kept = [s for s in kept if any(one.storage == s for one in steps)]
        curve = liveness(schedule_of(steps), kept)
        assert (curve.live_bytes.tolist(), curve.saved_bytes) == followed(steps, kept)
        assert curve.live_bytes.dtype == np.int64
