"""Jobs for processes that are no test themselves: a function is sent by its name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


class Odd(Exception):
    """Cannot be made again from its message alone."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def square(x: int) -> int:
    return x * x


def pid(_: int) -> int:
    return os.getpid()


def die_at_three(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_once(at: tuple[str, int]) -> int:
    """Ends its process when it is the first to come here."""
    path, x = at
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return x
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def end(status: int) -> None:
    os._exit(status)


def leave(status: int) -> None:
    sys.exit(status)


def fail(x: int) -> None:
    raise (ValueError(f"no {x}") if x else Odd(1, 2))


def noisy(x: int) -> int:
    print("words on standard output", flush=True)
    return x if not sys.stdin.read() else -1


def note(at: tuple[str, int]) -> int:
    """Leaves a line behind each time it was done."""
    path, x = at
    time.sleep(0.05)
    with Path(path).open("a") as file:
        file.write(f"{x}\n")
    return x


def sleep(seconds: float) -> None:
    time.sleep(seconds)
