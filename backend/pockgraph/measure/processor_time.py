"""Processor time of this process, and how long its threads waited for a processor.

On a machine that does other work, too, most of a step's wall-clock time can be waiting. Linux's scheduler
says how much, for each thread; what is left is the time that the step takes when nothing else runs.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from ..machine import usable_cores

_TASKS = "/proc/self/task"  # Linux's


@dataclass(frozen=True)
class ProcessorTime:
    """Since the process started, over all its threads.

    Attributes:
        ran_ms: on a processor.
        waited_ms: ready to run, while the processors did something else; None where the system does not say.
    """

    ran_ms: float
    waited_ms: float | None

    @classmethod
    def so_far(cls) -> Self:
        return cls(time.process_time() * 1e3, _waited_ms())


def net_ms(wall_ms: float, before: ProcessorTime, after: ProcessorTime) -> float | None:
    """What `wall_ms` of this process would have been without waiting for others; None where that is unknown.

    What one thread waits at a time is taken out, and of several threads that wait at once their mean. Threads
    that outnumber the processors wait for each other: that is no other process's doing, and stays.
    """
    if before.waited_ms is None or after.waited_ms is None:
        return None
    ran, waited = after.ran_ms - before.ran_ms, after.waited_ms - before.waited_ms
    if waited <= 0 or ran <= 0:
        return wall_ms
    threads = max(1.0, (ran + waited) / wall_ms)  # that wanted to run, on average
    return min(wall_ms, max(wall_ms - waited / threads, ran / usable_cores()))


def _waited_ms() -> float | None:
    ran_ns = waited_ns = 0
    try:
        for thread in os.listdir(_TASKS):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                with open(f"{_TASKS}/{thread}/schedstat", "rb") as file:
                    ran, waited, _ = map(int, file.read().split())
                ran_ns, waited_ns = ran_ns + ran, waited_ns + waited
    except (OSError, ValueError):
        return None
    return waited_ns / 1e6 if ran_ns else None  # a kernel without this account has no file, or says 0
