"""The page of one session: what it is made of."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.io.resources import LOCAL_DIST
from panel.util.parameters import edit_readonly

from pockgraph.errors import PockError, suggest
from pockui.address import Address
from pockui.components.web import Page
from pockui.facts import Facts, read_facts
from pockui.frontier_plans import FrontierPlans
from pockui.info.palette import theme
from pockui.info.studies import find_studies, served_study, study_argument
from pockui.info.study_list import StudyEntry, study_entries
from pockui.new_study import NewStudy
from pockui.panel_messages import send_all_messages
from pockui.session_threads import TURNS, Turn, in_thread
from pockui.state import State
from pockui.training import Training, open_settings
from pockui.url_state import Opened
from pockui.url_state import read as read_link
from pockui.verifying import Verifying
from pockui.views import parts
from pockui.views.budgets import Budgets
from pockui.views.compare import Compare
from pockui.views.curves import Curves
from pockui.views.export import Export
from pockui.views.figure_tiles import FigureTiles
from pockui.views.frontier import Frontier
from pockui.views.graph import Graph
from pockui.views.layers import Layers
from pockui.views.memory_timeline import MemoryTimeline
from pockui.views.new_study import MakeStudy
from pockui.views.process_memory import ProcessMemory
from pockui.views.start import opening, start
from pockui.views.train import Train
from pockui.watching import WATCH

logger = logging.getLogger(__name__)
TRAIN = 3  # the tab's place


def tell(error: Exception) -> None:
    """Every error that a callback raises reaches the person as a toast, and the log."""
    known = isinstance(error, PockError | ValueError)
    if not known:
        logger.exception("in a callback", exc_info=error)
    if pn.state.notifications is not None:
        what = str(error) if known else f"{type(error).__name__}: {error}. The server's log has the details."
        pn.state.notifications.error(what, duration=0 if not known else 9000)


def create_app(study: str | os.PathLike[str] | None = None, own_machine: bool = True) -> pmui.Page:
    """The page of one session. The study is read in a thread of its own: a file that cannot be read yet
    keeps nobody else waiting.

    Args:
        study: the study's file; else the page's address (`?study=`), the command line or
            `POCKUI_STUDY` name it, or the newest study in this folder or `out/` is taken.
        own_machine: only this machine reaches the page. It may then show any study of the folder, also where
            one was named, and make new ones of the folder's tasks.
    """
    state = State(in_thread(), Turn())
    query = Address.read()
    named = str(study or study_argument(sys.argv[1:], dict(os.environ)))
    if own_machine and ("study" in query or "start" in query):
        named = ""
    page = _frame(state)
    making = NewStudy(state.scheduler, own_machine) if own_machine or not named else None
    if making is not None and making.running and not named and "study" not in query:
        query = {**query, "start": "1"}
    doc = pn.state.curdoc
    # A browser fetches the document, and says later that it has drawn it. Panel drops what a `hold` collects
    # in between, as if the document was still to be fetched.
    drawn: Future[None] = Future()

    def read(query: Mapping[str, str]) -> None:
        answer, found, opened = _read(named, query)
        entries = [] if isinstance(answer, Facts) else study_entries(found)

        def show() -> None:
            if isinstance(answer, Facts):
                state.show(answer, opened.planned)
                state.param.update(**opened.views)
            else:
                state.facts = answer
            _fill(page, state, entries, opened.problems, making, open_made, query.get("study", ""))

        if doc is None or doc.session_context is None:
            show()
        else:
            drawn.add_done_callback(lambda _: TURNS.submit(doc, show))

    def open_made(path: str) -> None:
        page.main = [opening(path)]
        ask = {"study": path}
        if doc is None or doc.session_context is None:
            read(ask)
        else:
            threading.Thread(target=read, args=(ask,), name="pockui-open", daemon=True).start()

    if doc is None or doc.session_context is None:
        read(query)
    else:
        page.main = [opening(named or query.get("study", ""))]
        pn.state.onload(lambda: drawn.set_result(None))
        threading.Thread(target=read, args=(query,), name="pockui-open", daemon=True).start()
    return page


def _read(named: str, query: Mapping[str, str]) -> tuple[Facts | PockError | None, list[Path], Opened]:
    """The facts to show, or why there are none; the studies that lie around; what the address asks for."""
    found: list[Path] = []
    nothing = Opened(None, {}, ())
    try:
        if named:
            path = Path(named)
        else:
            found = find_studies()
            if "start" in query:
                return None, found, nothing
            if asked := query.get("study"):
                path = served_study(asked)
            elif found:
                path = found[0]
            else:
                return None, found, nothing
        facts = read_facts(path)
        device, problems = query.get("device"), ()
        if device in facts.devices:
            facts = read_facts(path, device)
        elif device:
            problems = (f"The study keeps no device {device[:80]!r}.{suggest(device, facts.devices)}",)
        opened = read_link(query, facts)
        return facts, found, opened._replace(problems=(*problems, *opened.problems))
    except PockError as e:
        return e, found, nothing
    except Exception as e:
        logger.exception("while opening %r", named or query.get("study"))
        return (
            PockError(f"Opening the study failed: {type(e).__name__}. The server's log has the details."),
            found,
            nothing,
        )


def page_of(state: State) -> pmui.Page:
    """The page that shows a state."""
    page = _frame(state)
    _fill(page, state)
    return page


def _frame(state: State) -> pmui.Page:
    """A page without content."""
    pn.extension(notifications=True, exception_handler=tell)
    send_all_messages()
    _keep_styles_here()
    page = pmui.Page(
        title="PockUI",
        theme_config=theme(),
        busy_indicator=None,
        meta_description="Choose which layers of a network keep learning on the device",
    )
    with edit_readonly(page):
        page.busy = False  # else each page follows the one flag of all sessions, and is walked at every edit
    page.dark_theme = state.dark = Address.read().get("theme") == "dark"
    page.param.watch(lambda e: setattr(state, "dark", e.new), "dark_theme")
    page.jscallback(title="document.title = source.title")
    return page


def _fill(
    page: pmui.Page,
    state: State,
    found: Sequence[StudyEntry] = (),
    problems: Sequence[str] = (),
    making: NewStudy | None = None,
    open_made: Callable[[str], None] = lambda path: None,
    asked: str = "",
) -> None:
    """Args:
    found: studies to offer when the state has none.
    problems: what the address asks for and cannot be shown.
    making: makes studies here, `open_made` opens one that is made; None: nothing does.
    asked: the study that was asked for, not by whoever started the server.
    """
    with pn.io.hold():
        if making is not None:
            pn.state.on_session_destroyed(lambda _: making.stop_listening())
        if not state.ready:
            problem = state.facts if isinstance(state.facts, PockError) else None
            make = None if making is None else MakeStudy(making, open_made)
            page.main = [start(problem, found, make)]
            return
        page.title = f"PockUI · {state.facts.name}"
        part = Page()
        part.on_edit(lambda edit: {"undo": state.undo, "redo": state.redo}[edit["kind"]]())
        address = Address(part)
        _stay_up_to_date(state)
        page.header = [_history(state), *([] if making is None else [_studies_link(state)]), part]
        page.main = [_main(state, address, problems)]
        address.follow(state, tell)
        if asked:  # also where it was made here: a reload opens it again
            address.write(start=None, study=asked)


def _studies_link(state: State) -> pn.viewable.Viewable:
    link = pn.pane.HTML("", margin=(0, 0, 0, 12), stylesheets=[parts.TYPE])

    def show(*_: object) -> None:
        link.object = f'<a href="?start=1{"&theme=dark" if state.dark else ""}">Studies</a>'

    state.param.watch(show, "dark")
    show()
    return link


def _stay_up_to_date(state: State) -> None:
    """Have the session show what other processes, and other sessions, add to its study."""
    doc = pn.state.curdoc
    if doc is not None and doc.session_context is not None:
        stop = WATCH.follow(state, Turn())
        pn.state.on_session_destroyed(lambda _: stop())


def _keep_styles_here() -> None:
    """Have styles come from this server, whatever way the session began.

    A page whose session has ended (the machine slept, the server was started anew) gets another one through
    its websocket alone. Only where a page is served does Panel note that, and else takes styles from a CDN.
    """
    if pn.state.curdoc is not None:
        there = f"{pn.state.rel_path}/{LOCAL_DIST}" if pn.state.rel_path else LOCAL_DIST
        pn.state.curdoc.template_variables.setdefault("dist_url", there)


def _main(state: State, address: Address, problems: Sequence[str]) -> pn.viewable.Viewable:
    training, run = Training(state), Address.read().get("run", "")
    is_known = not run or training.follow(run)
    if not is_known:
        address.write(run=None)
    training.param.watch(lambda e: address.write(run=e.new), "job_id")
    problems = [*problems, *open_settings(training, Address.read().get("train", ""))]
    training.param.watch(lambda e: address.write(train=e.new.to_text() or None), "settings")
    state.param.watch(lambda e: address.write(theme="dark" if e.new else None), "dark")
    notice = parts.text(parts.problem_html(" ".join(problems), "notice"), visible=bool(problems))
    state.param.watch(lambda _: parts.put(notice, ""), "can_undo")
    pn.state.on_session_destroyed(lambda _: training.stop_listening())
    train = Train(state, training)
    if not is_known:
        train.tell_unknown(run)
    fill: dict[str, Any] = {"margin": 0, "sizing_mode": "stretch_width"}
    plans = FrontierPlans(state, in_thread())
    curves, compare, export = Curves(state), Compare(state, training), Export(state, training, plans)
    memory, graph = MemoryTimeline(state), Graph(state, training)
    pn.state.on_session_destroyed(lambda _: graph.check.stop_listening())
    views = {
        "Memory": memory, "Graph": graph, "Train": train, "Compare": compare, "Export": export
    }  # fmt: skip
    # Empty until first shown: making all of them took a second of the first load.
    tabs = pmui.Tabs(
        ("Plan", pmui.Column(Layers(state), curves, sx={"gap": 2}, **fill)),
        *((name, pmui.Column(**fill)) for name in views),
        active=TRAIN if run else 0, **fill,
    )  # fmt: skip
    parts.draw_when_shown(tabs, (curves, *views.values()))
    verifying = Verifying(state)
    pn.state.on_session_destroyed(lambda _: verifying.stop_listening())
    frontier = Frontier(state, plans, verifying)
    aside = pmui.Column(Budgets(state), ProcessMemory(state), frontier, sx={"gap": 2}, **fill)
    return pmui.Column(
        notice,
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
