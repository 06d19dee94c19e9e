"""Studies that change while they are looked at: one thread looks for all sessions of a server.

A look is two calls of `stat`. Only where a file or its log is another one than before is the study asked what
it says now, and what that takes decides when it is asked again: an analysis that goes on in another process
keeps nobody waiting here.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pockgraph.errors import PockError

from .facts import Facts, read_facts
from .scheduling import Scheduler
from .state import State

logger = logging.getLogger(__name__)
LOOK_S = 2.0  # between two looks
SHARE = 0.1  # of the time may be spent on reading studies again
Stamp = tuple[tuple[int, int, int] | None, ...]


class Followed(NamedTuple):
    """A state, and the turns of its session."""

    state: State
    scheduler: Scheduler


class Watch:
    """Tells states when what they show has changed."""

    def __init__(self, look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._lock = threading.Lock()
        self._followed: list[Followed] = []
        self._stamps: dict[Path, Stamp] = {}
        self._next_s: dict[Path, float] = {}
        self._thread: threading.Thread | None = None

    def follow(self, state: State, scheduler: Scheduler) -> Callable[[], None]:
        """Have a state shown newer facts of its study whenever there are; returns what ends that.

        Args:
            scheduler: the turns of its session.
        """
        followed = Followed(state, scheduler)
        with self._lock:
            self._followed.append(followed)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="pockui-watch", daemon=True)
                self._thread.start()

        def stop() -> None:
            with self._lock:
                if followed in self._followed:
                    self._followed.remove(followed)

        return stop

    def _watch(self) -> None:
        while True:
            time.sleep(self._look_s)
            with self._lock:
                followed = list(self._followed)
                if not followed:
                    self._thread = None
                    return
            try:
                self.look(followed)
            except Exception:
                logger.exception("while looking for changes")

    def look(self, followed: Sequence[Followed]) -> None:
        """Look once, and tell those whose study says something else now."""
        shown = [(one, one.state.facts) for one in followed]
        for path in {facts.path for _, facts in shown if isinstance(facts, Facts)}:
            now, begun = _stamp(path), time.monotonic()
            if now == self._stamps.get(path) or begun < self._next_s.get(path, 0.0):
                continue
            for one, facts in shown:
                if isinstance(facts, Facts) and facts.path == path:
                    _tell(one, facts)
            self._stamps[path] = now
            self._next_s[path] = begun + (time.monotonic() - begun) / SHARE


def _tell(followed: Followed, shown: Facts) -> None:
    try:
        newer = read_facts(shown.path, shown.device)
    except PockError:  # gone, or being replaced: what is shown stays
        return
    if newer is not shown:
        followed.scheduler.soon(lambda: followed.state.refresh(newer))


def _stamp(path: Path) -> Stamp:
    """Of the file, and of the log beside it that has its newest changes."""
    found = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            status = os.stat(file)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


WATCH = Watch()
