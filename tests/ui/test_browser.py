"""The page in a real browser: what a person sees, does and downloads."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from headless import violations

from pockgraph.plan import Plan

sys.path.append(str(Path(__file__).parents[1] / "field"))

import dashboard  # pyright: ignore

pytestmark = pytest.mark.browser

WEIGHT = "blocks.1.0.weight"
PATIENCE_MS = 60_000


@dataclass
class Server:
    """The app, served from this process, with the states of its sessions."""

    url: str
    states: list[Any] = field(default_factory=list)


# What a forged study may call a task and its tensors.
SCRIPT = "window.pwned=1"
HOSTILE = {
    "blobs": f"<img src=x onerror={SCRIPT}>",
    "stem": f"</script><script>{SCRIPT}</script>",
    "blocks.0": f"`${{{SCRIPT}}}`",
    "blocks.1": f"\u202e\u0007\x1b[31m' onmouseover='{SCRIPT}",
    "blocks.2": f'"><svg onload={SCRIPT}>' + "n" * 5000,
}


def _forge(study: Path, out: Path) -> Path:
    """A copy of a study with other names in every text of it."""

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            for old, new in HOSTILE.items():
                value = value.replace(old, new)
            return value
        if isinstance(value, list):
            return [renamed(v) for v in value]
        return {renamed(k): renamed(v) for k, v in value.items()} if isinstance(value, dict) else value

    with closing(sqlite3.connect(study)) as source, closing(sqlite3.connect(out)) as db:
        source.backup(db)
        tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for row in db.execute(f"SELECT rowid, * FROM {table}").fetchall():
                for name, value in zip(names, row[1:]):
                    if not isinstance(value, str):
                        continue
                    new = (
                        json.dumps(renamed(json.loads(value))) if value[:1] in ("{", "[") else renamed(value)
                    )
                    if new != value:
                        db.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (new, row[0]))
        db.commit()
    return out


@pytest.fixture(scope="module")
def server(facts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    import panel as pn

    from pockui import page
    from pockui.facts import read_facts
    from pockui.jobs import JOBS
    from pockui.state import State

    made = Server("")
    hostile = read_facts(_forge(facts.path, tmp_path_factory.mktemp("forged") / "forged.db"))

    def session() -> Any:
        state = State(page.in_thread(), page.Turn())
        asked = pn.state.session_args.get("study", [b""])[0]
        if asked != b"empty":
            state.show(hostile if asked == b"forged" else facts)
        made.states.append(state)
        return page.page_of(state)

    before = Path.cwd()
    import os

    os.chdir(tmp_path_factory.mktemp("cwd"))
    earlier = set(pn.state._servers)
    running = pn.serve(
        {"/": session}, port=0, address="127.0.0.1", show=False, threaded=True, admin=False, verbose=False
    )
    limit = time.monotonic() + 20
    while not (begun := set(pn.state._servers) - earlier) and time.monotonic() < limit:
        time.sleep(0.05)
    http = pn.state._servers[begun.pop()][0]
    while not getattr(http, "port", 0) and time.monotonic() < limit:
        time.sleep(0.05)
    made.url = f"http://127.0.0.1:{http.port}/"
    yield made
    JOBS.shutdown()
    running.stop()
    os.chdir(before)


class Watched:
    """A page, all it asked other machines for, and all its errors."""

    def __init__(self, page: Any, server: Server) -> None:
        self.page, self.server = page, server
        self.outside: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda r: self._request(r.url))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))

    def _request(self, url: str) -> None:
        if not url.startswith((self.server.url, self.server.url.replace("http", "ws"), "data:", "blob:")):
            self.outside.append(url)

    def open(self, query: str = "", until: str = "Budget") -> Any:
        """Load the page; returns the session's state."""
        self.page.goto(self.server.url + query)
        self.page.get_by_text(until, exact=True).first.wait_for()
        if until == "Budget":
            self.page.locator("[data-tensor]").first.wait_for()
        self.settle()
        return self.server.states[-1]

    def settle(self) -> None:
        """Wait until the curtain that covers a loading page is gone: it swallows clicks."""
        covered = "document.elementFromPoint(innerWidth / 2, innerHeight / 2)?.classList.contains('spinner')"
        self.page.wait_for_function(f"!{covered}")

    def drag(self, handle: Any, dx: float) -> None:
        """With the mouse, from where the handle is now."""
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y, steps=6)
        self.page.mouse.up()


