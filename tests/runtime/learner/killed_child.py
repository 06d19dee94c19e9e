"""A learner in a process of its own, which kills itself at a chosen moment.

`killed_child.py ARTIFACT FOLDER WHAT NUMBER`: at the NUMBER-th time that it does WHAT: a function of `os`, or
the beginning of an SQL statement. It prints the key of each sample that was accepted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from learning import opened, stream

from pockgraph.runtime.learner.database import Database

WHAT, LEFT = sys.argv[3], int(sys.argv[4])


def met(what: str) -> None:
    global LEFT
    if what.startswith(WHAT):
        LEFT -= 1
        if LEFT == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def watch_os(name: str) -> None:
    real = getattr(os, name)

    def watched(*args, **kwargs):
        found = real(*args, **kwargs)
        met(name)
        return found

    setattr(os, name, watched)


def watch_statements() -> None:
    real = Database.__init__

    def watched(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self._connection.set_trace_callback(met)

    Database.__init__ = watched


for name in ("replace", "fsync", "unlink"):
    watch_os(name)
watch_statements()
with opened(Path(sys.argv[1]), Path(sys.argv[2])) as learner:
    for number, sample in enumerate(stream(80)):
        os.write(1, f"{learner.add(sample)}\n".encode())
        if number in (50, 60, 70, 79):
            learner.learn(3)
