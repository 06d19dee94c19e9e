"""How fast the dashboard answers in a browser, and what a page costs.

    python benchmarks/ui.py --study out/demo-vision/study.db --out docs/results/ui.md

Serves the study in a process of its own and opens it in headless Chromium. A handle is moved step by step
with the mouse, and each step waits until the page is at rest: the time from the move to the frame that shows
the last number it changed is one sample. Charts are drawn when a drag pauses and are not waited for. Besides:
processor time of the server and of the page for each move, messages and bytes; how long a page takes to be
there and what it fetches; what axe-core, the console and the server's log say.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backend"), str(ROOT / "tests/field"), str(ROOT / "tests/ui")]

from dashboard import Server  # noqa: E402
from headless import is_there, launch, violations  # noqa: E402

from pockgraph.files import write_atomically  # noqa: E402
from pockgraph.machine import machine  # noqa: E402
from pockui.state import read_facts  # noqa: E402

PARTS = ("loads", "drags", "states")
GOALS = {"drag": 60.0, "drag, all tensors": 100.0, "cold": 2000.0, "warm": 1000.0, "bytes": 4e6}
LEFT, RIGHT = 0.2, 0.95  # ends of a drag, as shares of the track
QUIET_MS = 350  # longer than the pause after which charts are drawn
PATIENCE_MS = 60_000
WIDE, NARROW = {"width": 1400, "height": 1000}, {"width": 420, "height": 900}

# Notes the frame that shows each change in the page, shadow roots included, charts left out.
WATCH = """() => {
  const seen = window.__seen = {moved: 0, shown: 0, changes: 0};
  const observer = new MutationObserver(() => {
    seen.changes += 1;
    requestAnimationFrame(() => { seen.shown = performance.now(); });
  });
  const what = {subtree: true, childList: true, characterData: true, attributes: true};
  (function watch(root) {
    observer.observe(root, what);
    for (const e of root.querySelectorAll("*")) {
      if (e.shadowRoot && !e.shadowRoot.querySelector(".pock-chart")) watch(e.shadowRoot);
    }
  })(document);
  addEventListener("pointermove", () => { seen.moved = performance.now(); }, true);
}"""
# All numbers of the page that follow a drag: the tiles and the comparison.
NUMBERS = """() => {
  const out = [];
  (function read(root) {
    for (const e of root.querySelectorAll(".tile, table")) out.push(e.textContent);
    for (const e of root.querySelectorAll("*")) if (e.shadowRoot) read(e.shadowRoot);
  })(document);
  return out.join();
}"""


@dataclass
class Moves:
    """What moving one handle took, one entry a move that changed numbers.

    Attributes:
        times_ms: from the move to the frame with the last number that it changed.
        idle: moves that changed no number.
        server_ms, page_ms: processor time a move, of the server and of the page.
        messages, sent_bytes: to the browser, a move.
    """

    times_ms: list[float] = field(default_factory=list)
    idle: int = 0
    server_ms: float = 0.0
    page_ms: float = 0.0
    messages: float = 0.0
    sent_bytes: float = 0.0

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def p95_ms(self) -> float:
        return statistics.quantiles(self.times_ms, n=20, method="inclusive")[-1]


@dataclass
class Load:
    """One opening of the page; times from the navigation's start, bytes uncompressed."""

    first_byte_ms: float
    shown_ms: float
    chart_ms: float
    chart_bytes: int
    bytes: int


class Watched:
    """A page, what it fetched and was sent, and its errors."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.fetched_bytes = 0
        self._own: set[str] = set()  # requests that no server answers
        self.messages = 0
        self.sent_bytes = 0
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self._request(request.url))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(" ".join(str(e.stack or e).split())[:500]))
        page.on("websocket", lambda socket: socket.on("framereceived", self._frame))
        self.cdp = page.context.new_cdp_session(page)
        self.cdp.send("Network.enable")
        self.cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.cdp.on("Network.requestWillBeSent", self._asked)
        self.cdp.on("Network.dataReceived", self._data)

    def _request(self, url: str) -> None:
        if not url.startswith((self.url, self.url.replace("http", "ws"), "data:", "blob:")):
            self.outside.append(url)

    def _frame(self, content: Any) -> None:
        self.messages += 1
        self.sent_bytes += len(content)

    def _asked(self, event: dict[str, Any]) -> None:
        if event["request"]["url"].startswith(("blob:", "data:")):  # what the page has already
            self._own.add(event["requestId"])

    def _data(self, event: dict[str, Any]) -> None:
        if event["requestId"] not in self._own:
            self.fetched_bytes += event["dataLength"]

    def work_ms(self) -> float:
        """Processor time of the page's own thread since it began."""
        found = {m["name"]: m["value"] for m in self.cdp.send("Performance.getMetrics")["metrics"]}
        return 1000 * found["TaskDuration"]

    def open(self, query: str = "") -> Load:
        """Load the page and wait for its numbers, bars and first chart."""
        begun, bytes_before = time.perf_counter(), self.fetched_bytes
        self.page.goto(self.url + query, wait_until="commit")
        self.page.locator("[data-tensor]").first.wait_for()
        self.page.locator(".tile").first.wait_for()
        shown_ms = 1000 * (time.perf_counter() - begun)
        self.page.locator(".pock-chart svg").first.wait_for()
        chart_ms = 1000 * (time.perf_counter() - begun)
        chart_bytes = self.fetched_bytes - bytes_before
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(1000)
        first = self.page.evaluate("performance.getEntriesByType('navigation')[0].responseStart")
        return Load(first, shown_ms, chart_ms, chart_bytes, self.fetched_bytes - bytes_before)


