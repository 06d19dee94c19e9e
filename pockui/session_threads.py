"""In which thread a session's work is done, and when: two threads plan, and pages are made one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import panel as pn

from pockui.jobs import Latest
from pockui.scheduling import Executor, run_now

TURN_SECONDS = 10.0  # a page that is not made by then does not keep the next one waiting
PLANNERS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pockui-plan")


class Turn:
    """The turns of this session, as a `Scheduler` has them; without a session, everything is done at once."""

    def __init__(self) -> None:
        doc = pn.state.curdoc
        self._doc = None if doc is None or doc.session_context is None else doc

    def soon(self, call: Callable[[], None]) -> None:
        if self._doc is None:
            call()
        else:
            self._doc.add_next_tick_callback(call)

    def later(self, ms: int, call: Callable[[], None]) -> Callable[[], None]:
        doc = self._doc
        if doc is None:
            call()
            return lambda: None
        waiting = True

        def fire() -> None:
            nonlocal waiting
            waiting = False
            call()

        callback = doc.add_timeout_callback(fire, ms)
        return lambda: doc.remove_timeout_callback(callback) if waiting else None


def in_thread() -> Executor:
    """A `Executor` for this session: computes in a thread, answers on the session's own."""
    doc = pn.state.curdoc
    if doc is None or doc.session_context is None:
        return run_now
    latest = Latest(PLANNERS)

    def run(compute: Callable[[], Any], then: Callable[[Any], None]) -> None:
        def answer(value: Any) -> None:
            def deliver() -> None:
                with pn.io.hold():
                    then(value)

            doc.add_next_tick_callback(deliver)

        latest.submit(compute, answer)

    return run


class Turns:
    """Has pages made one after the other, with pauses in which other sessions' edits are answered.

    Making a page takes a large part of a second of the one thread that all sessions share.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pockui-turn")

    def submit(self, doc: Any, make: Callable[[], None]) -> None:
        """Call `make` in the session of `doc`, when it is its turn."""
        self._pool.submit(self._turn, doc, make)

    def _turn(self, doc: Any, make: Callable[[], None]) -> None:
        made = threading.Event()
        took_s = 0.0

        def turn() -> None:
            nonlocal took_s
            start = time.monotonic()
            try:
                if doc.session_context is not None:  # else it has ended
                    make()
            finally:
                took_s = time.monotonic() - start
                made.set()

        doc.add_next_tick_callback(turn)
        made.wait(TURN_SECONDS)
        time.sleep(min(took_s, 1.0))


TURNS = Turns()
