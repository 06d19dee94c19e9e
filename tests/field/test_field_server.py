"""The dashboard's server, started from a shell as people start it, and asked as strangers would ask."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from dashboard import STUDY, PanelServer, Server, Session, make_served_folder, token_of  # pyright: ignore
from own_loop import run_in_own_loop
from project_on_disk import told

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/campaign"))

import server as campaign  # pyright: ignore

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("served"), "--max-sessions", "4")
    yield made
    made.process.kill()


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("guarded"), POCKUI_PASSWORD=PASSWORD)
    yield made
    made.process.kill()


def test_dns_rebinding_gets_nothing(open_server: Server) -> None:
    evil = f"evil.example:{open_server.port}"
    for path in ("/", "/ws", "/static/js/bokeh.min.js", "/static/extensions/panel/panel.min.js", "/nothing"):
        status, _, text = open_server.ask(path, Host=evil)
        assert status == 421, path
        assert "--allow-host" in text
    assert open_server.upgrade(Host=evil, Origin=f"http://{evil}") == 421


def test_another_sites_page_opens_no_websocket(open_server: Server) -> None:
    for origin in ("http://evil.example", "null", f"https://evil.example:{open_server.port}"):
        assert open_server.upgrade(Origin=origin) == 403


def test_the_own_page_opens_one_until_the_server_is_full(open_server: Server) -> None:
    status, _, page = open_server.ask()
    assert status == 200
    own = f"http://localhost:{open_server.port}"
    assert open_server.upgrade(token_of(page), Origin=own) == 101
    answers = [open_server.ask() for _ in range(5)]
    assert [a[0] for a in answers[-2:]] == [503, 503]
    assert "4 sessions are open" in answers[-1][2]
    assert answers[-1][1]["Retry-After"]
    assert open_server.upgrade(token_of(page), Origin=own) == 101  # one who is in may come back


def test_a_password_is_asked_for_before_anything_is_shown(guarded_server: Server) -> None:
    status, headers, _ = guarded_server.ask()
    assert (status, headers["Location"].partition("?")[0]) == (302, "./login")
    assert guarded_server.upgrade() == 403
    form = guarded_server.ask("/login")[2]
    assert 'type="password"' in form
    assert "http" not in re.sub(r"http-equiv", "", form), "the login page asks other machines for something"

    typed = {"Content_Type": "application/x-www-form-urlencoded"}
    wrong = guarded_server.ask("/login", "POST", urlencode({"password": "wrong horse"}), **typed)
    assert (wrong[0], wrong[1]["Location"]) == (302, "/login?error=1")
    assert "user=" not in str(wrong[1].get_all("Set-Cookie"))

    right = guarded_server.ask("/login", "POST", urlencode({"password": PASSWORD}), **typed)
    cookies = "; ".join(c.partition(";")[0] for c in right[1].get_all("Set-Cookie") or [])
    status, _, page = guarded_server.ask(Cookie=cookies)
    assert status == 200
    assert guarded_server.upgrade(token_of(page), Cookie=cookies) == 101
    assert guarded_server.upgrade(token_of(page)) == 403, "a token alone must not do"
    assert PASSWORD not in guarded_server.log.read_text()


def test_a_login_goes_on_to_the_page_that_was_asked_for(guarded_server: Server) -> None:
    """After a wrong password, and beside another tab's login, too."""
    typed = {"Content_Type": "application/x-www-form-urlencoded"}
    pages = "/?study=out%2Fa%20b.db&theme=dark", "/?study=other.db"
    for asked, other in (pages, pages[::-1]):
        form = guarded_server.ask(asked)[1]["Location"].removeprefix(".")
        assert guarded_server.ask(guarded_server.ask(other)[1]["Location"].removeprefix("."))[0] == 200
        assert 'action="' not in guarded_server.ask(form)[2], (
            "it goes to its own address, with the page asked for"
        )
        wrong = guarded_server.ask(form, "POST", urlencode({"password": "wrong horse"}), **typed)
        again = wrong[1]["Location"]
        assert "That is not the password" in guarded_server.ask(again)[2]
        right = guarded_server.ask(again, "POST", urlencode({"password": PASSWORD}), **typed)
        assert (right[0], right[1]["Location"]) == (302, asked)
    elsewhere = urlencode({"next": "https://evil.example/"})
    refused = guarded_server.ask(f"/login?{elsewhere}", "POST", urlencode({"password": PASSWORD}), **typed)
    assert refused[0] == 400


