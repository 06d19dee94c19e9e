"""Constants that the graphs of an artefact have in common stand in the step's file once.

OpenVINO writes a `.bin` for each model. That of the step, `train.bin`, takes in what the other graphs have
besides, and their `.bin` goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...runtime.openvino_xml import SHARED_CONSTANTS
from ..shared.shared_file import SharedFile

_ALIGNMENT = 64
# Text in an XML file holds neither < nor ", so this is the <data> of a constant and nothing else.
_PLACE = re.compile(r'(<data [^<>]*?)offset="(\d+)" size="(\d+)"')


def share_constants(xml: Path) -> Path:
    """Move the constants of a graph to those of the step beside it; without a step nothing changes.

    Returns:
        The file in which they stand.
    """
    own, common = xml.with_suffix(".bin"), xml.with_name(SHARED_CONSTANTS)
    if own == common or not common.is_file():
        return own
    others = [p for p in sorted(xml.parent.glob("*.xml")) if p != xml]
    known = (place for other in others for place in _places(other))
    with common.open("r+b") as file, own.open("rb") as constants:
        shared = SharedFile(file, known, _ALIGNMENT)

        def moved(found: re.Match[str]) -> str:
            offset, size = int(found[2]), int(found[3])
            constants.seek(offset)
            return f'{found[1]}offset="{shared.place(constants.read(size))}" size="{size}"'

        text = _PLACE.sub(moved, xml.read_text(encoding="utf-8"))
    xml.write_text(text, encoding="utf-8")
    own.unlink()
    return common


def _places(xml: Path) -> Iterator[tuple[int, int]]:
    """(offset, size) of a model's constants."""
    for found in _PLACE.finditer(xml.read_text(encoding="utf-8")):
        yield int(found[2]), int(found[3])
