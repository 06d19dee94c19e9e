"""`import executorch`, quietly, and what its Python runtime says: both come from this file only.

The import tries to load kernels for other machines and reports each that it cannot load; its C++ code
writes to standard error directly, the reasons of what it refuses among the rest.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from ...errors import ArtifactError, PockError
from ...runtime.ownership import SPAWN, inherited

PACKAGE = "executorch"
# `[method.cpp:1427] KernelCall failed at instruction 0:3 in operator aten::sort.values: 0x12`
_LOCATION = re.compile(r"^\[[\w./-]+\.(?:cpp|h|hpp):\d+\]\s*")


def require_installed(error: type[PockError] = PockError) -> None:
    """Refuse to begin where nothing can be compiled, or run.

    Raises:
        error: with what to install.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise error(
            "Target 'executorch' needs the Python package 'executorch', which is not installed. Install it "
            "with: pip install 'pockui[executorch]'. Or compile for another target."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of `executorch` and of the parts of torch that it uses."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def imported(module: str) -> Any:
    """A module of `executorch`.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    with quiet():
        return importlib.import_module(f"{PACKAGE}.{module}")


_lock = threading.Lock()
_runtime: Any = None


def runtime() -> Any:
    """The `executorch.runtime.Runtime` of this process.

    Raises:
        ArtifactError: in a fork of a process that has one, whose threads do not exist here.
    """
    global _runtime
    if inherited(PACKAGE):
        raise ArtifactError(
            f"This process, {os.getpid()}, was forked from one that had imported executorch, whose threads "
            f"do not exist here. {SPAWN}"
        )
    with _lock:
        if _runtime is None:
            made = imported("runtime").Runtime.get()
            with heard([]):  # it looks for the files of mobile processors, and tells of each
                _bindings()._threadpool_get_thread_count()
            _runtime = made
    return _runtime


def set_threads(threads: int) -> None:
    """How many threads ExecuTorch has in this process, for all of its programs."""
    bindings = _bindings()
    if bindings._threadpool_get_thread_count() != threads:
        with heard([]):  # it tells the number
            bindings._unsafe_reset_threadpool(threads)


def _bindings() -> Any:
    # The only module that says anything of threads.
    return imported("extension.pybindings.portable_lib")


@contextmanager
def heard(lines: list[str]) -> Iterator[None]:
    """What C++ code writes to standard error, as lines without their place in its sources.

    Some of it writes through Python's `sys.stderr`, which need not be the process's.
    """
    sys.stderr.flush()
    kept, pythons = os.dup(2), io.StringIO()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with redirect_stderr(pythons):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read().decode(errors="replace") + pythons.getvalue()
            lines += [_LOCATION.sub("", line).strip() for line in text.splitlines() if line.strip()]
