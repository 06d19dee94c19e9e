"""Recurrent layers: their loops are OpenVINO's `TensorIterator`, see `loops.py`."""

from __future__ import annotations

from types import SimpleNamespace

from ..shared import recurrent
from . import emit
from .loops import loop
from .rules import rule

for _operator, _rule in recurrent.rules(SimpleNamespace(**vars(emit), loop=loop)).items():
    rule(_operator)(_rule)
