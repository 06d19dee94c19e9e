"""Files on disk: written whole or not at all, and read only when they are what they should be.

What is new is made in a *staging folder* beside its place, flushed to disk, and renamed; the folder is
flushed after that. A staging folder is locked for as long as its writer lives, so that the next writer can
tell what a killed one left from what another one still needs, in other containers too: the lock is the
kernel's, no process number. A study's database is made here, too; SQLite changes it (`store/store.py`).
Imports no torch.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import ArtifactError, PockError, reason, require

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

_STAGING = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.pockui-partial")
_NEW, _OLD = "new", "old"
_ABANDONED_S = 86400  # without locks, what is older than this has no writer any more
_MAX_NAME_BYTES = 200

# ---------------------------------------------------------------- writing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file (or a folder) to, which takes the place of `path` when the block ends well.

    Readers see the old one or the new one, after a kill and after a power failure, too. When the block
    fails, or the disk is full, nothing has changed and nothing is left.

    Raises:
        OSError: it cannot be written; `path` is neither a file nor a folder of the same kind.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    with _placing(path, lambda new, aside: _exchange(new, path, aside)) as new:
        yield new


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """A path to write a file to, which becomes `path` when the block ends well, as in `replacing`, unless
    another process has made one there by then; an empty file does not count.

    Raises:
        OSError: it cannot be written.
    """
    with _placing(path, lambda new, _: _give_name(new, path)) as new:
        yield new


@contextmanager
def _placing(path: Path, place: Callable[[Path, Path], None]) -> Iterator[Path]:
    """A path in a staging folder; what is written there is flushed and goes to its `place(new, aside)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with _staging(path) as staging:
        new = staging / _NEW
        yield new
        _flush(new, staging.stat().st_mode & 0o666)  # the access rights that the umask gives
        place(new, staging / _OLD)
        _flush_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file; see `replacing`.

    Raises:
        OSError: it cannot be written; an old file is as it was.
    """
    with replacing(path) as new:
        new.write_bytes(data)


def require_kind(
    path: Path, what: str, is_one: Callable[[Path], bool], refusal: type[PockError] = PockError
) -> None:
    """Refuse to replace a file of another kind: a study, data, somebody's code. An empty one may go.

    A folder is refused too, before any work is done for a file that could not take its place.

    Args:
        what: the kind, as in "no checkpoint". is_one: whether a file that is not empty is of it.

    Raises:
        PockError: of the class `refusal`.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):  # nothing there, or what writing will say
        return
    if stat.S_ISDIR(status.st_mode):
        raise refusal(f"{path} is a folder. Name the {what} that is to be written, such as {path / 'NAME'}.")
    if stat.S_ISREG(status.st_mode) and status.st_size and not is_one(path):
        raise refusal(
            f"{path} exists and is no {what}, so it is not replaced. Choose another place, or move it away."
        )


def begins_with(start: bytes) -> Callable[[Path], bool]:
    """Whether a file does, blanks aside; one that cannot be read counts as if it did, since writing tells."""

    def begins(path: Path) -> bool:
        try:
            with open_regular(path) as f:
                return f.read(64).lstrip().startswith(start)
        except OSError:
            return True

    return begins


def require_working_folder() -> None:
    """Refuse to go on where the process was started in a folder that is gone: native libraries end it then.

    Raises:
        PockError: it is.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise PockError(
            "The folder that this was started in is gone: it was removed, moved or made anew. Change to one "
            "that is there, and run it again."
        ) from None


def _flush(path: Path, mode: int) -> None:
    """Have a file, or a folder with all that is in it, on disk; some libraries make files private."""
    if path.is_dir():
        for inside in path.iterdir():
            _flush(inside, mode)
        _flush_folder(path)
        return
    path.chmod(mode)
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`, and give back what they had moved aside.

    What another process is writing stays.
    """
    with suppress(OSError), os.scandir(folder) as entries:  # one that cannot be written to stays as it is
        for entry in entries:
            match = _STAGING.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                _collect(Path(entry.path), folder / match["name"])


def _collect(staging: Path, path: Path) -> None:
    """Remove a staging folder without a writer."""
    with suppress(OSError), _locked(staging) as free:
        if free:
            if (staging / _OLD).is_dir() and not path.exists():
                os.rename(staging / _OLD, path)
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _staging(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """A new locked folder beside `path`; it goes away with its content."""
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = secrets.token_hex(8)
    while True:
        staging = path.with_name(f".{name}.{secrets.token_hex(4)}.pockui-partial")
        staging.mkdir(mode)
        with ExitStack() as held:
            try:
                free = held.enter_context(_locked(staging)) and staging.is_dir()
            except FileNotFoundError:
                free = False
            if not free:  # somebody's sweep was faster than our lock
                continue
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            return


class ScratchFolder:
    """A folder for temporary files, which goes away with `close`, this object or the process.

    What a killed process left is removed when the next one is made.

    Args:
        name: what it is for.

    Attributes:
        path: the folder, readable by this user only.
    """

    def __init__(self, name: str) -> None:
        place = Path(tempfile.gettempdir())
        sweep(place)
        held = ExitStack()
        self.path = held.enter_context(_staging(place / f"pockui-{name}", 0o700)) / _NEW
        self.path.mkdir()
        self._closing = weakref.finalize(self, held.close)

    def close(self) -> None:
        self._closing()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a staging folder; False when another one holds it."""
    if fcntl is None:
        yield time.time() - folder.stat().st_mtime > _ABANDONED_S or not any(folder.iterdir())
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            free = time.time() - os.fstat(handle).st_mtime > _ABANDONED_S or not any(folder.iterdir())
        yield free
    finally:
        os.close(handle)