@pytest.fixture
def watched(chromium, server: Server) -> Iterator[Watched]:
    page = chromium.new_page(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    made = Watched(page, server)
    yield made
    page.close()
    assert made.outside == []
    assert made.errors == []


def _wait(until: Callable[[], Any], seconds: float = 40) -> None:
    limit = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def test_budget_and_shares_are_dragged_typed_and_undone(watched: Watched) -> None:
    state, page = watched.open(), watched.page
    limit = state.budget.peak_bytes
    watched.drag(page.get_by_role("slider", name="Peak memory", exact=True), 40)
    _wait(lambda: state.budget.peak_bytes > limit and state.can_undo)
    assert state.prediction.figures.peak_bytes <= state.budget.peak_bytes
    page.get_by_role("button", name="Head", exact=True).first.click()
    _wait(lambda: set(state.plan.tensors) == {"head.weight", "head.bias"})
    page.get_by_text("2 of 10").wait_for()

    field = page.get_by_label("Peak memory in kB")
    field.fill("1")
    field.press("Enter")
    page.get_by_role("alert").get_by_text("smallest").wait_for()
    before = state.budget
    field.fill("22 parsecs")
    field.press("Enter")
    page.get_by_role("alert").get_by_text("'parsecs' is no unit of memory").wait_for()
    assert state.budget == before
    field.fill("0.12 MB")
    field.press("Enter")
    _wait(lambda: state.budget.peak_bytes == 120_000 and state.problem is None)
    _wait(lambda: field.input_value() == "120")
    page.get_by_role("button", name="Full", exact=True).first.click()
    _wait(lambda: state.prediction.figures.peak_bytes > 120_000 and not state.excess)

    handle = page.get_by_role("slider", name=f"Trained share of {WEIGHT}")
    rail = page.locator(f"[data-tensor='{WEIGHT}'] .pock-rail")
    width = rail.bounding_box()["width"]
    share = state.ratios.get(WEIGHT, 0.0)
    _wait(lambda: handle.get_attribute("aria-valuenow") == str(round(100 * share)))
    watched.drag(handle, (0.75 - share) * width)
    _wait(lambda: state.origin == "edited")
    assert state.plan.ratio(WEIGHT) == pytest.approx(0.75, abs=0.13)
    assert WEIGHT in state.locked
    kept = state.plan.ratio(WEIGHT)
    _wait(lambda: handle.get_attribute("aria-valuenow") == str(round(100 * kept)))

    handle.press("ArrowLeft")
    _wait(lambda: state.plan.ratio(WEIGHT) == kept - 0.125)  # one of eight channels
    page.get_by_role("button", name="Undo").click()
    _wait(lambda: state.plan.ratio(WEIGHT) == kept)
    page.get_by_text(f"{100 * kept:g} %", exact=True).first.wait_for()


def test_tensors_are_filtered_and_several_are_set_locked_and_let_go_together(watched: Watched) -> None:
    state, page = watched.open(), watched.page
    shown, count = page.locator("[data-tensor]"), page.locator(".pock-count")
    page.get_by_label("All tensors").click()
    _wait(lambda: count.inner_text() == "10 of 10 tensors, and the last biases as one row")
    field = page.get_by_label("Filter tensors")
    field.fill("re:blocks.(")
    page.get_by_role("alert").get_by_text("is no regular expression").wait_for()
    assert shown.count() == 11, "what was there stays"
    field.fill(r"re:blocks\.[01]\..*")
    _wait(lambda: count.inner_text() == "4 of 10 tensors")
    field.fill("blocks.*.weight")
    _wait(lambda: count.inner_text() == "3 of 10 tensors")
    page.get_by_label("Block", exact=True).click()
    page.get_by_role("option", name="blocks.2", exact=True).click()
    _wait(lambda: count.inner_text() == "1 of 10 tensors")
    page.get_by_label("Kind of layer").click()
    page.get_by_role("option", name="bias").click()
    page.get_by_text("No tensor fits “blocks.*.weight”, block blocks.2, bias").wait_for()
    page.wait_for_function("/block=blocks.2.*kind=bias/.test(location.search)")
    field.fill("")
    _wait(lambda: count.inner_text() == "1 of 10 tensors")
    state.param.update(block="", layer_kind="")
    _wait(lambda: shown.count() == 11)

    weights = [f"blocks.{n}.0.weight" for n in range(3)]
    name = {id: page.locator(f"[data-tensor='{id}'] .pock-name") for id in weights}
    page.get_by_role("button", name="Head", exact=True).first.click()
    _wait(lambda: state.excess == {} and WEIGHT not in state.plan.tensors)
    name[weights[0]].click(modifiers=["Control"])
    name[weights[2]].click(modifiers=["Shift"])
    page.get_by_text("5 selected").first.wait_for()  # the biases between them, too
    for n in (0, 1):
        page.locator(f"[data-tensor='blocks.{n}.0.bias'] .pock-name").click(modifiers=["Control"])
    page.get_by_text("3 selected").first.wait_for()
    page.get_by_role("button", name="50 %", exact=True).click()
    _wait(lambda: [state.plan.ratio(id) for id in weights if id in state.plan.tensors] == [0.5] * 3)
    assert state.locked == dict.fromkeys(weights, 0.5)
    page.get_by_role("button", name="Unlock", exact=True).click()
    _wait(lambda: state.locked == {})
    page.get_by_role("button", name="Undo").click()
    _wait(lambda: len(state.locked) == 3)
    page.get_by_role("button", name="Undo").click()
    _wait(lambda: WEIGHT not in state.plan.tensors and not state.locked)

    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_role("button", name="Select all", exact=True).wait_for()
    selected = state.selected
    top, bottom = (name[id].bounding_box() for id in (weights[0], weights[1]))
    page.mouse.move(top["x"] + 20, top["y"] + 8)
    page.mouse.down()
    page.mouse.move(top["x"] + 25, bottom["y"] + 8, steps=5)
    page.mouse.up()
    page.get_by_text("3 selected").first.wait_for()
    assert state.selected == selected, "no name was clicked"
    width = page.locator(f"[data-tensor='{weights[1]}'] .pock-rail").bounding_box()["width"]
    watched.drag(page.get_by_role("slider", name=f"Trained share of {weights[1]}"), width)
    _wait(lambda: [state.ratios.get(id) for id in weights] == [1, 1, None])


def test_tensors_are_locked_by_pattern_and_rules_are_switched(watched: Watched) -> None:
    state, page = watched.open(), watched.page
    page.get_by_label("Locks and rules").click()
    field, lock = page.get_by_label("Lock tensors"), page.get_by_role("button", name="Lock", exact=True)
    field.fill("block.1.*")
    lock.click()
    page.get_by_role("alert").get_by_text("Did you mean 'blocks.1.*'").wait_for()
    field.fill("re:blocks.[01].*")
    page.get_by_label("At", exact=True).click()
    page.get_by_role("option", name="frozen").click()
    field.press("Enter")
    frozen = {f"blocks.{n}.0.{kind}" for n in range(2) for kind in ("weight", "bias")}
    _wait(lambda: state.locked == dict.fromkeys(frozen, 0.0))
    page.get_by_text("4 tensors locked.").wait_for()
    _wait(lambda: page.get_by_role("alert").count() == 0)
    page.get_by_role("button", name="Unlock all").click()
    page.get_by_label("Weights need their bias").click()
    _wait(lambda: state.rules.weights_need_bias)
    most = page.get_by_label("Most tensors")
    most.fill("few")
    most.press("Enter")
    page.get_by_role("alert").get_by_text("'few' is no number of tensors").wait_for()
    most.fill("4")
    most.press("Enter")
    _wait(lambda: state.rules.max_tensors == 4 and len(state.plan.tensors) <= 4)
    page.get_by_text("Weights with their biases, at most 4 tensors.").wait_for()
    most.fill("")
    most.press("Enter")
    _wait(lambda: state.rules.max_tensors is None)
    page.get_by_role("button", name="Undo").click()
    _wait(lambda: state.rules.max_tensors == 4 and most.input_value() == "4")


# The cost chart's upright line stands at the selected tensor's share.
COST_AT_NOW = "[data-x='{}']"


def test_a_tab_that_was_hidden_is_right_at_once_when_it_is_shown(watched: Watched) -> None:
    state, page = watched.open(), watched.page
    for tab in ("Export", "Train"):
        page.get_by_role("tab", name=tab).click()
        page.get_by_text("in Python").first.wait_for()
        page.get_by_role("button", name="Head", exact=True).first.click()
        _wait(lambda: set(state.plan.tensors) == {"head.weight", "head.bias"})
        page.get_by_role("button", name="Full", exact=True).first.click()
        _wait(lambda: len(state.plan.tensors) > 2)
        page.get_by_role("tab", name="Plan").click()
        changed = next(id for id, ratio in state.ratios.items() if ratio and not id.startswith("head"))
        handle = page.locator(f"[data-tensor='{changed}'] [role=slider]")
        handle.wait_for()
        assert int(handle.get_attribute("aria-valuenow")) > 0
        page.locator(COST_AT_NOW.format(round(100 * state.ratios[state.selected]))).last.wait_for(
            state="attached"
        )
    page.get_by_role("tab", name="Export").click()
    page.get_by_text(f"{len(state.plan.tensors)} of {len(state.plan.model)} tensors learn").wait_for()


def test_the_browsers_tab_names_the_study_that_is_served(chromium, facts, tmp_path: Path) -> None:
    """Of a page that is served before the study is read, as `pockui serve` does."""
    served = dashboard.Server(tmp_path, str(facts.path))
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE_MS)
    try:
        page.goto(f"http://localhost:{served.port}/")
        page.wait_for_function("document.title === 'PockUI · blobs'")
    finally:
        page.close()
        served.process.kill()


