"""Exceptions of others, told as one paragraph: whose code raised them, where, and what to do."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import pockgraph
from pockgraph.errors import PockError

BAD_INPUT, BUG = 2, 70
EXTRAS = {
    "onnx": "app", "torch": "app", "scipy": "app", "panel": "app", "plotly": "app", "jinja2": "app",
    "onnxruntime": "onnx", "transformers": "demo", "mlxtend": "demo", "distributed": "cluster",
}  # fmt: skip
SHOW_ALL = "pockui --debug shows the whole traceback"

_ROOMS = [Path(__file__).parent, *map(Path, pockgraph.__path__)]
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def explain(error: Exception) -> tuple[str, int]:
    """What to tell about an exception that nobody expected, and the exit status: 2 where the cause is
    input or the user's own code, 70 where it is ours."""
    if isinstance(error, PockError):
        return str(error), BAD_INPUT
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        where = f"{_short(error.filename)}, line {error.lineno}"
        return (
            f"{where}: Python cannot read this ({error.msg}). Mend it and run the command again.",
            BAD_INPUT,
        )
    if frame := _users_frame(error):
        where = f"{_short(frame.filename)}, line {frame.lineno}, in {frame.name}"
        return f"{where}: {_said(error)}. Your code raised this; {SHOW_ALL}.", BAD_INPUT
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in EXTRAS:
        extra = EXTRAS[package]
        return (
            f"This needs the package {package!r}. Install it with: pip install 'pockui[{extra}]'",
            BAD_INPUT,
        )
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        why = f"{error.strerror[:1].lower()}{error.strerror[1:]}"
        return f"Cannot use {error.filename}: {why}. Check the path, and that you may use it.", BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        return f"The system refused: {error.strerror}. {SHOW_ALL[0].upper()}{SHOW_ALL[1:]}.", BAD_INPUT
    if isinstance(error, MemoryError):
        return "There is not enough memory. Take a smaller batch or plan, or close other programs.", BAD_INPUT
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"This is a bug of pockui: {_said(error)}{where}. Please report it; {SHOW_ALL}.", BUG


def _said(error: Exception) -> str:
    """The first line of what an exception says."""
    text = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line of the traceback that is the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f for f in reversed(frames) if _is_users(f.filename)), None)


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = Path(filename)
    return not any(path.is_relative_to(room) for room in (*_ROOMS, *_INSTALLED)) and _is_no_script(path)


def _is_no_script(path: Path) -> bool:
    """Whether it is a module: what starts this program lies in a folder of programs."""
    return path.suffix == ".py" and path.name != "__main__.py"


def _short(filename: str) -> str:
    """Relative to the working directory where it lies below."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
