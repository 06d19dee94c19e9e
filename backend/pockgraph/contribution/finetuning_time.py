"""How long fine-tuning takes on a backend, from a few timed steps; an analysis takes the faster one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from ..plan import Plan
from .finetuning import FinetuningBackend


@dataclass(frozen=True)
class TimeEstimate:
    """What one plan costs on a backend, in seconds."""

    prepare_s: float
    step_s: float
    evaluate_s: float

    def total_s(self, runs: int, steps: int, evaluations: int) -> float:
        """Preparing once, then so many runs of steps and validation batches."""
        return self.prepare_s + runs * (steps * self.step_s + evaluations * self.evaluate_s)

    @classmethod
    def of(
        cls, backend: FinetuningBackend, plan: Plan, seed: int, lr: float, tick: Callable[[], None]
    ) -> Self:
        """Time a few steps; the first pass, which fills caches and allocates, does not count."""
        start = time.perf_counter()
        tuner = backend.prepare(plan)
        prepare_s = time.perf_counter() - start
        try:
            _median_s(tuner.train(seed, lr), tick)
            tuner.reset({})
            step_s = _median_s(tuner.train(seed, lr), tick)
            _median_s(tuner.evaluate(), tick)
            return cls(prepare_s, step_s, _median_s(tuner.evaluate(), tick))
        finally:
            tuner.close()


def _median_s(work: Iterable[Any], tick: Callable[[], None], count: int = 5) -> float:
    times = []
    start = time.perf_counter()
    for _ in itertools.islice(work, count):
        times.append(time.perf_counter() - start)
        tick()
        start = time.perf_counter()
    return sorted(times)[len(times) // 2]
