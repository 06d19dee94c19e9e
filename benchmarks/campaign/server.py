"""The dashboard's server: many sessions at once, requests of strangers, and an end in the middle of a run.

python benchmarks/campaign/server.py 30      # this part alone, with 30 sessions
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backend"), str(ROOT / "tests/field")]

from dashboard import BUDGET, STUDY, TASK, Server, Session, make_served_folder  # noqa: E402

from pockgraph.search.plan_search import Budget, Constraints  # noqa: E402
from pockui.info.budgets import budget_range, to_limit  # noqa: E402
from pockui.facts import Facts, read_facts  # noqa: E402
from pockui.page import TRAIN  # noqa: E402

EDITS = 8  # of each session
PAUSE_S = (0.5, 1.5)  # between a person's edits
END_S = 8.0  # in which a run has to end with its server
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Outcome:
    """What the server showed, and what was wrong."""

    figures: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def check(self, right: bool, fault: str) -> None:
        if not right:
            self.faults.append(fault)


def run(sessions: int, work: Path) -> Outcome:
    """Everything, with so many sessions at once; a page beyond them is refused."""
    made = Outcome()
    study = make_served_folder(work / "served")
    before = read_facts(study)
    for count in sorted({1, sessions}):
        with served(study.parent, STUDY, "--max-sessions", str(sessions)) as server:
            asyncio.run(use(server, before, count, sessions, made))
    with served(study.parent) as server:
        ask_as_strangers(server, made)
        asyncio.run(ask_for_other_files(server, made))
    made.check(_serve_openly(study.parent) == 2, "it listened on 0.0.0.0 without a password")
    for number in ENDS:
        end_during_a_run(work / f"ended-{number.name}", study.parent, number, made)
    made.figures["ended during a run by " + ", ".join(n.name for n in ENDS)] = (
        f"processes and temporary files gone within {END_S:g} s"
    )
    return made


# ---------------------------------------------------------------------- many at once


async def use(
    server: Server, facts: Facts, count: int, limit: int, made: Outcome, edits: int = EDITS
) -> None:
    """`count` sessions drag their own budgets; each has to get its own plan and nobody else's."""
    process = psutil.Process(server.process.pid)
    start, cpu = time.perf_counter(), _cpu_s(process)
    opened = [Session(server) for _ in range(count)]
    await asyncio.gather(*(s.open() for s in opened))
    open_s, open_cpu = time.perf_counter() - start, _cpu_s(process) - cpu
    if count == limit:
        status, headers, text = await asyncio.to_thread(server.ask)
        made.check(status == 503 and f"{limit} sessions are open" in text, f"one page too many got {status}")
        made.check("Retry-After" in headers, "a refused page does not say when to come back")
        made.figures[f"page beyond {limit}"] = f"refused with {status}"
    cpu = _cpu_s(process)
    answers = await asyncio.gather(*(_drag(s, i, count, edits, facts, made) for i, s in enumerate(opened)))
    edit_cpu = (_cpu_s(process) - cpu) / (count * edits)
    latencies = sorted(s for answer in answers for s in answer)
    for s in opened:
        s.close()
    name = f"{count} session{'s' * (count > 1)}"
    made.figures[f"{name}: all pages open after"] = f"{open_s:.1f} s ({open_cpu / count:.2f} s of CPU each)"
    p50, p95 = _quantile(latencies, 0.5), _quantile(latencies, 0.95)
    made.figures[f"{name}: an edit is answered, p50 / p95"] = (
        f"{p50:.2f} s / {p95:.2f} s ({edit_cpu:.2f} s of CPU each)"
    )
    made.figures[f"{name}: memory of the server"] = f"{process.memory_info().rss / 1e6:.0f} MB"


async def _drag(
    session: Session, index: int, count: int, edits: int, facts: Facts, made: Outcome
) -> list[float]:
    """Latencies of one session's edits; what it sees is held against the search's answer for its budget."""
    draw = random.Random(index)
    found = budget_range("peak_bytes", facts.known_plans)
    assert found is not None
    bar = session.models("BudgetBar", label=BUDGET)[0]["id"]
    rows = session.models("LayerBars")[0]["id"]
    latencies = []
    for edit in range(1, edits + 1):
        # No two sessions ask for the same value, ever.
        share = (draw.randrange(2, 9) + (edit * count + index) / ((edits + 1) * count)) / 10
        value = found.floor + share * (found.end - found.floor)
        start = time.perf_counter()
        await session.edit(bar, {"kind": "budget", "value": value, "final": True, "seq": edit})
        limit = to_limit("peak_bytes", value, found.unit)
        await session.settled(bar, "value", limit / found.unit.size)
        latencies.append(time.perf_counter() - start)
        plan = facts.search(Budget(peak_bytes=limit), Constraints())
        expected = facts.predict(facts.profile.ratios_of(plan)).figures.peak_bytes / found.unit.size
        try:
            await session.settled(bar, "used", expected)
        except (AssertionError, TimeoutError) as e:
            made.faults.append(f"session {index} of {count}, edit {edit}: {e}")
        await asyncio.sleep(draw.uniform(*PAUSE_S))
    await session.pull()
    end = session.models("BudgetBar", label=BUDGET)[0]["attributes"]
    made.check(
        end["value"] == limit / found.unit.size, f"session {index} of {count} ended with another's budget"
    )
    made.check(session.models("LayerBars")[0]["id"] == rows, f"session {index} of {count} got another's page")
    return latencies


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


# ---------------------------------------------------------------------- strangers


