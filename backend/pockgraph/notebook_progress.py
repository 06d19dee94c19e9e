"""How far long work is, as a notebook shows it: a bar of tqdm with the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .errors import PockError, StudyError

FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Stage(Protocol):
    """How far the work is, as `contribution.Progress` says it."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def seconds_left(self) -> float | None: ...


Listener = Callable[[Any], None]


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this process, and can show a bar."""
    if "ipykernel.zmqshell" not in sys.modules:
        return False
    try:
        import ipywidgets  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return True


def check_progress(progress: Listener | bool | None) -> None:
    """
    Raises:
        StudyError: it is none of what `told` takes.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise StudyError(
            f"progress={str(progress)[:40]!r} cannot be called. Pass a function, True for a bar, False for "
            "silence, or leave it out: notebooks have a bar then."
        )


@contextmanager
def told(progress: Listener | bool | None, description: str) -> Iterator[Listener | None]:
    """Whom to tell how far the work is.

    Args:
        progress: a function that is told; True: a bar, on standard error outside notebooks; False: nobody;
            None: a bar in notebooks, elsewhere nobody.
        description: of the bar.

    Raises:
        PockError: a bar was asked for, and tqdm is not installed.
    """
    if progress is None:
        progress = in_notebook()
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        with _bar(description) as show:
            yield show


@contextmanager
def _bar(description: str) -> Iterator[Callable[[Stage], None]]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise PockError(
            "A progress bar needs the package tqdm, which is not installed here. Run: pip install "
            "'pockui[jupyter]', or pass progress=False."
        ) from None
    bar = tqdm(desc=description, total=1, bar_format=FORMAT)

    def show(stage: Stage) -> None:
        if bar.total != stage.total:
            start_s = bar.start_t
            bar.reset(stage.total)  # the only way by which a bar in a notebook learns of another total
            bar.start_t = start_s
        left = f", {bar.format_interval(stage.seconds_left)} left" if stage.seconds_left else ""
        bar.set_postfix_str(f"{stage.label}{left}", refresh=False)
        bar.update(stage.done - bar.n)

    try:
        yield show
    finally:
        bar.close()