def drag(watched: Watched, server: psutil.Process, track: Any, moves: int) -> Moves:
    """Move the handle of a track from its right end to near its left end and back, step by step."""
    page, made = watched.page, Moves()
    track.scroll_into_view_if_needed()
    page.wait_for_timeout(QUIET_MS)
    box = track.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + RIGHT * box["width"], y)
    page.mouse.down()
    page.wait_for_timeout(2 * QUIET_MS)
    page.evaluate(WATCH)
    before = server.cpu_times(), watched.work_ms(), watched.messages, watched.sent_bytes
    numbers = page.evaluate(NUMBERS)
    for i in range(moves):
        way = 1 - abs(1 - 2 * (i + 1) / moves)  # to 1, and back to 0
        page.mouse.move(box["x"] + (RIGHT - way * (RIGHT - LEFT)) * box["width"], y)
        page.wait_for_function(
            f"performance.now() - Math.max(__seen.moved, __seen.shown) > {QUIET_MS}", polling=50
        )
        after = page.evaluate(NUMBERS)
        if after == numbers:
            made.idle += 1
            continue
        numbers = after
        made.times_ms.append(page.evaluate("__seen.shown - __seen.moved"))
    used = server.cpu_times()
    made.server_ms = 1000 * (used.user + used.system - before[0].user - before[0].system) / moves
    made.page_ms = (watched.work_ms() - before[1]) / moves
    made.messages = (watched.messages - before[2]) / moves
    made.sent_bytes = (watched.sent_bytes - before[3]) / moves
    page.mouse.up()
    page.wait_for_timeout(QUIET_MS)
    return made


def all_drags(watched: Watched, server: psutil.Process, row: str, moves: int) -> dict[str, Moves]:
    """Each kind of drag by its name."""
    page, out = watched.page, {}

    def budget(label: str) -> Any:
        return page.locator(".pock-budget-track").filter(
            has=page.get_by_role("slider", name=label, exact=True)
        )

    bar = page.locator(f"[data-tensor='{row}'] .pock-rail")
    for label in ("Peak memory", "Process memory", "Step time"):
        if budget(label).is_visible():
            out[f"{label.lower()} budget"] = drag(watched, server, budget(label), moves)
    out["bar"] = drag(watched, server, bar, moves)
    page.get_by_label("All tensors").click()
    page.wait_for_timeout(4 * QUIET_MS)
    rows = page.locator("[data-tensor]").count()
    out[f"peak memory budget, {rows} rows"] = drag(watched, server, budget("Peak memory"), moves)
    out[f"bar, {rows} rows"] = drag(watched, server, bar, moves)
    return out


def check_states(browser: Browser, url: str) -> list[str]:
    """What axe-core finds on every tab, wide and narrow, light and dark; and errors of these pages."""
    found = []
    for size in (WIDE, NARROW):
        for theme in ("light", "dark"):
            page = browser.new_page(viewport=size)
            watched = Watched(page, url)
            watched.open(f"?theme={theme}")
            for tab in page.get_by_role("tab").all():
                tab.click()
                page.wait_for_timeout(QUIET_MS)
                where = f"{theme}, {size['width']} px, {tab.inner_text()}"
                found += [f"{where}: {line}" for line in violations(page)]
            found += [f"outside: {line}" for line in watched.outside]
            found += [f"console: {line}" for line in watched.errors]
            page.close()
    return found


@contextmanager
def served(study: Path, folder: Path) -> Iterator[Server]:
    """`pockui serve` on a study, in an empty folder."""
    server = Server(folder, str(study.resolve()))
    try:
        yield server
    finally:
        server.end()


