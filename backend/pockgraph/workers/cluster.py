"""A Dask cluster as an executor.

A worker of Dask does its jobs in a thread beside others, which draw from Python's `random` and change what a
trace relies on. So each has one plain process under it, for one job at a time, that ends when it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from ..errors import StudyError, reason
from .local_processes import LocalProcesses

T = TypeVar("T")

CONNECT_S, FIRST_WORKER_S = 10.0, 30.0


class Cluster(Executor):
    """The workers of a cluster. Dask itself hands out again what a worker had that died.

    Args:
        client: a connected `distributed.Client`.
        address: the scheduler's.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._executor = client.get_executor(pure=False)  # the same job may be handed out twice

    @property
    def workers(self) -> int:
        """How many there are; they may come and go.

        Raises:
            StudyError: the scheduler is gone.
        """
        try:
            return len(self._client.ncores())
        except OSError as e:
            raise StudyError(
                f"The cluster at {self._address} answers no more ({reason(e)}). What was measured is kept; "
                "call again when it is back, to go on."
            ) from e

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self._executor.submit(_in_child_process, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._executor.shutdown(wait=wait)


@contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """Connect to a Dask scheduler and wait for its first worker.

    Jobs and results are pickled: whoever can reach the scheduler can run code on its workers, and here.

    Args:
        address: such as `tcp://192.0.2.1:8786`.

    Raises:
        StudyError: the package is missing, nobody answers there, or there is no worker.
    """
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
        from distributed.comm.addressing import get_address_host_port  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise StudyError(
            f"A cluster needs the package {e.name or 'distributed'}, which is not installed here. Run: "
            "pip install 'pockui[cluster]'"
        ) from None
    try:
        get_address_host_port(
            address, strict=True
        )  # of a client that cannot connect, Dask would go on to complain
        client = Client(address, timeout=CONNECT_S, set_as_default=False, name="pockui")
    except (OSError, ValueError) as e:
        raise StudyError(
            f"There is no Dask scheduler at {address!r} ({reason(e)}). Start one with `dask scheduler`, and "
            "pass the address that it prints, as in tcp://192.0.2.1:8786."
        ) from e
    with client:
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except OSError as e:
            raise StudyError(
                f"The cluster at {address} has no worker, nor got one within {FIRST_WORKER_S:.0f} s. Start "
                "some in the folder of your project, where pockui is installed: "
                f"dask worker {address} --nthreads 1"
            ) from e
        try:
            yield Cluster(client, address)
        finally:
            with suppress(Exception):  # whatever became of the workers
                client.run(_end_child_process)


def _in_child_process(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """In a worker: do it in the process under it."""
    from distributed import get_worker  # pyright: ignore[reportMissingImports]

    with _lock:
        if not _processes:
            _processes.append(LocalProcesses(1, get_worker().state.nthreads))
        future = _processes[0].submit(fn, *args, **kwargs)
    return future.result()


def _end_child_process() -> None:
    """In a worker: end the process under it, whatever it does."""
    with _lock:
        while _processes:
            _processes.pop().shutdown(wait=False, cancel_futures=True)


_processes: list[LocalProcesses] = []  # of a worker: one, or none yet
_lock = threading.Lock()
