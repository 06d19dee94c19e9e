"""Who may talk to the server."""

from __future__ import annotations

import pytest
from bokeh.util.token import generate_jwt_token
from tornado.httputil import HTTPHeaders, HTTPServerRequest

from pockgraph.errors import PockError
from pockui import access_control
from pockui.access_control import AccessControl, allowed_hosts, is_loopback, problem_of_panel_serve
from pockui.login import PasswordProvider, check_password


def _status(made: AccessControl, host: str, path: str = "/", **headers: str) -> int:
    """Of the refusal; 200 when there is none."""
    all_headers = HTTPHeaders({"Host": host} | {k.replace("_", "-"): v for k, v in headers.items()})
    request = HTTPServerRequest(method="GET", uri=path, version="HTTP/1.1", headers=all_headers)
    refusal = made.refusal(request)
    return 200 if refusal is None else refusal.status


LOCAL = AccessControl(allowed_hosts(5006), 5006)
PATHS = ("/", "/ws", "/static/js/bokeh.min.js", "/autoload.js", "/metadata", "/favicon.ico", "/anything")


@pytest.mark.parametrize("host", ["localhost:5006", "LOCALHOST:5006", "127.0.0.1:5006", "[::1]:5006"])
def test_the_server_answers_requests_for_loopback_names(host: str) -> None:
    assert {_status(LOCAL, host, path) for path in PATHS} == {200}


OTHERS = (
    "evil.example:5006", "evil.example", "localhost", "127.0.0.1", "localhost:5007", "10.0.0.7:5006",
    "localhost.evil.example:5006", "127.0.0.1.evil.example:5006", "127.0.0.2:5006", "[::2]:5006",
)  # fmt: skip


@pytest.mark.parametrize("host", OTHERS)
def test_the_server_refuses_requests_for_other_names_on_every_path(host: str) -> None:
    assert {_status(LOCAL, host, path) for path in PATHS} == {421}


def test_another_sites_pages_are_refused_even_where_origin_and_host_agree_elsewhere() -> None:
    for origin in (
        "http://evil.example",
        "https://evil.example:5006",
        "null",
        "http://localhost:8888",
        "localhost:5006",
    ):
        assert _status(LOCAL, "localhost:5006", "/ws", Origin=origin) == 403, origin
        assert _status(LOCAL, "localhost:5006", "/ws", Sec_Websocket_Origin=origin) == 403, origin
    assert _status(LOCAL, "evil.example:5006", "/ws", Origin="http://evil.example:5006") == 421
    assert _status(LOCAL, "localhost:5006", "/ws", Origin="http://localhost:5006") == 200
    assert _status(LOCAL, "localhost:5006", "/ws", Origin="http://127.0.0.1:5006") == 200


def test_it_is_not_framed_by_another_site_but_links_to_it_work() -> None:
    frame = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
    assert _status(LOCAL, "localhost:5006", **frame) == 403
    assert (
        _status(LOCAL, "localhost:5006", **frame | {"Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"})
        == 403
    )
    assert _status(LOCAL, "localhost:5006", **frame | {"Sec_Fetch_Dest": "document"}) == 200
    assert _status(LOCAL, "localhost:5006", **frame | {"Sec_Fetch_Site": "same-origin"}) == 200


def test_named_hosts_are_let_in() -> None:
    made = AccessControl(allowed_hosts(5006, ["Lab.example", "other:8080"]), 5006)
    assert (
        _status(made, "lab.example:5006")
        == _status(made, "lab.example")
        == _status(made, "other:8080")
        == 200
    )
    assert _status(made, "other:5006") == _status(made, "lab.example:9") == 421
    behind_a_proxy = _status(made, "127.0.0.1:5006", "/ws", Origin="https://lab.example")
    assert behind_a_proxy == 200
    for name in ("http://lab", "*", "a b", "user@lab", "lab/x", "lab:port", ""):
        with pytest.raises(PockError, match="no host name"):
            allowed_hosts(5006, [name])


def test_beyond_loopback_its_ip_addresses_are_no_names_that_could_be_pointed_elsewhere() -> None:
    made = AccessControl(allowed_hosts(5006, address="0.0.0.0"), 5006, any_address=True)
    assert _status(made, "192.168.1.7:5006") == _status(made, "[fe80::1]:5006") == 200
    assert _status(made, "192.168.1.7:5006", "/ws", Origin="http://192.168.1.7:5006") == 200
    assert _status(made, "192.168.1.7:5006", "/ws", Origin="http://192.168.1.8:5006") == 403
    assert _status(made, "evil.example:5006") == _status(made, "192.168.1.7:80") == 421


def test_a_full_server_says_so_and_keeps_those_it_has() -> None:
    full = AccessControl(allowed_hosts(5006), 5006, sessions=lambda: {"one", "two"}, max_sessions=2)
    assert _status(full, "localhost:5006") == _status(full, "localhost:5006", "/autoload.js") == 503
    assert _status(full, "localhost:5006", "/static/js/bokeh.min.js") == 200
    mine, new = generate_jwt_token("one"), generate_jwt_token("three")
    assert _status(full, "localhost:5006", "/ws", Sec_WebSocket_Protocol=f"bokeh, {mine}") == 200
    for token in (new, "", "no token", "e30="):
        assert _status(full, "localhost:5006", "/ws", Sec_WebSocket_Protocol=f"bokeh, {token}") == 503


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "192.168.1.7", "example.org")))


def test_a_session_of_panel_serve_checks_what_it_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_control, "_listens_beyond_loopback", lambda: "")
    assert problem_of_panel_serve("localhost:5006", authorised=False) == ""
    assert "does not answer" in problem_of_panel_serve("evil.example:5006", authorised=True)
    monkeypatch.setenv(access_control.ENVIRONMENT, "lab.example,other")
    assert problem_of_panel_serve("lab.example", authorised=False) == ""
    monkeypatch.setattr(access_control, "_listens_beyond_loopback", lambda: "0.0.0.0")
    assert "--address 127.0.0.1" in problem_of_panel_serve("localhost:5006", authorised=False)
    assert problem_of_panel_serve("localhost:5006", authorised=True) == ""


def test_passwords() -> None:
    with pytest.raises(PockError, match="at least 8"):
        check_password("short")
    made = PasswordProvider(check_password("correct horse"))
    handler = made.login_handler
    assert handler._validate(handler, "", "correct horse")  # pyright: ignore
    for wrong in ("", "correct hors", "correct horse ", "Correct horse", "ü"):
        assert not handler._validate(handler, "", wrong)  # pyright: ignore
