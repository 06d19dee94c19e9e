"""`import onnxruntime` without its telemetry: it comes from this file only.

Its official builds (1.32 on Linux, for one) keep a number for this machine in the user's folder and report
sessions to their maker, unless a variable says otherwise before the import. Where the program had imported
it before, what it reports from now on is switched off.
"""

from __future__ import annotations

import os
import sys

_was_imported = "onnxruntime" in sys.modules
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort  # noqa: E402

if _was_imported:
    ort.disable_telemetry_events()

__all__ = ["ort"]
