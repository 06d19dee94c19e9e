"""Which operators of an artefact the vendors' runtimes list as theirs.

The lists are data (`vendors.json`): what the documentation of ONNX Runtime's execution providers names,
with its source. A listed operator may still fall back to the CPU, where a condition of the list (kept as
a note) or the vendor's own check of shapes and dtypes is not met: only the device can tell for certain.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from ...errors import ArtifactError, reason

LISTS = Path(__file__).with_name("vendors.json")


@dataclass(frozen=True)
class Coverage:
    """How much of a model's operators one vendor lists.

    Attributes:
        vendor, hardware: what it is called, and what it drives.
        source: where its list stands.
        listed, missing: operator -> number of nodes.
        notes: operator -> the condition that the list states; only those with one.
    """

    vendor: str
    hardware: str
    source: str
    listed: Mapping[str, int]
    missing: Mapping[str, int]
    notes: Mapping[str, str]

    @property
    def node_ratio(self) -> float:
        """The share of the model's nodes whose operator is listed."""
        listed, missing = sum(self.listed.values()), sum(self.missing.values())
        return listed / (listed + missing) if listed + missing else 1.0


def operator_counts(path: Path) -> dict[str, int]:
    """ONNX operator -> number of nodes, of a model file.

    Raises:
        ArtifactError: there is no such file, or it is no ONNX model.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ArtifactError(
            f"There is no file {path}. Only artefacts of the target 'onnx' have a table of operators: "
            "compile with target='onnx'."
        ) from None
    except Exception as e:  # protobuf's error, whose class depends on its version
        raise ArtifactError(f"{path} is no ONNX model ({reason(e)}). Compile the artefact again.") from e
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def coverage(counts: Mapping[str, int]) -> list[Coverage]:
    """What each vendor lists of a model with these operators."""
    return [
        Coverage(
            vendor["name"],
            vendor["hardware"],
            vendor["source"],
            {op: n for op, n in counts.items() if op in vendor["operators"]},
            {op: n for op, n in counts.items() if op not in vendor["operators"]},
            {op: vendor["operators"][op] for op in counts if vendor["operators"].get(op)},
        )
        for vendor in _vendors()
    ]


@cache
def _vendors() -> list[dict[str, Any]]:
    return json.loads(LISTS.read_text(encoding="utf-8"))["vendors"]
