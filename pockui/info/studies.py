"""Finding a study to open when none was named."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pockgraph.errors import StudyError
from pockgraph.store.store import is_study

PLACES = (".", "out", "out/*")  # relative to the working directory
SUFFIX = ".db"


def find_studies(places: Iterable[str] = PLACES) -> list[Path]:
    """The studies there, newest first; other programs' databases are none."""
    found = [p for place in places for p in Path().glob(f"{place}/*{SUFFIX}") if is_study(p)]
    return sorted(found, key=changed_s, reverse=True)


def changed_s(path: Path) -> float:
    """When a study was written last, in seconds since the epoch; 0 for one that is gone.

    What was written while it is open stands in SQLite's log beside it; whoever reads it makes an empty one.
    """
    found = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        with suppress(OSError):
            found.append(file.stat())
    return max((status.st_mtime for status in found if status.st_size), default=0.0)


def study_argument(argv: list[str], environment: dict[str, str]) -> str:
    """The study that whoever started the server asked for: by the command line, then by `POCKUI_STUDY`.

    Returns:
        A path, or an empty string when none was named.
    """
    named = [a for a in argv if a.endswith(SUFFIX)]
    return (named[0] if named else "") or environment.get("POCKUI_STUDY", "")


def served_study(named: str, folder: Path = Path()) -> Path:
    """The file that a page's address names. Visitors name files of the served folder only.

    Args:
        named: a path relative to the folder.
        folder: the one that the server was started in.

    Raises:
        StudyError: it lies elsewhere, by a link too, or is no file of a study's kind.
    """
    path = Path(named)
    ordinary = "\0" not in named and not path.is_absolute() and ".." not in path.parts
    try:
        if ordinary and path.suffix == SUFFIX:
            real = (folder / path).resolve(strict=True)
            if real.is_relative_to(folder.resolve()) and real.is_file():
                return real
    except (OSError, RuntimeError, ValueError):
        pass  # a name that is too long, a loop of links
    raise StudyError(
        f"There is no study {named[:200]!r} in the folder that is served. The address names a {SUFFIX} file "
        "of the folder that the server was started in, as in ?study=out/study.db."
    )
