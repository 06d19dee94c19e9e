"""A tab that is closed while something is on its way to it is no event: the server's log says nothing of it.

Tornado and Bokeh tell it as an exception of a task that nobody waited for, as one of the websocket's handler,
or as a warning.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

LOGGERS = ("asyncio", "tornado.application", "bokeh.server.views.ws", "bokeh.server.protocol_handler")
GONE = "Failed sending message as connection was closed"


class _ClosedTabs(logging.Filter):
    """Drops what is told of a connection that the browser has closed."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (_is_closing(error) or record.getMessage() == GONE)


def _is_closing(error: BaseException | None) -> bool:
    if isinstance(error, WebSocketClosedError | StreamClosedError):
        return True
    # A connection that was never open, or is no more, has no session: Bokeh takes that for a bug of its own.
    if not isinstance(error, AssertionError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.name == "session" and Path(last.filename).parts[-3:] == ("bokeh", "server", "connection.py")


_FILTER = _ClosedTabs()


def say_nothing_of_closed_tabs() -> None:
    """For this process; a second call changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
