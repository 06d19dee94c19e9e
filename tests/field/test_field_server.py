"""The dashboard's server, started from a shell as people start it, and asked as strangers would ask."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest

PASSWORD = "correct horse battery"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`pockui serve` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.log = folder / "log.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pockui.cli", "serve", "--port", str(self.port), "--no-show", *arguments],
            cwd=folder,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        limit = time.monotonic() + 90
        while "Dashboard on" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)

    def ask(self, path: str = "/", method: str = "GET", body: str | None = None, **headers: str):
        """(status, headers, text) of an HTTP request; `Host` is the server's own unless given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            sent = {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, body, {"Host": f"localhost:{self.port}"} | sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")

    def upgrade(self, token: str = "x", **headers: str) -> int:
        """The status of an attempt to open a websocket."""
        how = {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec_WebSocket_Protocol": f"bokeh, {token}",
        }  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            sent = {k.replace("_", "-"): v for k, v in (how | headers).items()}
            connection.request("GET", "/ws", headers={"Host": f"localhost:{self.port}"} | sent)
            return connection.getresponse().status

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


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


def _token(page: str) -> str:
    found = re.search(r'"token":"([^"]+)"', page)
    assert found
    return found.group(1)


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
    assert open_server.upgrade(_token(page), Origin=own) == 101
    answers = [open_server.ask() for _ in range(5)]
    assert [a[0] for a in answers[-2:]] == [503, 503]
    assert "4 sessions are open" in answers[-1][2]
    assert answers[-1][1]["Retry-After"]
    assert open_server.upgrade(_token(page), Origin=own) == 101  # one who is in may come back


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
    assert guarded_server.upgrade(_token(page), Cookie=cookies) == 101
    assert guarded_server.upgrade(_token(page)) == 403, "a token alone must not do"
    assert PASSWORD not in guarded_server.log.read_text()


def test_every_request_of_a_login_stays_here(guarded_server: Server) -> None:
    for path in ("/login", "/login?error=<script>alert(1)</script>", "/logout"):
        text = guarded_server.ask(path)[2]
        assert "//" not in text.replace("<!doctype html>", "")
        assert "alert(1)" not in text


def _cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pockui.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_address_that_others_reach_needs_a_password(tmp_path: Path) -> None:
    asked = _cli(tmp_path, "serve", "--address", "0.0.0.0", "--no-show")
    assert asked.returncode == 2
    assert "POCKUI_PASSWORD" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_a_port_in_use_is_one_paragraph_with_a_free_one(open_server: Server, tmp_path: Path) -> None:
    second = _cli(tmp_path, "serve", "--port", str(open_server.port), "--no-show")
    assert second.returncode == 2
    assert re.search(r"is in use.*--port \d+", second.stderr)
    assert second.stderr.count("\n") == 1
