"""Panel's queue of messages to a browser, without the one that it loses.

Messages that cannot be written at once are queued, each with a task that writes what is queued. Panel 1.9
marks a document as waiting when it queues, and unmarks it after writing; a task that finds no mark writes
nothing. What is queued while an earlier message is still being written is unmarked with that one: it lies in
the queue until something else changes, and the page shows an older state.
"""

from __future__ import annotations

from typing import Any

from panel.io import document


def send_all_messages() -> None:
    """Have Panel's tasks write whatever is queued; done once, however often it is called."""
    write = getattr(document, "_dispatch_msgs", None)  # another release may have no such queue
    if write is None or getattr(write, "marks_first", False):
        return

    async def write_all(doc: Any) -> None:
        if doc in document._WRITE_MSGS:
            document._WRITE_BLOCK[doc] = True
        await write(doc)

    write_all.marks_first = True  # pyright: ignore[reportFunctionMemberAccess]
    document._dispatch_msgs = write_all
