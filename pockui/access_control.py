"""Who may talk to the server: the names it answers to, the pages that may call it, how many at once.

A page of another site can reach a server on loopback through the visitor's browser, if need be under a
name that it has pointed there (DNS rebinding). What it cannot change are the headers that say so.
"""

from __future__ import annotations

import html
import ipaddress
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from bokeh.util.token import get_session_id
from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import Application, RequestHandler

from pockgraph.errors import PockError

# Of thirty people who all drag at once 95 of 100 edits are answered within 0.8 s on two idle cores, within
# 2.3 s beside other work; of fifty within 5 s. `python benchmarks/campaign --only server` measures it.
MAX_SESSIONS = 30
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MAKE_SESSIONS = ("", "/", "/autoload.js", "/ws")
HOST_NAME = re.compile(r"([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?")
ENVIRONMENT = "POCKUI_ALLOW_HOST"  # for `panel serve`, which has no such option of its own


class Refusal(NamedTuple):
    """An HTTP status and a sentence for whoever sees it."""

    status: int
    text: str


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach that address to listen on."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def allowed_hosts(port: int, named: Iterable[str] = (), address: str = "127.0.0.1") -> frozenset[str]:
    """What a request's Host may be: loopback, the address, and the names given, with the served port.

    Args:
        named: `name`, for the served port or none as behind a proxy, or `name:port`.

    Raises:
        PockError: one of them is no host name.
    """
    own = [*LOOPBACK, f"[{address}]" if ":" in address else address]
    hosts = {f"{name}:{port}" for name in own} | ({*own} if port == 80 else set())
    for name in map(str.lower, named):
        found = HOST_NAME.fullmatch(name)
        if found is None:
            raise PockError(
                f"{name!r} is no host name. Write it as in the browser: example.org or example.org:80."
            )
        hosts |= {name} if found["port"] else {name, f"{name}:{port}"}
    return frozenset(hosts)


@dataclass(frozen=True)
class AccessControl(Matcher):
    """Matches the requests that are refused; tornado asks it before any other rule.

    Attributes:
        hosts: see `allowed_hosts`.
        port: the one served.
        any_address: also answer to IP addresses: the server listens beyond loopback. No name is pointed
            elsewhere by those.
        sessions: ids of the open sessions. `max_sessions`: a page beyond is refused.
    """

    hosts: frozenset[str]
    port: int
    any_address: bool = False
    sessions: Callable[[], Collection[str]] = tuple
    max_sessions: int = MAX_SESSIONS

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        refusal = self.refusal(request)
        return None if refusal is None else {"target_kwargs": {"refusal": refusal}}

    def refusal(self, request: HTTPServerRequest) -> Refusal | None:
        """Why a request is not answered, or None."""
        headers, host = request.headers, request.host.lower()
        if not self._answers_to(host):
            return Refusal(421, "This server does not answer to that name. Start it with --allow-host NAME.")
        for name in ("Origin", "Sec-Websocket-Origin"):
            origin = headers.get(name)
            if origin is not None and not self._is_own(origin, host):
                return Refusal(403, "Another site's page asked for this. Open the dashboard by its address.")
        elsewhere = headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        followed = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
        if elsewhere and not followed and "Origin" not in headers:
            return Refusal(403, "The dashboard is not shown inside another site's page.")
        if request.path in MAKE_SESSIONS and self._is_full(headers):
            return Refusal(
                503,
                f"{self.max_sessions} sessions are open, and that is as many as this server keeps. Close a "
                "tab, or try again in a minute; --max-sessions sets the number.",
            )
        return None

    def _answers_to(self, host: str) -> bool:
        if host in self.hosts:
            return True
        name, _, port = host.rpartition(":")
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self.any_address and port == str(self.port)

    def _is_own(self, origin: str, host: str) -> bool:
        scheme, _, netloc = origin.lower().partition("://")
        return scheme in ("http", "https") and (netloc == host or netloc in self.hosts)

    def _is_full(self, headers: Any) -> bool:
        """No room for another session; a websocket of one that is open may come back."""
        open_ids = self.sessions()
        if len(open_ids) < self.max_sessions:
            return False
        _, _, token = headers.get("Sec-WebSocket-Protocol", "").partition(",")
        try:
            return not token or get_session_id(token.strip()) not in open_ids
        except Exception:  # whatever a stranger sends as a token
            return True


class Refused(RequestHandler):
    """Answers with a refusal."""

    def initialize(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def check_xsrf_cookie(self) -> None:
        """There is nothing to protect."""

    async def prepare(self) -> None:
        self.set_status(self._refusal.status)
        self.set_header("Cache-Control", "no-store")
        if self._refusal.status == 503:
            self.set_header("Retry-After", "30")
        await self.finish(
            "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            "<title>PockUI</title><body style='font:16px/1.5 system-ui;max-width:36em;margin:4em auto;"
            f"padding:0 1em'><h1 style='font-size:1.3em'>PockUI</h1><p>{html.escape(self._refusal.text)}</p>"
        )


def guard(application: Application, gate: AccessControl) -> None:
    """Put a gate in front of everything that a tornado application serves."""
    application.add_handlers(".*", [Rule(gate, Refused)])


def problem_of_panel_serve(host: str, authorised: bool) -> str:
    """Why a session of `panel serve pockui/app.py` is not served; empty when nothing speaks against it.

    There the gate cannot stand in front of the server; what a session can tell is its Host header and
    what this process listens on.
    """
    names = [*LOOPBACK, *(os.environ.get(ENVIRONMENT, "").lower().split(","))]
    name = host.lower()
    if name not in names and name.rpartition(":")[0] not in names:
        return (
            f"This server does not answer to the name {host[:100]!r}. Name it in {ENVIRONMENT}, or open "
            "the dashboard on localhost."
        )
    if not authorised and (beyond := _listens_beyond_loopback()):
        return (
            f"This server listens on {beyond}, where others reach it, and asks for no password. Start it "
            "with --address 127.0.0.1, or with --basic-auth and --cookie-secret; or use pockui serve."
        )
    return ""


def _listens_beyond_loopback() -> str:
    import psutil

    for socket in psutil.Process().net_connections("inet"):
        if socket.status == psutil.CONN_LISTEN and not is_loopback(socket.laddr.ip):
            return socket.laddr.ip
    return ""
