"""Training keeps to its share of the time, and rests when it is told to. The clock is made up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pockgraph.errors import LearnerError
from pockgraph.runtime.learner.background import Background
from pockgraph.runtime.learner.budget import LearnerBudget
from pockgraph.runtime.learner.rounds import Work


class Device:
    """Work that takes the time that it is said to take, on a clock that only work and rests move.

    Attributes:
        spans: (start, end) of each piece of work.
    """

    def __init__(self, budget: LearnerBudget, pieces_s: list[float]) -> None:
        self.now, self.spans, self.pieces_s = 0.0, list[tuple[float, float]](), pieces_s
        self.noted: list[tuple[str, str]] = []
        self.after_rest: Callable[[], None] = lambda: None
        self.background = Background(
            self._work, budget, lambda kind, why: self.noted.append((kind, why)), lambda: self.now, self._rest
        )

    def _work(self) -> Work:
        for seconds in self.pieces_s:
            start, self.now = self.now, self.now + seconds
            self.spans.append((start, self.now))
            yield
        return "promoted"

    def _rest(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.after_rest()

    def busy_s(self, start: float, end: float) -> float:
        return sum(max(0.0, min(b, end) - max(a, start)) for a, b in self.spans)


@given(
    st.lists(st.floats(0.001, 3.0), min_size=1, max_size=30),
    st.floats(0.01, 1.0),
    st.one_of(st.none(), st.floats(10, 60_000)),
)
def test_in_any_stretch_of_time_work_is_its_share_and_one_piece(
    pieces_s: list[float], ratio: float, ms: float | None
) -> None:
    device = Device(LearnerBudget(duty_ratio=ratio, ms_per_minute=ms), pieces_s)
    assert device.background.work_through() == "promoted"
    assert len(device.spans) == len(pieces_s)
    share = min(ratio, math.inf if ms is None else ms / 60_000)
    starts = [a for a, _ in device.spans]
    for start in starts:
        for length in (1.0, 60.0, device.now - start):
            allowed = share * length + max(pieces_s)
            assert device.busy_s(start, start + length) <= allowed * (1 + 1e-6)


def test_a_whole_duty_never_rests() -> None:
    device = Device(LearnerBudget(duty_ratio=1.0), [0.5, 0.25])
    device.background.work_through()
    assert device.now == 0.75


def test_it_works_when_idle_only() -> None:
    idle = iter([False, False, True, False, True, True])
    device = Device(LearnerBudget(duty_ratio=1.0, idle=lambda: next(idle, True)), [1.0, 1.0])
    device.background.work_through()
    assert [start for start, _ in device.spans] == [2.0, 4.0]
    assert device.noted == []  # a device is idle again and again: nothing for a journal


def test_a_pause_is_noted_once_with_its_reason() -> None:
    heat = iter(["", "72 °C", "72 °C", None])
    device = Device(LearnerBudget(duty_ratio=1.0, pause=lambda: next(heat, None)), [1.0, 1.0])
    device.background.work_through()
    assert device.noted == [("paused", "72 °C"), ("resumed", "")]
    assert [start for start, _ in device.spans] == [0.0, 3.0]


def test_while_the_applications_function_fails_nothing_is_trained() -> None:
    asked = []

    def idle() -> bool:
        asked.append(1)
        if len(asked) < 3:
            raise RuntimeError("no sensor")
        return True

    device = Device(LearnerBudget(duty_ratio=1.0, idle=idle), [1.0])
    device.background.work_through()
    assert device.spans == [(2.0, 3.0)]
    assert device.noted[0] == ("paused", "the budget's function failed: no sensor")


def test_it_stops_and_abandons_between_two_pieces() -> None:
    device = Device(LearnerBudget(duty_ratio=0.5), [1.0] * 5)
    device.after_rest = device.background.stop
    assert device.background.work_through() is None
    assert len(device.spans) == 1
    device = Device(LearnerBudget(duty_ratio=0.5), [1.0] * 5)
    device.after_rest = device.background.abandon
    assert device.background.work_through() is None
    assert len(device.spans) == 1


@pytest.mark.parametrize("wrong", [{"duty_ratio": 0}, {"duty_ratio": 1.5}, {"ms_per_minute": math.nan}])
def test_a_share_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(LearnerError, match=next(iter(wrong))):
        LearnerBudget(**wrong)