def test_it_is_usable_when_narrow_and_dark(chromium, server: Server) -> None:
    page = chromium.new_page(viewport={"width": 420, "height": 900}, has_touch=True)
    watched = Watched(page, server)
    state = watched.open()
    overflow = page.evaluate(
        "() => { const m = document.querySelector('.main-content') ?? document.scrollingElement;"
        " return m.scrollWidth - m.clientWidth }"
    )
    assert overflow <= 1
    page.get_by_label("Toggle theme").click()
    _wait(lambda: state.dark)
    page.wait_for_function("location.search.includes('theme=dark')")
    state = watched.open("?theme=dark")
    assert state.dark
    page.get_by_label("Filter tensors").fill("stem")
    _wait(lambda: page.locator("[data-tensor]").count() == 1)
    page.get_by_label("Filter tensors").fill("nothing like it")
    page.get_by_text("Clear the filter").wait_for()
    page.close()
    assert watched.outside == []
    assert watched.errors == []


def test_charts_the_report_and_the_code_are_taken_away(chromium, watched: Watched, tmp_path: Path) -> None:
    state, page = watched.open(), watched.page
    _wait(lambda: state.plan is not None)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name="Export").click()

    def taken(button: str, name: str) -> bytes:
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name
        return Path(download.value.path()).read_bytes()

    assert taken("Download Layers as SVG", "blobs.layers.svg").startswith(b"<svg ")
    png = taken("Download Frontier as PNG", "blobs.frontier.png")
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (2 * 720, 2 * 300)
    report = taken("Report (HTML)", "blobs.report.html")
    page.get_by_role("button", name="Copy as Python").click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert "study.search(budget" in page.evaluate("navigator.clipboard.readText()")

    (tmp_path / "report.html").write_bytes(report)
    alone = chromium.new_page()
    asked: list[str] = []
    alone.on("request", lambda r: asked.append(r.url))
    alone.goto((tmp_path / "report.html").as_uri())
    assert alone.evaluate("[...document.images].map(i => i.naturalWidth > 100)") == [True] * 3
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert violations(alone) == []
    alone.close()


