"""The reference kernel: fixed work that says which state a machine is in. Needs numpy and nothing more.

Small matrix products show how fast the processor computes (its clock, heat, power mode), a copy of memory how
fast it moves data (whoever else uses the bus). Both are counted in processor time: waiting for a processor
is no state of the machine, and is told apart from a step by `processor_time`.

Step times are not divided by it: while a machine stays in one state, what the kernel varies by is its own
noise (docs/results/step-noise.md), and how much longer a step takes in another state it cannot know.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from ..strict_model import Strict

# Multi-threaded BLAS libraries compute products of this size in the calling thread.
MATRIX, PRODUCTS = 64, 150
COPIED_BYTES = 8 << 20
LEAST_CHANGE = 0.1  # smaller changes of the medians say nothing
# Clocks of processor time that tick in milliseconds are too coarse.
_FINE = time.get_clock_info("thread_time").resolution < 1e-4
_clock = time.thread_time if _FINE else time.perf_counter


class Timing(Strict):
    """Times of one part of the kernel: median and quartiles."""

    median_ms: float = Field(gt=0, allow_inf_nan=False)
    q1_ms: float = Field(gt=0, allow_inf_nan=False)
    q3_ms: float = Field(gt=0, allow_inf_nan=False)

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Timing:
        q1, median, q3 = statistics.quantiles(times_ms, n=4, method="inclusive")
        return cls(median_ms=median, q1_ms=q1, q3_ms=q3)

    def differs_from(self, other: Timing) -> bool:
        """Whether the medians differ by more than both scatter, and enough to matter."""
        change = abs(math.log(self.median_ms / other.median_ms))
        scatter = max(math.log(t.q3_ms / t.q1_ms) for t in (self, other))
        return change > max(math.log(1 + LEAST_CHANGE), 1.5 * scatter)


class Reference(Strict):
    """What the kernel took in one state of a machine.

    Attributes:
        matmul: of `PRODUCTS` products of float32 matrices of `MATRIX` rows and columns.
        stream: of copying `COPIED_BYTES`.
        samples: how often each was timed.
    """

    matmul: Timing
    stream: Timing
    samples: int = Field(gt=0)

    @property
    def ms(self) -> float:
        """Of both parts."""
        return self.matmul.median_ms + self.stream.median_ms

    def change_to(self, now: Reference) -> str:
        """How the machine differs from the state it was in then, in words; empty where it does not."""
        parts = (("computes", self.matmul, now.matmul), ("moves memory", self.stream, now.stream))
        found = []
        for what, then, later in parts:
            if then.differs_from(later):
                change = later.median_ms / then.median_ms - 1
                found.append(
                    f"it {what} in {later.median_ms:.2g} ms what took {then.median_ms:.2g} ms ({change:+.0%})"
                )
        return " and ".join(found)


class _Sample(NamedTuple):
    matmul_ms: float
    stream_ms: float


class ReferenceClock:
    """Times the kernel as often as it is asked to; about 3 ms on a desktop processor."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._a, self._b = draw.standard_normal((2, PRODUCTS, MATRIX, MATRIX), dtype=np.float32)
        self._product = np.empty_like(self._a)
        self._source = np.ones(COPIED_BYTES, np.uint8)
        self._copy = np.zeros_like(self._source)
        self._samples: list[_Sample] = []
        self._sample()  # the first one touches memory and starts libraries

    def tick(self) -> None:
        """Time it twice."""
        self._samples += (self._sample(), self._sample())

    def reading(self) -> Reference:
        """Of all ticks so far; at least one."""
        matmul, stream = zip(*self._samples)
        return Reference(matmul=Timing.of(matmul), stream=Timing.of(stream), samples=len(self._samples))

    def _sample(self) -> _Sample:
        start = _clock()
        np.matmul(self._a, self._b, out=self._product)
        middle = _clock()
        np.copyto(self._copy, self._source)
        return _Sample((middle - start) * 1e3, (_clock() - middle) * 1e3)


def reference_now(ticks: int = 10) -> Reference:
    """The state that this machine is in."""
    clock = ReferenceClock()
    for _ in range(ticks):
        clock.tick()
    return clock.reading()
