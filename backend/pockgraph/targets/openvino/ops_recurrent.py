"""Recurrent layers: their loops are OpenVINO's `TensorIterator`, see `loops.py`."""

from __future__ import annotations

from ..shared import recurrent
from ..shared.shared_rules import joined
from . import loops
from .emitter import emit
from .openvino_rules import rule

for _operator, _rule in recurrent.rules(joined(emit, loops)).items():
    rule(_operator)(_rule)