def test_every_request_of_a_login_stays_here(guarded_server: Server) -> None:
    for path in ("/login", "/login?error=<script>alert(1)</script>", "/logout"):
        text = guarded_server.ask(path)[2]
        assert "//" not in text.replace("<!doctype html>", "")
        assert "alert(1)" not in text


def test_an_address_that_others_reach_needs_a_password() -> None:
    assert "POCKUI_PASSWORD" in told("serve", "--address", "0.0.0.0", "--no-show")


def test_a_port_in_use_is_one_paragraph_with_a_free_one(open_server: Server) -> None:
    said = told("serve", "--port", open_server.port, "--no-show")
    assert re.search(r"is in use.*--port \d+", said)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served_folder(tmp_path_factory.mktemp("campaign") / "served")


@pytest.fixture(scope="module")
def study_server(study: Path) -> Iterator[Server]:
    with campaign.served(study.parent, STUDY) as server:
        yield server


def test_a_browser_that_draws_slowly_gets_the_study(study_server: Server) -> None:
    """What is changed between its fetching of the document and its word that it is drawn is not lost."""

    async def draw_slowly(server: Server) -> None:
        session = campaign.Session(server)
        await session.connect()
        assert not session.models("BudgetBar")
        await asyncio.sleep(3)  # reading the study takes less
        await session.say_drawn()
        await session.told_of("BudgetBar", 30)
        session.close()

    run_in_own_loop(draw_slowly(study_server))


def test_tabs_that_are_closed_in_the_middle_leave_no_traceback_in_the_log(study: Path) -> None:
    async def come_and_go(server: Server) -> None:
        for closed_at_once in (False, True, False):
            session = campaign.Session(server)
            await session.connect()
            if not closed_at_once:
                await session.open()
                bar = session.models("BudgetBar", label="Peak memory")[0]["id"]
                for number in range(1, 13):
                    edit = {"kind": "budget", "value": 100.0 + number, "final": True, "seq": number}
                    await session.set(bar, "edit", edit)
            session.close()
        last = campaign.Session(server)  # the server goes on, and has dealt with the others by then
        await last.open()
        last.close()

    with campaign.served(study.parent, STUDY) as server:
        run_in_own_loop(come_and_go(server))
        time.sleep(0.5)
        log = server.log.read_text()
    assert "Traceback" not in log
    assert "connection was closed" not in log


def test_five_people_who_drag_at_once_each_get_their_own_plan(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "PAUSE_S", (0.0, 0.2))
    own = tmp_path / "served"  # pages follow their study, to which others may add runs
    shutil.copytree(study.parent, own)
    found, limit = campaign.Outcome(), 20  # of sessions
    with campaign.served(own, STUDY) as server:
        run_in_own_loop(campaign.use(server, campaign.read_facts(own / STUDY), 5, limit, found, edits=3))
    assert found.faults == []


def test_a_killed_server_leaves_no_run_and_no_temporary_file(study: Path, tmp_path: Path) -> None:
    found = campaign.Outcome()
    campaign.end_during_a_run(tmp_path / "ended", study.parent, signal.SIGKILL, found)
    assert found.faults == []


async def _shown(server: Server, host: str) -> None:
    """Open the study's page of `panel serve` under a name."""
    session = Session(server, page="app", Host=host, Origin=f"http://{host}")
    await session.open(60)
    session.close()


async def _told(server: Server, host: str) -> str:
    """What `panel serve` shows, instead of a study, to a page that reaches it under a name."""
    session = Session(server, page="app", Host=host, Origin=f"http://{host}")
    await session.connect(30)
    session.close()
    assert not session.models("BudgetBar")
    return str(session.document)


def test_panel_serve_answers_to_loopback_and_the_names_it_was_given(study: Path) -> None:
    given = {"POCKUI_ALLOW_HOST": "lab.example"}
    here = ("--address", "127.0.0.1", "--allow-websocket-origin", "*", "--args", STUDY)
    server = PanelServer(study.parent, *here, **given)
    try:
        for name in (f"localhost:{server.port}", f"lab.example:{server.port}"):
            run_in_own_loop(_shown(server, name))
        told = run_in_own_loop(_told(server, f"evil.example:{server.port}"))
    finally:
        server.process.kill()
    assert "does not answer to the name" in told


def test_panel_serve_on_every_address_shows_nothing_without_a_password(study: Path) -> None:
    everywhere = ("--address", "0.0.0.0", "--allow-websocket-origin", "*", "--args", STUDY)
    server = PanelServer(study.parent, *everywhere)
    try:
        told = run_in_own_loop(_told(server, f"localhost:{server.port}"))
    finally:
        server.process.kill()
    assert "asks for no password" in told
    assert "--address 127.0.0.1" in told
