"""What this machine is, and the versions of what is installed on it."""

from __future__ import annotations

import importlib.metadata

from pockgraph.machine import machine, usable_cores

__all__ = ["machine", "usable_cores", "version", "versions"]

PACKAGES = (
    "pockui", "numpy", "openvino", "torch", "onnx", "onnxruntime", "transformers", "panel", "plotly",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    return {name: version(name) for name in PACKAGES}


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
