"""Background: the thread that trains, piece by piece, as the budget allows."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable

from ...errors import PockError, reason
from .budget import LearnerBudget, Pacer
from .rounds import Outcome, Work

ASK_AGAIN_S = 1.0  # while the budget holds training back
LONGEST_REST_S = 3600.0  # after failures


class Background:
    """Runs rounds, one after the other, until it is stopped.

    Args:
        begin: makes a round's work.
        note: `(kind, reason)` to the journal, of `"paused"`, `"resumed"` and `"failed"`.
        clock: seconds, growing. rest: waits for so many seconds, or until it is stopped.

    Attributes:
        turn: held during each piece of work; whoever holds it sees none in progress.
        held_back: why training rests just now; empty while it does not.
        failure: what ended the last round, if an error did.
    """

    def __init__(
        self,
        begin: Callable[[], Work],
        budget: LearnerBudget,
        note: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        self._begin, self._budget, self._note, self._clock = begin, budget, note, clock
        self._pacer = Pacer(budget, clock)
        self._stopping, self._arrived = threading.Event(), threading.Event()
        self._rest = rest or self._stopping.wait
        self._abandoned = False
        self._thread: threading.Thread | None = None
        self._paused = ""
        self.turn = threading.RLock()
        self.held_back = ""
        self.failure = ""

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self.running:
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="pockgraph-learner", daemon=True)
        self._thread.start()
        stop = weakref.WeakMethod(self.stop)
        atexit.register(lambda: (found := stop()) and found())  # before the runtime's libraries go

    def stop(self) -> None:
        """End after the present piece of work; what is not promoted by then is dropped."""
        self._stopping.set()
        self._arrived.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """There is something new to learn from."""
        self._arrived.set()

    def abandon(self) -> None:
        """Drop the round in progress, and begin another. The caller holds `turn`."""
        self._abandoned = True
        self._arrived.set()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._arrived.clear()
            try:
                outcome = self.work_through()
            except Exception as e:  # a learner that runs unattended must not end with one bad batch
                failures += 1
                self._failed(str(e) if isinstance(e, PockError) else f"{type(e).__name__}: {reason(e)}")
                self._rest(min(2.0**failures, LONGEST_REST_S))
                continue
            failures, self.failure = 0, ""
            if outcome == "waiting":
                self._arrived.wait()

    def work_through(self) -> Outcome | None:
        """One round within the budget; None if it was stopped or abandoned."""
        work = self._begin()
        self._abandoned = False
        try:
            while self._may_go_on():
                start = self._clock()
                try:
                    with self.turn:
                        if self._abandoned:
                            return None
                        next(work)
                except StopIteration as done:
                    return done.value
                finally:
                    self._pacer.spent(self._clock() - start)
            return None
        finally:
            work.close()

    def _may_go_on(self) -> bool:
        """Wait until the next piece may begin; False: it is to stop."""
        while not self._stopping.is_set():
            paused, self.held_back = self._budget.held_back()
            if paused != self._paused:
                self._note("paused" if paused else "resumed", paused)
                self._paused = paused
            if self.held_back:
                self._rest(ASK_AGAIN_S)
            elif rest_s := self._pacer.rest_s():
                self._rest(rest_s)
            else:
                return True
        return False

    def _failed(self, why: str) -> None:
        self.failure = why
        try:
            self._note("failed", why)
        except PockError as e:  # a full disk: `failure` still tells
            self.failure = f"{why} {e}"
