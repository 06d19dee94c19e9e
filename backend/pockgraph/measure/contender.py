"""A contender's side: it loads, takes as many steps as it is told to, and answers with their times."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ..runtime.process_memory import peak_resident_bytes, reset_peak, resident_bytes
from .processor_time import ProcessorTime, net_ms

ANSWER = "pockgraph.measure:"  # lines of standard output without it are what the process printed before
LEARNING_RATE = 1e-4  # of measured steps: the work is the same at any rate, and this one cannot diverge
Step = Callable[[], object]


def serve_steps(load: Callable[[], Step], imported_bytes: Callable[[int], int] | None = None) -> None:
    """Load, then take as many steps as each line of standard input says, until it ends.

    Args:
        load: makes the step; called when everything that is no model is imported.
        imported_bytes: from the loaded process's memory to what it would be without the model, for
            contenders that cannot import first and load later.
    """
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    imported = resident_bytes()
    start = time.perf_counter()
    step = load()
    load_ms = (time.perf_counter() - start) * 1e3
    loaded, whole_peak = resident_bytes(), peak_resident_bytes()
    if loaded is not None and imported_bytes is not None:
        imported = imported_bytes(loaded)
    can_measure = loaded is not None and reset_peak()

    def memory() -> dict[str, int | None] | None:
        peak = peak_resident_bytes()
        if not can_measure or peak is None:
            return None
        return {
            "imported_bytes": imported, "loaded_bytes": loaded, "peak_bytes": peak,
            "whole_peak_bytes": max(whole_peak or 0, peak),
        }  # fmt: skip

    first_step_ms, _ = _timed(step)
    _answer(answers, load_ms=load_ms, first_step_ms=first_step_ms, memory=memory())
    for line in sys.stdin:
        taken = [_timed(step) for _ in range(int(line))]
        _answer(answers, times_ms=[wall for wall, _ in taken], net_ms=[n for _, n in taken], memory=memory())


def _timed(step: Step) -> tuple[float, float | None]:
    """Wall-clock time, and what it would be without waiting for a processor (see `net_ms`)."""
    before, start = ProcessorTime.so_far(), time.perf_counter()
    step()
    wall_ms = (time.perf_counter() - start) * 1e3
    return wall_ms, net_ms(wall_ms, before, ProcessorTime.so_far())


def _answer(stream: Any, **content: Any) -> None:
    stream.write(f"{ANSWER}{json.dumps(content)}\n")
    stream.flush()
