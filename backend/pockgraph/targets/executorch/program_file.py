"""A program's file, looked at before ExecuTorch is: which operators it calls, and that it runs nothing else.

A program may also hold blobs for backends, some of which are machine code or models of other runtimes. A
training step needs none, so that a file with one is not this project's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import ArtifactError
from .kernels import is_called

MAGIC = b"ET12"
_MOST = 1 << 20  # operators, or anything else that a file counts
# Fields of the tables Program, ExecutionPlan and Operator in ExecuTorch's schema, by their place.
_PLANS, _NAME, _OPERATORS, _DELEGATES, _OVERLOAD = 1, 0, 6, 7, 1


def check_program(path: Path) -> None:
    """Refuse a file that calls more than the kernels that training steps are made of.

    Raises:
        ArtifactError: naming what it calls, or saying that it is no program.
    """
    try:
        content = path.read_bytes()
        operators, backends = called(content)
    except (OSError, ValueError, struct.error, IndexError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} is damaged or no ExecuTorch program ({e}). Compile it again.") from None
    foreign = [name for name in operators if not is_called(name)]
    if foreign or backends:
        what = ", ".join(map(repr, [*foreign, *backends][:3]))
        raise ArtifactError(
            f"{path} calls {what}, which no training step of this project does. Do not load it; compile it "
            "again."
        )


def called(content: bytes) -> tuple[list[str], list[str]]:
    """The operators, as `aten::add.out`, and the backends that a program calls.

    Raises:
        ValueError, struct.error: the file is no program, or damaged.
    """
    if content[4:8] != MAGIC:
        raise ValueError(f"it does not begin as one: {content[4:8]!r} instead of {MAGIC!r}")
    operators: list[str] = []
    backends: list[str] = []
    plans = list(_Table.root(content).tables(_PLANS))
    if not plans:
        raise ValueError("it holds no plan")
    for plan in plans:
        for operator in plan.tables(_OPERATORS):
            overload = operator.text(_OVERLOAD)
            operators.append(f"{operator.text(_NAME)}{'.' if overload else ''}{overload}")
        backends += [delegate.text(_NAME) for delegate in plan.tables(_DELEGATES)]
    return operators, backends


class _Table:
    """A table of a FlatBuffers file: its fields by their place in the schema."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at
        self._fields = at - self._number("<i", at)
        self._size = self._number("<H", self._fields)

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, struct.unpack_from("<I", content, 0)[0])

    def _number(self, form: str, at: int) -> int:
        if not 0 <= at <= len(self._content):
            raise ValueError(f"it points to byte {at} of {len(self._content)}")
        return struct.unpack_from(form, self._content, at)[0]

    def _pointed(self, at: int) -> int:
        return at + self._number("<I", at)

    def _field(self, place: int) -> int | None:
        """Where a field's value stands; None where the file leaves it out."""
        entry = 4 + 2 * place
        offset = self._number("<H", self._fields + entry) if entry < self._size else 0
        return self._at + offset if offset else None

    def text(self, place: int) -> str:
        field = self._field(place)
        if field is None:
            return ""
        start = self._pointed(field)
        return self._content[start + 4 : start + 4 + self._number("<I", start)].decode()

    def tables(self, place: int) -> Iterator[_Table]:
        field = self._field(place)
        if field is None:
            return
        start = self._pointed(field)
        count: Any = self._number("<I", start)
        if count > _MOST:
            raise ValueError(f"it counts {count} entries")
        for i in range(count):
            yield _Table(self._content, self._pointed(start + 4 + 4 * i))
