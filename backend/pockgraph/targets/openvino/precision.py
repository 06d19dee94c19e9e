"""Which nodes stay in float32 when the rest is computed in less.

OpenVINO lowers the precision of a whole model, variables included, but for nodes that carry the
runtime attribute `precise`. Its Python interface cannot set one, its file can:

    <layer name="update/head/sub" …>   →   <layer …><rt_info><attribute name="precise" version="0"/></rt_info>
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

_STATE = ("ReadValue", "Assign")
# Friendly names are phase/layer/node. The loss has no layer: its softmax and its sums are not lowered.
_EXACT = ("update/", "forward//", "backward//")


def keep_state_exact(xml: Path) -> None:
    """Mark the state, its update and the loss of a serialised model, in place."""
    tree = ET.parse(xml)
    for layer in tree.getroot().iterfind("layers/layer"):
        if layer.get("type") in _STATE or layer.get("name", "").startswith(_EXACT):
            info = layer.find("rt_info")
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(1 if layer.find("data") is not None else 0, info)
            ET.SubElement(info, "attribute", name="precise", version="0")
    tree.write(xml, encoding="utf-8", xml_declaration=True)
