"""Whatever Panel queues for a browser reaches it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bokeh.document import Document
from own_loop import run_in_own_loop
from panel.io import document

from pockui.panel_messages import send_all_messages


class Connection:
    """Sends a message at once; the first one only when it is told to."""

    class Socket: ...

    class protocol:
        create = staticmethod(lambda kind, events: events)

    def __init__(self) -> None:
        self._socket = self.Socket()
        self.sent: list[str] = []
        self.go_on = asyncio.Event()

    def write(self, connection: Any, events: Any = None, msg: Any = None) -> list[asyncio.Task[None]]:
        self.sent.append(msg)
        return [asyncio.ensure_future(self.go_on.wait())]  # pyright: ignore


@pytest.mark.parametrize("turns", range(5))
def test_a_message_that_is_queued_while_another_one_is_sent_is_sent_too(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is queued so many turns of the loop before the first one's task goes on."""
    send_all_messages()
    send_all_messages()

    async def sent() -> list[str]:
        connection: Any = Connection()
        monkeypatch.setitem(document.extra_socket_handlers, Connection.Socket, connection.write)
        doc: Any = Document()
        document.schedule_write_events(doc, [connection], ["first"])  # pyright: ignore
        while not connection.sent:
            await asyncio.sleep(0)
        connection.go_on.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        document.schedule_write_events(doc, [connection], ["second"])  # pyright: ignore
        await asyncio.sleep(0.1)
        return connection.sent

    assert run_in_own_loop(sent()) == [["first"], ["second"]]
