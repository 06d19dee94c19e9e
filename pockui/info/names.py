"""Names that people choose, as names of files: inside their folder, whatever the name."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 60
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no files on Windows


def file_name(name: str) -> str:
    """A file name without folders that stands for `name`, and for no other one.

    Letters, digits, `.`, `_` and `-` stay. Whatever else had to be changed is followed by a few digits of the
    name's hash.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-. ")[:LONGEST].rstrip("-. ")
    if safe and safe == name and not RESERVED.fullmatch(safe):
        return safe
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe or 'task'}-{digest}" if not RESERVED.fullmatch(safe) else f"task-{digest}"