def test_a_plan_is_downloaded_and_a_broken_one_refused(watched: Watched, tmp_path: Path) -> None:
    state, page = watched.open(), watched.page
    _wait(lambda: state.plan is not None)
    page.get_by_role("tab", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download plan").click()
    saved = tmp_path / "plan.json"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "blobs.plan.json"
    assert Plan.load(saved) == state.plan

    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "pockui.plan/1"}')
    page.locator("input[type=file]").set_input_files(broken)
    page.get_by_text("not a valid plan").wait_for()

    data = json.loads(saved.read_text())
    data["tensors"] = {"head.weight": {}}
    saved.write_text(json.dumps(data))
    page.locator("input[type=file]").set_input_files(saved)
    _wait(lambda: list(state.plan.tensors) == ["head.weight"])
    assert state.origin == "imported"


def test_a_run_shows_its_loss_survives_a_reload_and_is_cancelled(watched: Watched, worker_finds_task) -> None:
    watched.open()
    page = watched.page
    page.get_by_role("tab", name="Train").click()
    page.get_by_label("Steps").fill("100000")
    page.get_by_label("Steps").press("Enter")
    rate = page.get_by_label("Learning rate")
    rate.fill("fast")
    rate.press("Enter")
    page.get_by_role("button", name="Compile and train").click()
    page.get_by_text("'fast' is no learning rate").wait_for()  # a toast with the reason
    rate.fill("0.05")
    rate.press("Enter")
    page.get_by_role("button", name="Compile and train").click()
    page.get_by_text("of 100000").wait_for(timeout=60_000)
    page.locator(".pock-chart path").last.wait_for()
    page.wait_for_function("location.search.includes('run=')")

    page.reload()
    page.get_by_text("of 100000").wait_for()
    watched.settle()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled after").wait_for()
    page.get_by_role("button", name="Compile and train").wait_for()


