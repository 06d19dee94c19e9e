"""Memory of this process, as the operating system says it. Imports nothing that a device may lack."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")  # Linux's


def resident_bytes() -> int | None:
    """Held right now, after freed memory went back to the system; None where the system does not say."""
    gc.collect()
    if not _STATUS.is_file():
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int | None:
    """The most that was held since the process started, or since `reset_peak`; None where the system does
    not say."""
    if _STATUS.is_file():  # getrusage's figure would include whoever started this process
        return _status_bytes("VmHWM")
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> bool:
    """Let `peak_resident_bytes` count from now on; False where the system has no such thing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024