def run(study: Path, parts: Sequence[str], moves: int, loads: int) -> dict[str, Any]:
    """All figures of some of the `PARTS` by their names."""
    row = max((r for r in read_facts(study).rows if r.gains and r.steps > 1), key=lambda r: r.best).id
    out: dict[str, Any] = {"drags": {}, "cold": [], "warm": [], "outside": [], "errors": [], "found": []}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launch(playwright)
        for _ in range(
            loads if "loads" in parts else 0
        ):  # a server that nobody has asked yet, an empty cache
            with served(study, Path(folder)) as server:
                context = browser.new_context(viewport=WIDE)
                for kind in ("cold", "warm"):
                    watched = _page(context, server)
                    out[kind].append(watched.open())
                    watched.page.close()
                context.close()
        with served(study, Path(folder)) as server:
            if "drags" in parts:
                watched = _page(browser.new_context(viewport=WIDE), server)
                watched.open()
                out["drags"] = all_drags(watched, psutil.Process(server.process.pid), row, moves)
                out["outside"], out["errors"] = watched.outside, watched.errors
                watched.page.close()
            if "states" in parts:
                out["found"] = check_states(browser, f"http://localhost:{server.port}/")
            time.sleep(1)  # for what the server says of sessions that end
            out["tracebacks"] = server.log.read_text().count("Traceback")
        browser.close()
    return out


def _page(context: BrowserContext, server: Server) -> Watched:
    return Watched(context.new_page(), f"http://localhost:{server.port}/")


def report(found: dict[str, Any], study: Path, command: str) -> str:
    """The results as Markdown."""
    facts, where = read_facts(study), machine()
    lines = [
        "# How fast the dashboard answers",
        "",
        f"The study of `{facts.name}`, {len(facts.rows)} rows, in headless Chromium; {where['cores']} cores",
        f"of an {where['cpu']}, shared by the server, the browser and whatever else ran. Each",
        "move waits until the page is at rest; its time ends with the frame that shows the last number",
        "it changed. Charts follow when a drag pauses, and are not waited for. Server and page are",
        "processor time, in ms, of the server's process and the page's main thread, charts included:",
        "other programs change it little.",
        "",
        f"    {command}",
        "",
        _row("drag", "p50 ms", "p95 ms", "goal p95", "moves with new numbers", "server ms a move",
             "page ms a move", "messages a move", "kB a move"),
        "|---|" + 8 * "--:|",
    ]  # fmt: skip
    for name, m in found["drags"].items():
        goal = GOALS["drag, all tensors" if "rows" in name else "drag"]
        counted = f"{len(m.times_ms)} of {len(m.times_ms) + m.idle}"
        times = (f"{m.p50_ms:.0f}", f"{m.p95_ms:.0f}") if m.times_ms else ("–", "–")
        lines.append(
            _row(name, *times, f"{goal:.0f}", counted, f"{m.server_ms:.0f}", f"{m.page_ms:.0f}",
                 f"{m.messages:.1f}", f"{m.sent_bytes / 1e3:.1f}")
        )  # fmt: skip
    lines += [
        "",
        _row("load", "first byte ms", "numbers and bars ms", "goal", "first chart ms",
             "MB before the first chart", "goal", "MB in all"),
        "|---|" + 7 * "--:|",
    ]  # fmt: skip
    for kind, name in (("cold", "first of a server, empty cache"), ("warm", "again, with a cache")):
        if found[kind]:
            load = sorted(found[kind], key=lambda load: load.shown_ms)[len(found[kind]) // 2]
            lines.append(
                _row(name, f"{load.first_byte_ms:.0f}", f"{load.shown_ms:.0f}", f"{GOALS[kind]:.0f}",
                     f"{load.chart_ms:.0f}", f"{load.chart_bytes / 1e6:.1f}", f"{GOALS['bytes'] / 1e6:.0f}",
                     f"{load.bytes / 1e6:.1f}")
            )  # fmt: skip
    return "\n".join(
        [
            *lines,
            "",
            f"Of {len(found['cold'])} loads of each kind, the median. Bytes are uncompressed.",
            "",
            "| on every tab, light and dark, 1400 and 420 px wide | |",
            "|---|--:|",
            _row("requests to other machines", len(found["outside"]) + _count(found, "outside:")),
            _row("console errors", len(found["errors"]) + _count(found, "console:")),
            _row("tracebacks in the server's log", found["tracebacks"]),
            _row("elements that break a rule of axe-core", _count(found, " px, ")),
            "",
        ]
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _count(found: dict[str, Any], kind: str) -> int:
    return sum(kind in line for line in found["found"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", type=Path, default=Path("out/demo-vision/study.db"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--moves", type=int, default=50, help="of each drag")
    parser.add_argument("--loads", type=int, default=3, help="of each kind")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    asked = parser.parse_args()
    if not asked.study.is_file():
        parser.error(f"there is no study {asked.study}. Make it with: make demo")
    if not is_there():
        parser.error("there is no chromium on the PATH. On Debian: apt-get install chromium")
    found = run(asked.study, asked.parts, asked.moves, asked.loads)
    text = report(found, asked.study, f"python benchmarks/ui.py --moves {asked.moves} --loads {asked.loads}")
    print(text, *found["outside"], *found["errors"], *found["found"], sep="\n")
    if asked.out:
        write_atomically(asked.out, text.encode())


if __name__ == "__main__":
    main()
