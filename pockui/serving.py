"""Serving the dashboard: `pockui serve`."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import panel as pn

from pockgraph.errors import PockError
from pockui.access_control import MAX_SESSIONS, AccessControl, allowed_hosts, guard, is_loopback
from pockui.closed_tabs import say_nothing_of_closed_tabs
from pockui.jobs import JOBS
from pockui.login import PasswordProvider, check_password
from pockui.page import create_app

MESSAGE_BYTES = 20_000_000  # what a browser may send at once, an uploaded plan included
PORTS_TRIED = 20


def serve(
    study: str | os.PathLike[str] | None = None,
    port: int = 5006,
    show: bool = True,
    *,
    address: str = "127.0.0.1",
    allow_hosts: Sequence[str] = (),
    password: str | None = None,
    max_sessions: int | None = None,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the app until interrupted or terminated; runs end with it.

    Args:
        address: to listen on. Another than loopback needs a password.
        allow_hosts: names, beside loopback's, under which browsers may reach it.
        password: asked for before anything is shown.
        max_sessions: pages that may be open at once; None takes what was measured, `MAX_SESSIONS`.
        started: called with the page's address once it is served.

    Raises:
        PockError: the port or the address cannot be used, or there is no password where one is needed.
    """
    if password is None and not is_loopback(address):
        raise PockError(
            f"On {address} others can reach the dashboard, and with it your studies and your tasks. Give a "
            "password, in POCKUI_PASSWORD or with --password, or leave --address away."
        )
    say_nothing_of_closed_tabs()
    hosts = allowed_hosts(port, allow_hosts, address)
    own_machine = is_loopback(address) and not allow_hosts and password is None
    login = {} if password is None else _login(check_password(password))
    with _explained(address, port):
        server = pn.io.server.get_server(
            {"/": lambda: create_app(study, own_machine)}, port=port, address=address, title="PockUI",
            start=False,
            websocket_origin=[h for h in hosts if not h.startswith("[")],
            websocket_max_message_size=MESSAGE_BYTES, **login,
        )  # fmt: skip
    access = AccessControl(
        hosts,
        port,
        any_address=not is_loopback(address),
        sessions=lambda: {s.id for s in server.get_sessions()},
        max_sessions=max_sessions or MAX_SESSIONS,
    )
    guard(server._tornado, access)
    url = f"http://{'localhost' if is_loopback(address) else socket.gethostname()}:{port}/"
    try:
        server.start()
        started(url)
        if show:
            server.io_loop.add_callback(webbrowser.open, url)
        _run(server)
    finally:
        JOBS.shutdown()
        with suppress(AssertionError):
            server.stop(wait=False)


def _login(password: str) -> dict[str, Any]:
    return {"auth_provider": PasswordProvider(password), "cookie_secret": secrets.token_hex(32)}


def _run(server: Any) -> None:
    """Until Ctrl-C, or until the system asks the process to end."""
    loop = server.io_loop
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            with suppress(NotImplementedError, ValueError):  # Windows; not the main thread
                loop.asyncio_loop.add_signal_handler(getattr(signal, name), loop.stop)
    loop.start()


@contextmanager
def _explained(address: str, port: int) -> Iterator[None]:
    """An address that cannot be listened on, as one paragraph."""
    where = f"{address}:{port}"
    try:
        yield
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            free = next_free_port(address, port + 1)
            hint = f"Free is {free}: pockui serve --port {free}" if free else "Choose another: --port N"
            what = f"Port {port} is in use, by another dashboard or another program. {hint}."
        elif e.errno == errno.EACCES:
            what = f"This user may not listen on {where}. Take a port above 1023: --port 5006."
        else:
            what = (
                f"Cannot listen on {where}: this machine has no such address. Leave --address away, or give "
                "one of the machine's own."
            )
        raise PockError(what) from None


def next_free_port(address: str, first: int) -> int | None:
    """The first port from `first` on that nobody listens on, among a few."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    return None
