"""When work is done: at once, as scripts and tests need it. A server and a notebook pass their own ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pockgraph.errors import PockError

Then = Callable[[Any], None]
Executor = Callable[[Callable[[], Any], Then], None]
REDRAW_MS = 200  # a chart is redrawn this long after the last change; numbers follow at once


def run_now(compute: Callable[[], Any], then: Then) -> None:
    """Compute at once; a PockError is an answer, too."""
    try:
        answer = compute()
    except PockError as e:
        answer = e
    then(answer)


class Scheduler(Protocol):
    """The turns of one session."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call on the session's own turn; asked from any thread."""
        ...

    def later(self, ms: int, call: Callable[[], None]) -> Callable[[], None]:
        """Call on the session's own turn after a while; returns what prevents that."""
        ...


class AtOnce:
    """A scheduler that waits for nothing."""

    def soon(self, call: Callable[[], None]) -> None:
        call()

    def later(self, ms: int, call: Callable[[], None]) -> Callable[[], None]:
        call()
        return lambda: None


class Trailing:
    """Calls `act` a moment after the last of many changes: a drag's numbers must not wait for charts."""

    def __init__(self, scheduler: Scheduler, act: Callable[[], None], ms: int = REDRAW_MS) -> None:
        self._scheduler, self._act, self._ms = scheduler, act, ms
        self._prevent: Callable[[], None] = lambda: None

    def __call__(self, *_: object) -> None:
        self._prevent()
        self._prevent = self._scheduler.later(self._ms, self._act)
