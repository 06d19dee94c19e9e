"""Finding a study to open when none was named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PLACES = (".", "out", "out/*")  # relative to the working directory
SUFFIX = ".db"
SQLITE = b"SQLite format 3\x00"


def find_studies(places: Iterable[str] = PLACES) -> list[Path]:
    """SQLite files that may be studies, newest first."""
    found = [p for place in places for p in Path().glob(f"{place}/*{SUFFIX}") if _is_sqlite(p)]
    return sorted(found, key=lambda p: -p.stat().st_mtime)


def _is_sqlite(path: Path) -> bool:
    try:
        if not path.is_file():  # opening a pipe would wait for whoever writes to it
            return False
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


def study_argument(argv: list[str], query: str, environment: dict[str, str]) -> str:
    """The study a person asked for: the page's address, then the command line, then `POCKUI_STUDY`.

    Returns:
        A path, or an empty string when none was named.
    """
    named = [a for a in argv if a.endswith(SUFFIX)]
    return query or (named[0] if named else "") or environment.get("POCKUI_STUDY", "")
