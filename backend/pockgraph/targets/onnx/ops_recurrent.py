"""Recurrent layers: ONNX's own operators (`native_recurrent.py`), or loops as `Scan` (`loops.py`)."""

from __future__ import annotations

from ...recurrent.operators import ops
from ..shared import recurrent
from ..shared.shared_rules import joined
from . import loops, native_recurrent
from .emitter import emit
from .onnx_rules import rule

_rules = recurrent.rules(joined(emit, loops))
_rules[ops.lstm.default] = native_recurrent.lstm(_rules[ops.lstm.default])
_rules[ops.gru.default] = native_recurrent.gru(_rules[ops.gru.default], reset_first=False)
_rules[ops.gru_reset_first.default] = native_recurrent.gru(
    _rules[ops.gru_reset_first.default], reset_first=True
)
for _operator, _rule in _rules.items():
    rule(_operator)(_rule)
