"""The standard streams of a command, whoever started it and however."""

from __future__ import annotations

import io
import os
import sys

UNREAD = 141  # exit status of a command whose output nobody reads any more, as of one that SIGPIPE ended


def settle_streams(errors: str) -> None:
    """Have all three, and let them take any text, whatever the locale.

    Args:
        errors: what becomes of characters that the locale lacks, as for `open`.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened gets its number, and what is printed there
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def drop_output() -> None:
    """Let standard output lead nowhere, after whoever read it has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
