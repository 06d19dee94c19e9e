"""Who may use a Trainer: the process that loaded it, one thread at a time, until it is closed.

The runtimes keep threads of their own, which a forked process does not have: whatever waits for them there
waits for ever, and so does what frees them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ..errors import ArtifactError

SPAWN = "Load the artefact in a process that multiprocessing's method 'spawn' starts."

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Owned")


class Owned:
    """What holds a native runtime, as `_runner`, in the process that made it."""

    _runner: Any

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        _living.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._runner is None

    def close(self) -> None:
        """Give the runtime's memory and threads back. Closing twice is no error."""
        if self._process == os.getpid():
            with self._lock:
                self._runner = None

    def _require_usable(self) -> None:
        if self._process != os.getpid():
            raise ArtifactError(
                f"This {type(self).__name__} was loaded by process {self._process}, and this is process "
                f"{os.getpid()}, a fork of it, in which the runtime's threads do not exist. {SPAWN}"
            )
        if self._runner is None:
            raise ArtifactError(f"This {type(self).__name__} was closed. Load the artefact again.")


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that other threads wait for, and that only the process of `self` may call.

    Raises:
        ArtifactError: in a fork, and after `close`.
    """

    @functools.wraps(method)
    def alone(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._process != os.getpid():  # before the lock: another thread may have held it when we forked
            self._require_usable()
        with self._lock:
            if self._runner is None:
                self._require_usable()
            return method(self, *args, **kwargs)

    return alone


_living: weakref.WeakSet[Owned] = weakref.WeakSet()
_inherited: set[str] = set()  # packages that a process this one was forked from had imported


def inherited(package: str) -> bool:
    """Whether this process has `package` from the one it was forked from, without that one's threads."""
    return package in _inherited


def _keep_in_fork() -> None:
    """Let no fork free a runtime: it would wait for that one's threads."""
    _inherited.update(sys.modules)
    for owned in list(_living):
        if owned._runner is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned._runner))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_fork)