def ask_as_strangers(server: Server, made: Outcome) -> None:
    """Requests under other names and of other sites' pages, over HTTP and as websockets."""
    evil = f"evil.example:{server.port}"
    asked = 0
    for path in (
        "/",
        "/ws",
        "/autoload.js",
        "/static/js/bokeh.min.js",
        "/static/extensions/panel/panel.min.js",
    ):
        for host in (
            evil,
            "evil.example",
            f"localhost.evil.example:{server.port}",
            f"10.0.0.7:{server.port}",
        ):
            status = server.ask(path, Host=host)[0]
            made.check(status == 421, f"{path} under the name {host} got {status}")
            asked += 1
    origins = ("http://evil.example", f"http://{evil}", "null", "http://localhost:1", "file://")
    for origin in origins:
        for status in (server.ask(Origin=origin)[0], server.upgrade(Origin=origin)):
            made.check(status == 403, f"a page of {origin} got {status}")
            asked += 1
    status = server.upgrade(Host=evil, Origin=f"http://{evil}")
    made.check(status == 421, f"a websocket of a rebound name got {status}")
    made.figures["requests under other names, of other pages"] = f"{asked + 1}, all refused"


async def ask_for_other_files(server: Server, made: Outcome) -> None:
    """`?study=` with files that lie elsewhere or never end; a page asked for meanwhile has to open."""
    folder = server.log.parent
    fifo = folder / "pipe.db"
    if not fifo.exists():
        os.mkfifo(fifo)
    outside = folder.parent / "outside.db"
    outside.write_bytes((folder / STUDY).read_bytes())
    link = folder / "link.db"
    if not link.exists():
        link.symlink_to(outside)
    asked = (
        "pipe.db",
        str(outside),
        "../outside.db",
        "link.db",
        "/dev/stdin",
        "/etc/passwd",
        "a\0.db",
        "x" * 5000,
    )
    waiting = [Session(server, f"?study={quote(name)}") for name in asked]
    opening = [asyncio.create_task(s.open(20)) for s in waiting]
    start = time.perf_counter()
    own = Session(server, f"?study={STUDY}")
    await own.open(30)
    took_s = time.perf_counter() - start
    made.check(took_s < 15, f"a page waited {took_s:.0f} s for the files that others named")
    done = await asyncio.gather(*opening, return_exceptions=True)
    for name, result, session in zip(asked, done, waiting):
        made.check(isinstance(result, BaseException), f"?study={name[:50]!r} was opened")
        text = str(session.document)
        made.check("This study cannot be shown" in text, f"?study={name[:50]!r} got no reason")
        session.close()
    own.close()
    made.figures["?study= outside the folder, pipes, links"] = (
        f"{len(asked)}, all refused; others waited {took_s:.1f} s"
    )


def _serve_openly(folder: Path) -> int:
    """Exit status of a server on every address without a password; 0 when it kept running."""
    command = [sys.executable, "-m", "pockui.cli", "serve", "--address", "0.0.0.0", "--no-show"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=60).returncode
    except subprocess.TimeoutExpired:
        return 0


# ---------------------------------------------------------------------- the end


def end_during_a_run(work: Path, source: Path, number: signal.Signals, made: Outcome) -> None:
    """Send the server a signal while a run trains: no process and no temporary file outlives it."""
    work.mkdir(parents=True)
    for name in (STUDY, "ui_task.py"):
        (work / name).write_bytes((source / name).read_bytes())
    temporary = work / "tmp"
    temporary.mkdir()
    with served(work, STUDY, "--task", TASK, TMPDIR=str(temporary)) as server:
        asyncio.run(_start_a_run(server))
        artifact = work / "out"
        running = _wait(lambda: [*artifact.glob("*/manifest.json")] and _children(server), 90)
        made.check(bool(running), f"{number.name}: the run did not start")
        time.sleep(1)
        processes = _children(server)
        made.check(bool(processes), f"{number.name}: the run ended by itself")
        server.process.send_signal(number)
        server.process.wait(20)
        left = _wait(lambda: not [p for p in processes if _lives(p)], END_S)
    made.check(left, f"{number.name}: {sum(map(_lives, processes))} processes outlived the server")
    for p in filter(_lives, processes):
        p.kill()
    litter = [str(p.relative_to(work)) for p in (*temporary.rglob("*"), *artifact.glob(".*")) if p.is_file()]
    made.check(not litter, f"{number.name}: left {', '.join(litter[:5])}")


async def _start_a_run(server: Server) -> None:
    session = Session(server)
    await session.open()
    (tabs,) = session.models("Tabs")
    await session.set(tabs["id"], "active", TRAIN)
    limit = time.monotonic() + 30
    while not (found := session.models("IntInput", label="Steps")):  # made when the tab is shown
        assert time.monotonic() < limit, "the tab stayed empty"
        await session.pull()
    steps = found[0]
    await session.set(steps["id"], "value", 1_000_000)
    await session.click("Compile and train")
    await session.pull()
    session.close()


def _children(server: Server) -> list[psutil.Process]:
    try:
        return psutil.Process(server.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(until: Callable[[], Any], seconds: float) -> Any:
    """What `until` returns once it is true, or after the time."""
    limit = time.monotonic() + seconds
    while not (found := until()) and time.monotonic() < limit:
        time.sleep(0.05)
    return found


@contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "backend"), os.environ.get("PYTHONPATH", "")]))
    server = Server(folder, *arguments, PYTHONPATH=path, **environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(20)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as found:
        result = run(int(sys.argv[1]) if len(sys.argv) > 1 else 30, Path(found))
    for what, figure in result.figures.items():
        print(f"{what}: {figure}")
    print("\n".join(["faults:", *result.faults]) if result.faults else "no faults")
    sys.exit(1 if result.faults else 0)
