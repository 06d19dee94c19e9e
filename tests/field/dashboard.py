"""The dashboard as a process: `pockui serve`, asked over HTTP as strangers ask, and used over a websocket."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

ROOT = Path(__file__).parents[2]
UI = ROOT / "tests/ui"
STUDY = "blobs.db"
TASK = "ui_task:task"
PATIENCE_S = 300.0
BUDGET = "Peak memory"


def make_served_folder(folder: Path) -> Path:
    """A small study in `folder`, beside the module of its task; returns the study."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(UI / "ui_task.py", folder)
    analyze = [
        sys.executable, "-m", "pockui.cli", "analyze", TASK, "--study", STUDY,
        "--steps", "60", "--seeds", "1", "--lr", "0.05", "--target", "torch",
    ]  # fmt: skip
    done = subprocess.run(analyze, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / STUDY


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`pockui serve` in a process of its own."""

    launcher: tuple[str, ...] = (sys.executable, "-m")
    command: tuple[str, ...] = ("pockui.cli", "serve", "--no-show")
    ready = "Dashboard on"

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, **environment: str) -> None:
        self.port = port or free_port()
        self.log = folder / "log.txt"
        self.process = subprocess.Popen(
            [*self.launcher, *self.command, "--port", str(self.port), *arguments],
            cwd=folder,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        limit = time.monotonic() + 90
        while self.ready not in self.log.read_text():
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


class ConsoleServer(Server):
    """The same by the console script, whose own folder, and not the working one, is where Python looks."""

    launcher = (str(Path(sys.executable).with_name("pockui")),)
    command = ("serve", "--no-show")


class PanelServer(Server):
    """`panel serve pockui/app.py`, which shows the page at `/app`."""

    command = ("panel", "serve", str(ROOT / "pockui/app.py"))
    ready = "Bokeh app running at"


def token_of(page: str) -> str:
    """The session's token in a page of the dashboard."""
    found = re.search(r'"token":"([^"]+)"', page)
    assert found, page[:500]
    return found.group(1)


class Session:
    """One page by its websocket alone: what a browser does, without drawing."""

    def __init__(self, server: Server, query: str = "", page: str = "", **headers: str) -> None:
        """Args:
        page: its path, without slashes. `headers`: sent with both requests.
        """
        self._base = f"http://127.0.0.1:{server.port}/{page}"
        self._query = query
        self._headers = headers
        self._socket: WebSocketClientConnection | None = None
        self._sent = 0
        self.document: Any = None
        self.changes: dict[tuple[str, str], list[Any]] = {}  # (model, attribute): all values that arrived

    async def open(self, patience_s: float = PATIENCE_S) -> None:
        """Fetch the page, connect, and wait until the study is shown."""
        await self.connect(patience_s)
        await self.say_drawn()
        limit = time.monotonic() + patience_s
        while not self.models("BudgetBar", label=BUDGET):
            assert time.monotonic() < limit, "the study was not shown"
            await self._take(await self._message(patience_s))
            await self.pull(patience_s)

    async def connect(self, patience_s: float = PATIENCE_S) -> None:
        """Fetch the page, and take the document that the server has for it."""
        how = {"headers": self._headers, "request_timeout": patience_s, "connect_timeout": patience_s}
        page = await AsyncHTTPClient().fetch(HTTPRequest(self._base + self._query, **how))
        socket = self._base.replace("http", "ws", 1).rstrip("/") + "/ws"
        self._socket = await websocket_connect(
            HTTPRequest(socket, **how),
            subprotocols=["bokeh", token_of(page.body.decode())],
            max_message_size=1 << 28,
        )
        await self._until("ACK", patience_s)
        await self.pull(patience_s)

    async def say_drawn(self) -> None:
        """As a browser does when it has drawn the document."""
        await self._event("document_ready")

    async def told_of(self, text: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for a change with this text in it."""
        while text not in json.dumps((await self._message(patience_s))[1]):
            pass

    async def pull(self, patience_s: float = PATIENCE_S) -> Any:
        """The document as the server has it."""
        await self._send("PULL-DOC-REQ", {})
        self.document = (await self._until("PULL-DOC-REPLY", patience_s))["doc"]
        return self.document

    def models(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """The document's models whose type's name begins so, with these attributes."""
        found: list[dict[str, Any]] = []

        def walk(node: Any) -> None:
            if isinstance(node, dict):
                attributes = node.get("attributes", {})
                named = node.get("type") == "object" and str(node.get("name", "")).startswith(name)
                if named and all(attributes.get(k) == v for k, v in values.items()):
                    found.append(node)
                for child in node.values():
                    walk(child)
            elif isinstance(node, list):
                for child in node:
                    walk(child)

        walk(self.document)
        return found

    async def edit(self, model: str, edit: dict[str, Any], patience_s: float = PATIENCE_S) -> float:
        """Report an edit of a component; returns the seconds until it was dealt with and shown."""
        start = time.perf_counter()
        await self.set(model, "edit", edit)
        while self.last(model, "ack") != edit["seq"]:
            await self._take(await self._message(patience_s))
        return time.perf_counter() - start

    async def settled(self, model: str, attribute: str, value: float, patience_s: float = 60.0) -> None:
        """Wait until the server has shown this value."""
        limit = time.monotonic() + patience_s
        while self.last(model, attribute) != value:
            try:
                await self._take(await self._message(max(0.0, limit - time.monotonic())))
            except TimeoutError:
                raise AssertionError(f"{attribute} is {self.last(model, attribute)}, not {value}") from None

    def last(self, model: str, attribute: str) -> Any:
        """The newest value that arrived, or the one in the document as it was pulled."""
        if values := self.changes.get((model, attribute)):
            return values[-1]
        return next((m["attributes"].get(attribute) for m in self.models("") if m["id"] == model), None)

    async def set(self, model: str, attribute: str, value: Any) -> None:
        """Change a model as the browser's own code does."""
        change = {"kind": "ModelChanged", "model": {"id": model}, "attr": attribute, "new": value}
        await self._send("PATCH-DOC", {"events": [change]})

    async def click(self, label: str) -> None:
        """Press the button with that label."""
        button = next(
            m
            for m in self.models("")
            if label in (_data(m).get("label"), m.get("attributes", {}).get("label"))
        )
        await self._event("dom_event", model={"id": button["id"]}, node="click", data={"type": "map"})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    async def _event(self, name: str, **values: Any) -> None:
        data: dict[str, Any] = {"type": "map", "entries": [[k, v] for k, v in values.items()]}
        event = {"type": "event", "name": name, "values": data}
        sent = {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}
        await self._send("PATCH-DOC", {"events": [sent]})

    async def _send(self, kind: str, content: dict[str, Any]) -> None:
        assert self._socket is not None
        self._sent += 1
        for part in ({"msgid": str(self._sent), "msgtype": kind}, {}, content):
            await self._socket.write_message(json.dumps(part))

    async def _message(self, patience_s: float) -> tuple[str, dict[str, Any]]:
        assert self._socket is not None
        header = await asyncio.wait_for(self._socket.read_message(), patience_s)
        if header is None:
            raise ConnectionError("the server closed the websocket")
        read = json.loads(header)
        await self._socket.read_message()  # metadata
        content = json.loads(await self._socket.read_message() or "{}")
        for _ in range(2 * read.get("num_buffers", 0)):
            await self._socket.read_message()
        return read["msgtype"], content

    async def _take(self, message: tuple[str, dict[str, Any]]) -> None:
        kind, content = message
        if kind == "ERROR":
            raise ConnectionError(content.get("text", "an error of the server"))
        for event in content.get("events", []) if kind == "PATCH-DOC" else []:
            if event.get("kind") == "ModelChanged":
                self.changes.setdefault((event["model"]["id"], event["attr"]), []).append(event["new"])

    async def _until(self, kind: str, patience_s: float) -> dict[str, Any]:
        while True:
            message = await self._message(patience_s)
            if message[0] == kind:
                return message[1]
            await self._take(message)


def _data(model: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a component's own data model."""
    data = model.get("attributes", {}).get("data")
    return data.get("attributes", {}) if isinstance(data, dict) else {}
