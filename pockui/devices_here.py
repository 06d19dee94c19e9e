"""On which devices each target can train here, and in which precisions.

To know it, the runtimes have to be loaded, PyTorch among them, which takes seconds and memory. So a process
of its own looks, once for each server: `python -m pockui.devices_here` prints what it finds as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

Devices = Mapping[str, Mapping[str, tuple[str, ...]]]  # target -> device -> precisions
LOOK_S = 120.0
BEFORE: Devices = {target: {"CPU": ("f32",)} for target in ("openvino", "onnx", "torch")}  # nobody has looked
_OPENVINO = {"FP32": "f32", "BF16": "bf16", "FP16": "f16"}


class DevicesHere:
    """What was found on this machine; looks when first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[Callable[[], None]] = []
        self._found: Devices | None = None
        self._looks = False

    @property
    def found(self) -> Devices:
        """What is known by now: at least the processor."""
        return self._found or BEFORE

    def look(self, then: Callable[[], None]) -> None:
        """Find out, and call `then` (in a thread) once it is known; nothing where it is known already."""
        with self._lock:
            if self._found is not None:
                return
            self._asked.append(then)
            if self._looks:
                return
            self._looks = True
        threading.Thread(target=self._look, name="pockui-devices", daemon=True).start()

    def _look(self) -> None:
        found = BEFORE
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            done = subprocess.run(
                [sys.executable, "-m", __name__],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LOOK_S,
                check=True,
            )
            said = json.loads(done.stdout.splitlines()[-1])
            found = {t: {d: tuple(p) for d, p in devices.items()} for t, devices in said.items()}
        with self._lock:
            self._found = {**BEFORE, **found}
            asked, self._asked = self._asked, []
        for then in asked:
            then()


HERE = DevicesHere()


def _openvino() -> dict[str, list[str]]:
    import openvino as ov

    core = ov.Core()
    found = {}
    for device in core.available_devices:
        has = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        found[device] = [name for kind, name in _OPENVINO.items() if kind in has]
    return found


def _onnx() -> dict[str, list[str]]:
    from pockgraph.runtime.onnx import devices

    return {device: ["f32"] for device in sorted(devices(), key="CPU".__ne__)}


def _torch() -> dict[str, list[str]]:
    import torch

    found = {"CPU": ["f32", "bf16"]}
    if torch.cuda.is_available():
        found |= {f"cuda:{i}": ["f32", "bf16"] for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = ["f32"]
    return found


def main() -> None:
    found: dict[str, dict[str, list[str]]] = {}
    for target, look in {"openvino": _openvino, "onnx": _onnx, "torch": _torch}.items():
        with suppress(ImportError, RuntimeError, OSError):  # a runtime, or a driver, that is not there
            found[target] = look()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
