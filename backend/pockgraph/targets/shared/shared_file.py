"""A file of constants that several graphs refer to: each content stands in it once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


class SharedFile:
    """Finds places for constants: where they stand already, else at the end.

    Args:
        file: open for reading and writing.
        known: (offset, size) of what it holds.
        alignment: of the places, in bytes.
    """

    def __init__(self, file: BinaryIO, known: Iterable[tuple[int, int]], alignment: int) -> None:
        self._file, self._alignment = file, alignment
        self._by_size: dict[int, list[int]] = {}
        for offset, size in sorted(set(known)):
            self._by_size.setdefault(size, []).append(offset)

    def place(self, content: bytes) -> int:
        """The offset of `content`, which is written if it is new."""
        places = self._by_size.setdefault(len(content), [])
        for offset in places:
            self._file.seek(offset)
            if self._file.read(len(content)) == content:
                return offset
        end = self._file.seek(0, 2)
        offset = -(-end // self._alignment) * self._alignment
        self._file.write(bytes(offset - end) + content)
        places.append(offset)
        return offset


def opened(path: Path) -> BinaryIO:
    """A file to read and to append to; an empty one where there is none."""
    path.touch()
    return path.open("r+b")