def _give_name(new: Path, path: Path) -> None:
    """Put the file `new` where no file is, or an empty one; else leave what is there."""
    try:
        os.link(new, path)
    except OSError:  # there is one, or the file system has no hard links
        if not path.exists() or not path.stat().st_size:
            os.replace(new, path)


def _exchange(new: Path, path: Path, aside: Path) -> None:
    """Put `new` where `path` is; a folder that was there is moved to `aside` or `new`."""
    if not new.is_dir():
        os.replace(new, path)
        return
    if not path.exists():
        try:
            os.rename(new, path)
            return
        except OSError:
            if not path.exists():  # else another process was faster
                raise
    if _swap(new, path):
        return
    os.rename(path, aside)  # killed between the two, the next sweep gives it back
    try:
        os.rename(new, path)
    except OSError:
        os.rename(aside, path)
        raise


def _swap(a: Path, b: Path) -> bool:
    """Exchange two paths in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _flush_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not flush folders
            raise
    finally:
        os.close(handle)


# ---------------------------------------------------------------- reading


def as_path(path: str | os.PathLike[str], refusal: type[PockError]) -> Path:
    """What a user gave as a path.

    Raises:
        PockError: of the class `refusal`: it is neither a text nor a path.
    """
    require(refusal, "The path", path, (str, os.PathLike), "Pass a text or a pathlib.Path.")
    return Path(path)


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path, without symbolic links.

    Raises:
        ArtifactError: its name is not UTF-8, which runtimes cannot open, or is no name at all.
    """
    named = as_path(path, ArtifactError)
    try:
        found = named.resolve()
        str(found).encode()
        os.path.lexists(found)
        found.is_dir()
    except UnicodeError:
        utf8 = sys.getfilesystemencoding() == "utf-8"
        raise ArtifactError(
            f"The path {os.fspath(path)!a} cannot be used: its name is not UTF-8"
            + (
                ". Rename it."
                if utf8
                else ", or has letters that this locale has not. Set PYTHONUTF8=1, or rename it."
            )
        ) from None
    except (TypeError, ValueError, OSError, RuntimeError) as e:
        raise ArtifactError(
            f"The path {str(path)[:200]!a} cannot be used: {reason(e)}. Choose another."
        ) from None
    return found


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, but no folder, pipe or device.

    Raises:
        OSError: there is none, or it is none.
    """
    _require_regular(path.stat(), path)
    # A pipe that took the file's place since must not block.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(handle), path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no file but a folder, a pipe or a device", str(path))


def read_text(path: Path, limit_bytes: int) -> str:
    """A text file of at most `limit_bytes`.

    Raises:
        OSError: there is none, it is none, or it is larger.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_regular(path) as f:
        data = f.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {limit_bytes} bytes", str(path))
    return data.decode()


def parse_json(text: str) -> Any:
    """JSON as Python values.

    Raises:
        ValueError: not JSON, nested too deeply, or a number that is too long.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
