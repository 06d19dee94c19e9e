"""A real scheduler and worker processes on this machine, on the loopback interface only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def dask_cluster(workers: int = 2) -> Iterator[str]:
    """Its address."""
    from distributed import LocalCluster

    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **options) as cluster:
        yield cluster.scheduler_address
