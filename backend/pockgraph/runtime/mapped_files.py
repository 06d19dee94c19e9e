"""Pages of mapped files that were read once and are not needed in memory any more.

A runtime maps the file of the weights, reads it while it compiles, and computes from copies in the order that
its kernels read. The pages stay part of the process although nothing reads them again. They can be dropped at
no risk: a page of a file that is only read comes back from the file where it is read after all.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_DONTNEED = 4  # Linux's MADV_DONTNEED
INTERVAL_S = 0.05  # in which a compiler reads a few dozen MB


@contextmanager
def pages_dropped(file: Path) -> Iterator[None]:
    """Keep few pages of `file` in memory while something reads it once, and none right after.

    Does nothing where the system is not Linux.
    """
    if sys.platform != "linux":
        yield
        return
    done = threading.Event()

    def drop_now_and_then() -> None:
        while not done.wait(INTERVAL_S):
            drop_pages(file)

    dropping = threading.Thread(target=drop_now_and_then, name="pockgraph-pages", daemon=True)
    dropping.start()
    try:
        yield
    finally:
        done.set()
        dropping.join()
        drop_pages(file)


def drop_pages(file: Path) -> int:
    """Take what this process has mapped of a file, to read it, out of its memory; returns how many bytes."""
    name, mapped, libc = os.fsencode(os.path.realpath(file)), 0, ctypes.CDLL(None)
    try:
        lines = _MAPS.read_bytes().splitlines()
    except OSError:  # not every sandbox shows it
        return 0
    for line in lines:
        span, rights, _, _, _, *path = line.split(None, 5)
        if path == [name] and b"w" not in rights:
            start, end = (int(address, 16) for address in span.split(b"-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)
            mapped += end - start
    return mapped
