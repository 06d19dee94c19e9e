"""Where measurements are taken: in this process, in others of this machine, or by an executor that is given.

Other processes make the task anew from its reference, so a task without one is measured here. Unless it was
said how many, they are used where that pays: with cores enough, and much left to do.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor

from ..machine import available_memory_bytes, usable_cores
from ..runtime.process_memory import peak_resident_bytes
from ..workers.handing_out import results
from ..workers.in_this_process import InThisProcess
from ..workers.local_processes import LocalProcesses, WorkerDied
from .measuring import Job, Measurer, Taken
from .worker import Assignment, versions

# PyTorch's own threads keep fewer cores about as busy as processes would.
FEWEST_CORES = 4
# A process imports PyTorch, builds the graph and fills its own cache before it measures anything.
PAYS_S = 120.0


class Workplace:
    """Takes jobs and gives results, for one analysis.

    Args:
        executor: of the user's; None: this process and others of this machine.
        workers: jobs at once; None: this process until `expect` finds that others pay.
        tick: called often; it may raise to stop.

    Attributes:
        here: whether jobs are done in this process, one after the other.
        chosen: whether `expect` chose processes by itself.
    """

    def __init__(
        self, measurer: Measurer, executor: Executor | None, workers: int | None, tick: Callable[[], None]
    ) -> None:
        self._measurer, self._tick, self._wanted = measurer, tick, workers
        self._given = executor
        self._executor: Executor = InThisProcess()
        self.here, self.chosen = True, False
        self._number = uuid.uuid4().hex
        self._fixed = executor is not None or workers is not None
        self._reference = measurer.task.reference
        if self._reference.startswith("__main__:"):  # another process has another one
            self._reference = ""
        if executor is None and workers in (None, 1):
            return
        if not self._reference:
            warnings.warn(
                f"Task {measurer.task.name!r} was made in this process, so others cannot make it: it is "
                "measured here. Put it into a module and give it its name: "
                "Task(…, reference='my_project:task').",
                stacklevel=2,
            )
        elif executor is not None:
            self.here, self._executor = False, executor
        else:
            self._start(workers or 1)

    @property
    def workers(self) -> int:
        """How many jobs are worked on at once."""
        if self.here:
            return 1
        count: int = getattr(self._executor, "workers", self._wanted or usable_cores())
        return min(count, self._wanted or count)

    def expect(self, left_s: float | None) -> None:
        """Begin with processes if these pay, unless it was said where to work.

        Args:
            left_s: what the rest would take in this process, None if that is not known.
        """
        if self._fixed or not self.here or not self._reference or (left_s or 0.0) < PAYS_S:
            return
        cores = usable_cores()
        fitting = min(cores, self._fitting())
        if cores >= FEWEST_CORES and fitting > 1:
            self.chosen = True
            self._start(fitting)

    def stay_here(self, why: Exception) -> None:
        """Back into this process, as other ones cannot measure the same."""
        warnings.warn(f"{why} The analysis goes on in its own process.", stacklevel=2)
        self.close()
        self._executor, self.here, self._fixed = InThisProcess(), True, True

    def results(self, jobs: Iterable[Job], target: str) -> Iterator[tuple[Job, list[Taken] | WorkerDied]]:
        """Results as they come, see `handing_out.results`."""

        def run(job: Job) -> list[Taken]:
            return self._measurer.take(job, target, self._tick)

        do = run if self.here else self._assignment(target)
        return results(self._executor, do, jobs, lambda: self.workers, self._tick)

    def _assignment(self, target: str) -> Assignment:
        m = self._measurer
        threads = self._executor.threads if isinstance(self._executor, LocalProcesses) else None
        return Assignment(
            self._number, self._reference, m.graph.optimizer.to_dict(), m.settings, target, threads, m.marks,
            versions(),
        )  # fmt: skip

    def _start(self, workers: int) -> None:
        self._measurer.release()
        self._executor = LocalProcesses(workers, max(1, usable_cores() // workers))
        self.here = False

    def _fitting(self) -> int:
        """How many processes like this one the free memory has room for."""
        free, own = available_memory_bytes(), peak_resident_bytes()
        if free is None or own is None:
            return usable_cores()
        return free // (own + self._measurer.settings.cache_bytes)

    def close(self) -> None:
        """End the processes that were started here, at once."""
        self._measurer.release()
        if self._executor is not self._given:
            self._executor.shutdown(cancel_futures=True)
