"""The page of one session: what it is made of."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.io.resources import LOCAL_DIST
from panel.util.parameters import edit_readonly

from pockgraph.errors import PockError
from pockui.facts import Facts, read_facts
from pockui.frontier_plans import FrontierPlans
from pockui.info.palette import theme
from pockui.info.studies import find_studies, served_study, study_argument
from pockui.jobs import Latest
from pockui.scheduling import Executor, run_now
from pockui.state import State
from pockui.training import Training
from pockui.views import parts
from pockui.views.budgets import Budgets
from pockui.views.compare import Compare
from pockui.views.curves import Curves
from pockui.views.export import Export
from pockui.views.figure_tiles import FigureTiles
from pockui.views.frontier import Frontier
from pockui.views.layers import Layers
from pockui.views.process_memory import ProcessMemory
from pockui.views.start import opening, start
from pockui.views.train import Train

logger = logging.getLogger(__name__)

TURN_SECONDS = 10.0  # a page that is not made by then does not keep the next one waiting
PLANNERS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pockui-plan")


def tell(error: Exception) -> None:
    """Every error that a callback raises reaches the person as a toast, and the log."""
    known = isinstance(error, PockError | ValueError)
    if not known:
        logger.exception("in a callback", exc_info=error)
    if pn.state.notifications is not None:
        what = str(error) if known else f"{type(error).__name__}: {error}. The server's log has the details."
        pn.state.notifications.error(what, duration=0 if not known else 9000)


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


def create_app(study: str | os.PathLike[str] | None = None) -> pmui.Page:
    """The page of one session. The study is read in a thread of its own: a file that cannot be read yet
    keeps nobody else waiting.

    Args:
        study: the study's file; else the page's address (`?study=`), the command line or
            `POCKUI_STUDY` name it, or the newest study in this folder or `out/` is taken.
    """
    state = State(in_thread(), Turn())
    query = pn.state.session_args.get("study", [b""])[0].decode(errors="replace")
    named = str(study or study_argument(sys.argv[1:], dict(os.environ)))
    page = _frame(state)
    doc = pn.state.curdoc
    # A browser fetches the document, and says later that it has drawn it. Panel drops what a `hold` collects
    # in between, as if the document was still to be fetched.
    drawn: Future[None] = Future()

    def read() -> None:
        answer, found = _read(named, query)

        def show() -> None:
            if isinstance(answer, Facts):
                state.show(answer)
            else:
                state.facts = answer
            _fill(page, state, found)

        if doc is None or doc.session_context is None:
            show()
        else:
            drawn.add_done_callback(lambda _: TURNS.submit(doc, show))

    if doc is None or doc.session_context is None:
        read()
    else:
        page.main = [opening(named or query)]
        pn.state.onload(lambda: drawn.set_result(None))
        threading.Thread(target=read, name="pockui-open", daemon=True).start()
    return page


def _read(named: str, query: str) -> tuple[Facts | PockError | None, list[Path]]:
    """The facts to show, or why there are none, and the studies that lie around."""
    found: list[Path] = []
    try:
        if named:
            return read_facts(named), found
        found = find_studies()
        if query:
            return read_facts(served_study(query)), found
        return (read_facts(found[0]) if found else None), found
    except PockError as e:
        return e, found
    except Exception as e:
        logger.exception("while opening %r", named or query)
        return PockError(
            f"Opening the study failed: {type(e).__name__}. The server's log has the details."
        ), found


def page_of(state: State, found: Sequence[Path] = ()) -> pmui.Page:
    """The page that shows a state.

    Args:
        found: studies to offer when the state has none.
    """
    page = _frame(state)
    _fill(page, state, found)
    return page


def _frame(state: State) -> pmui.Page:
    """A page without content."""
    pn.extension("plotly", notifications=True, exception_handler=tell)
    _keep_styles_here()
    page = pmui.Page(
        title="PockUI",
        theme_config=theme(),
        busy_indicator=None,
        meta_description="Choose which layers of a network keep learning on the device",
    )
    with edit_readonly(page):
        page.busy = False  # else each page follows the one flag of all sessions, and is walked at every edit
    page.dark_theme = state.dark = pn.state.session_args.get("theme") == [b"dark"]
    page.param.watch(lambda e: _darken(state, e.new), "dark_theme")
    page.jscallback(title="document.title = source.title")
    return page


def _fill(page: pmui.Page, state: State, found: Sequence[Path]) -> None:
    with pn.io.hold():
        if not state.ready:
            problem = state.facts if isinstance(state.facts, PockError) else None
            page.main = [start(problem, found)]
            return
        page.title = f"PockUI · {state.facts.name}"
        page.header = [_history(state)]
        page.main = [_main(state)]


def _keep_styles_here() -> None:
    """Have styles come from this server, whatever way the session began.

    A page whose session has ended (the machine slept, the server was started anew) gets another one through
    its websocket alone. Only where a page is served does Panel note that, and else takes styles from a CDN.
    """
    if pn.state.curdoc is not None:
        there = f"{pn.state.rel_path}/{LOCAL_DIST}" if pn.state.rel_path else LOCAL_DIST
        pn.state.curdoc.template_variables.setdefault("dist_url", there)


def _darken(state: State, dark: bool) -> None:
    state.dark = dark
    if pn.state.location is not None:
        query: dict[str, Any] = {"theme": "dark" if dark else "light"}
        pn.state.location.update_query(**query)  # a reload keeps it


def _main(state: State) -> pn.viewable.Viewable:
    training = Training(state)
    run = pn.state.session_args.get("run", [b""])[0].decode(errors="replace")
    is_known = not run or training.follow(run)
    if pn.state.location is not None:
        training.param.watch(lambda e: pn.state.location.update_query(run=e.new), "job_id")
    pn.state.on_session_destroyed(lambda _: training.stop_listening())
    train = Train(state, training)
    if not is_known:
        train.tell_unknown(run)
    fill: dict[str, Any] = {"margin": 0, "sizing_mode": "stretch_width"}
    curves, compare, export = Curves(state), Compare(state, training), Export(state)
    tabs = pmui.Tabs(
        ("Plan", pmui.Column(Layers(state), curves, sx={"gap": 2}, **fill)),
        ("Train", pmui.Column(train, **fill)),
        ("Compare", pmui.Column(compare, **fill)),
        ("Export", pmui.Column(export, **fill)),
        active=1 if run else 0, **fill,
    )  # fmt: skip
    parts.draw_when_shown(tabs, (curves, train, compare, export))
    frontier = Frontier(state, FrontierPlans(state, in_thread()))
    aside = pmui.Column(Budgets(state), ProcessMemory(state), frontier, sx={"gap": 2}, **fill)
    return pmui.Column(
        FigureTiles(state),
        pmui.Grid(
            pmui.Grid(aside, size={"xs": 12, "md": 5, "lg": 4, "xl": 3}),
            pmui.Grid(tabs, size={"xs": 12, "md": 7, "lg": 8, "xl": 9}),
            container=True, spacing=2, **fill,
        ),
        sx={
            "px": {"xs": 1, "sm": 2}, "pt": {"xs": 0, "sm": 1}, "pb": 2, "gap": 2,
            "maxWidth": 1760, "mx": "auto",
        },
        **fill,
    )  # fmt: skip


def _svg(path: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path d="{path}"/></svg>'


UNDO = _svg(
    "M12.5 8a10.4 10.4 0 0 0-6.9 2.6L2 7v9h9l-3.6-3.6a8 8 0 0 1 12.7 3.6l2.4-.8A10.5 10.5 0 0 0 12.5 8"
)
REDO = _svg("M18.4 10.6A10.5 10.5 0 0 0 1.5 15.2l2.4.8a8 8 0 0 1 12.7-3.6L13 16h9V7z")


def _history(state: State) -> pn.viewable.Viewable:
    undo = pmui.IconButton(icon=UNDO, description="Undo", size="small", disabled=True, margin=0)
    redo = pmui.IconButton(icon=REDO, description="Redo", size="small", disabled=True, margin=0)
    undo.on_click(lambda _: state.undo())
    redo.on_click(lambda _: state.redo())

    def show(*_: object) -> None:
        undo.disabled, redo.disabled = not state.can_undo, not state.can_redo

    state.param.watch(show, ["can_undo", "can_redo"])
    show()
    return pmui.Row(undo, redo, margin=0, sx={"gap": 0.5, "ml": 2})
