"""What a unit of each of `MemoryAmounts` takes on each target, as networks have it in common.

A fit to a few plans of one network leans on these where the plans say little. Fitted to ResNet-18,
EfficientNet-Lite0 and MiniLM together, 24 plans each, on OpenVINO 2026.4 and ONNX Runtime 1.32, by
`benchmarks/memory_model.py shared`.
"""

from __future__ import annotations

from types import MappingProxyType

# Of an operator; per byte of weights read for gradients of inputs, of state, and allocated after the
# forward pass.
COMMON_BYTES_PER_UNIT = MappingProxyType(
    {
        "openvino": (114_000.0, 1.69, 1.0, 0.174),
        "onnx": (6_050.0, 0.965, 1.0, 0.396),
    }
)