def test_without_a_study_it_says_how_to_make_one(watched: Watched) -> None:
    watched.open("?study=empty", until="No study yet")
    watched.page.get_by_text("pockui demo vision --quick").wait_for()


def test_names_that_look_like_html_are_shown_as_text_on_every_tab(watched: Watched, tmp_path: Path) -> None:
    state, page = watched.open("?study=forged"), watched.page
    assert state.facts.name == HOSTILE["blobs"]
    page.get_by_text(HOSTILE["stem"]).first.wait_for()
    assert page.locator("[data-tensor]").count() >= 5
    page.get_by_text(HOSTILE["stem"]).first.click()  # its name becomes a heading
    _wait(lambda: state.selected.startswith(HOSTILE["stem"]))
    page.get_by_label("Table").click()
    page.locator("table").get_by_text(HOSTILE["stem"]).first.wait_for()
    page.get_by_role("tab", name="Train").click()
    page.get_by_text("The same in Python, with").wait_for()
    page.get_by_role("tab", name="Export").click()
    plan = json.loads(state.plan.to_json())
    plan["tensors"] = {name: {} for name in HOSTILE.values()}
    evil = tmp_path / "<img src=x onerror=window.pwned=1>.json"
    evil.write_text(json.dumps(plan))
    page.locator("input[type=file]").set_input_files(evil)
    page.get_by_role("alert").get_by_text("<img src=x onerror").wait_for()
    page.wait_for_timeout(300)
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.locator("img[src=x], svg[onload]").count() == 0


def test_runs_and_plans_are_compared_by_hand(watched: Watched) -> None:
    state, page = watched.open(), watched.page
    page.get_by_role("tab", name="Compare").click()
    field = page.get_by_label("Keep this plan as")
    field.fill("first")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.get_by_role("rowheader", name="first").wait_for()
    page.get_by_role("button", name="Head", exact=True).first.click()
    _wait(lambda: set(state.plan.tensors) == {"head.weight", "head.bias"})
    page.get_by_role("button", name="Pin first as the baseline").press("Enter")
    page.get_by_role("button", name="Unpin first as the baseline").wait_for()
    assert page.evaluate(FOCUSED).startswith("pin "), "the focus stays where it was"
    page.locator("[data-record=current] .pock-delta").first.wait_for()
    page.get_by_role("button", name="Make first the current plan").click()
    _wait(lambda: state.origin == "kept" and len(state.plan.tensors) > 2)
    page.get_by_text("They train the same channels").wait_for()


# What has the focus, through shadow roots.
FOCUSED = """() => { let e = document.activeElement;
  while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
  return e.dataset.key ?? "" }"""


UNDRAWN = """async () => {
  const HTML = Bokeh.Models.get("panel.models.markup.HTML");
  const model = new HTML({text: "said", visible: false});
  const view = new HTML.prototype.default_view({model, parent: Bokeh.index.roots[0]});
  view.initialize();
  await view.lazy_initialize();
  view.connect_signals();
  model.visible = true;
  view.disconnect_signals();
}"""


def test_what_becomes_visible_before_it_is_drawn_stops_no_message(watched: Watched) -> None:
    watched.open()
    watched.page.evaluate(UNDRAWN)
