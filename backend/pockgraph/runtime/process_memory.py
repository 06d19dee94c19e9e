"""Memory of a process, as the operating system says it. Imports nothing that a device may lack."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")  # Linux's


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process that trains, in bytes.

    Attributes:
        imported_bytes: libraries and one batch, before there is a model.
        loaded_bytes: the model loaded and compiled, before the first step.
        peak_bytes: the most while training.
        whole_peak_bytes: the most ever, loading and compiling included.
    """

    imported_bytes: int
    loaded_bytes: int
    peak_bytes: int
    whole_peak_bytes: int

    @property
    def over_loaded_bytes(self) -> int:
        """What training adds to the loaded process."""
        return self.peak_bytes - self.loaded_bytes

    @property
    def over_imported_bytes(self) -> int:
        """What the model and its training add to the libraries: weights, activations, all else."""
        return self.peak_bytes - self.imported_bytes


def resident_bytes(*, trimmed: bool = True) -> int | None:
    """Held right now; None where the system does not say.

    Args:
        trimmed: after freed memory went back to the system, which takes a while.
    """
    if trimmed:
        gc.collect()
    if not _STATUS.is_file():
        return None
    if not trimmed:
        return _status_bytes("VmRSS")
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
