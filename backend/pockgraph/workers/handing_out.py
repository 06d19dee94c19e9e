"""Hand jobs out to an executor, a bounded number at once; what a dead process had is handed out again."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import TypeVar

from ..errors import StudyError
from .local_processes import WorkerDied

J = TypeVar("J", bound=Hashable)
R = TypeVar("R")

MOST_DEATHS = 3  # of processes with the same job
TICK_S = 0.1


def results(
    executor: Executor,
    run: Callable[[J], R],
    jobs: Iterable[J],
    workers: Callable[[], int],
    tick: Callable[[], None],
) -> Iterator[tuple[J, R | WorkerDied]]:
    """(job, its result) as they come; of a job that ended three processes, the last one's `WorkerDied`.

    What `run` or `tick` raises ends it, and what was handed out is cancelled.

    Args:
        run: called there with each job; both are pickled unless the executor is this process.
        jobs: read one by one, as they can be handed out.
        workers: how many jobs the executor works on at once.
        tick: called at least every tenth of a second, unless the executor is this process.

    Raises:
        StudyError: the executor is broken, or its processes die whatever they do.
    """
    waiting: dict[Future[R], J] = {}
    deaths: Counter[J] = Counter()
    again: deque[J] = deque()
    source = iter(jobs)
    worked = False
    try:
        while True:
            room = max(1, workers()) - len(waiting)
            while room > 0 and (job := again.popleft() if again else next(source, None)) is not None:
                waiting[executor.submit(run, job)] = job
                room -= 1
            if not waiting:
                return
            done = set()
            while not done:
                done, _ = wait(waiting, timeout=TICK_S, return_when=FIRST_COMPLETED)
                tick()
            for future in [f for f in waiting if f in done]:
                job = waiting.pop(future)
                try:
                    result = future.result()
                except WorkerDied as e:
                    deaths[job] += 1
                    if deaths[job] < MOST_DEATHS:
                        again.append(job)
                        continue
                    if not worked:
                        raise StudyError(
                            f"Worker processes end before they have done anything. {e} What they printed "
                            "says more; workers=1 works in this process."
                        ) from e
                    yield job, WorkerDied(f"{MOST_DEATHS} worker processes ended while they did this. {e}")
                except _killed_on_a_cluster() as e:
                    yield job, WorkerDied(f"Several workers of the cluster ended while they did this. {e}")
                except (BrokenExecutor, CancelledError) as e:
                    raise StudyError(
                        f"The executor that does the work is broken ({str(e) or type(e).__name__}). What was "
                        "measured is kept; start it anew and call again to go on."
                    ) from e
                else:
                    worked = True
                    yield job, result
    finally:
        for future in waiting:
            future.cancel()


def _killed_on_a_cluster() -> tuple[type[BaseException], ...]:
    """What Dask raises when it has handed a job out again and again, and each worker died."""
    scheduler = sys.modules.get("distributed.scheduler")
    return (scheduler.KilledWorker,) if scheduler is not None else ()
