"""Prints where the `openvino` wheel of this Python says how to build with it, for cmake's OpenVINO_DIR."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def openvino_cmake() -> Path | None:
    """The folder of OpenVINOConfig.cmake; the package is looked for, not imported."""
    spec = importlib.util.find_spec("openvino")
    places = [Path(p) / "cmake" for p in (spec.submodule_search_locations or [])] if spec else []
    return next((p for p in places if (p / "OpenVINOConfig.cmake").is_file()), None)


if __name__ == "__main__":
    found = openvino_cmake()
    if found is None:
        sys.exit("This Python has no openvino with files for cmake: pip install openvino")
    print(found)
