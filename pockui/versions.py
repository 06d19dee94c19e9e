"""The versions of the packages that figures depend on."""

from __future__ import annotations

from pockgraph.version import installed_version

PACKAGES = (
    "pockui", "numpy", "openvino", "torch", "onnx", "onnxruntime", "transformers", "panel",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    return {name: installed_version(name) for name in PACKAGES}
