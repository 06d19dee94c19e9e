"""`import openvino` without its telemetry, and one `Core` a process: both come from this file only.

`import openvino` imports its model converter, and that reports the import to a telemetry service
unless somebody opted out. openvino goes on without a converter that fails to import, so ours fails:
nothing is sent, and the import takes half the memory and a third of the time. Who then asks for
`openvino.convert_model` gets it, with OpenVINO's own no-op in the place of the telemetry client.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from ..errors import ArtifactError
from .ownership import SPAWN

_CONVERTER = "openvino.tools.ovc"
_TELEMETRY = "openvino_telemetry"


def _convert_model_on_demand(name: str) -> Any:
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    sys.modules.setdefault(_TELEMETRY, None)  # pyright: ignore
    return importlib.import_module(_CONVERTER).convert_model


if "openvino" not in sys.modules:
    sys.modules[_CONVERTER] = None  # pyright: ignore
    try:
        import openvino
    finally:
        del sys.modules[_CONVERTER]
    openvino.__getattr__ = _convert_model_on_demand  # pyright: ignore

import openvino as ov  # noqa: E402

__all__ = ["core", "ov"]

_core: Any = None
_process = 0


def core() -> Any:
    """The `Core` of this process, made at the first call and never freed.

    The CPU plugin of each `Core` gives its thread another signal stack, and puts the one before back when
    the `Core` is freed. Of two that are freed in the order they were made, the last puts back the freed
    stack of the first, and the next Ctrl-C ends the process with a segmentation fault.

    Raises:
        ArtifactError: in a fork of a process that has one, where a new one may wait for the threads of it.
    """
    global _core, _process
    here = os.getpid()
    if _core is None:
        _core, _process = ov.Core(), here
    elif _process != here:
        raise ArtifactError(
            f"This process, {here}, was forked from one that had used OpenVINO, whose threads do not exist "
            f"here. {SPAWN}"
        )
    return _core
