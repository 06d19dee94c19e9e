"""Hand jobs out to an executor, a bounded number at once; what a dead process had is handed out again."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from typing import TypeVar

from ..errors import StudyError
from .local_processes import WorkerDied

J = TypeVar("J", bound=Hashable)
R = TypeVar("R")

MOST_DEATHS = 3  # of processes with the same job
TICK_S = 0.1
CHECK_S, ALONE_S = 2.0, 60.0  # how often workers are counted while none is done; how long there may be none


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
        StudyError: the executor is broken, has no worker any more, or its processes die whatever they do.
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
            for future in _finished(waiting, workers, tick):
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
                    result = WorkerDied(f"{MOST_DEATHS} worker processes ended while they did this. {e}")
                except _killed_on_a_cluster() as e:
                    result = WorkerDied(f"Several workers of the cluster ended while they did this. {e}")
                except (BrokenExecutor, CancelledError) as e:
                    raise StudyError(
                        f"The executor that does the work is broken ({str(e) or type(e).__name__}). What was "
                        "measured is kept; start it anew and call again to go on."
                    ) from e
                except ModuleNotFoundError as e:
                    if (e.name or "").partition(".")[0] != "pockgraph":
                        raise
                    raise StudyError(
                        f"A worker has no module {e.name}. Install pockui there, as it is here."
                    ) from e
                else:
                    worked = True
                # While Dask's future lives, its result is computed again if the worker that has it dies.
                del future
                yield job, result
    finally:
        for future in waiting:
            future.cancel()


def _finished(
    waiting: Mapping[Future[R], J], workers: Callable[[], int], tick: Callable[[], None]
) -> Iterator[Future[R]]:
    """Wait until there are some that are done, and give them up one by one, first ones first."""
    alone_since: float | None = None
    checked = time.monotonic()
    done: set[Future[R]] = set()
    while not done:
        done, _ = wait(waiting, timeout=TICK_S, return_when=FIRST_COMPLETED)
        tick()
        if not done and time.monotonic() - checked > CHECK_S:
            checked = time.monotonic()
            alone_since = None if workers() else alone_since or checked
            if alone_since is not None and checked - alone_since > ALONE_S:
                raise StudyError(
                    f"There has been no worker for {ALONE_S:.0f} s. What was measured is kept; start some "
                    "and call again to go on."
                )
    found = [f for f in waiting if f in done]
    done.clear()
    while found:
        yield found.pop(0)


def _killed_on_a_cluster() -> tuple[type[BaseException], ...]:
    """What Dask raises when it has handed a job out again and again, and each worker died."""
    scheduler = sys.modules.get("distributed.scheduler")
    return (scheduler.KilledWorker,) if scheduler is not None else ()
