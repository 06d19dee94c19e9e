"""What a step replaces: the state before it and after it, in OpenVINO's own memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ArtifactError
from .quiet_openvino import ov


class StateMemories:
    """The state before and after the last step, in the runtime's own memory.

    The CPU plugin keeps each variable in two memories: a step reads one and writes the other, and they
    change roles at its end. `VariableState.state` is a view of the one in force, so the state before a step
    outlives it at no cost. Where a device does otherwise, a copy is made before each step.

    Attributes:
        new: slot name -> flat array: what the last step left.
    """

    def __init__(self, states: Mapping[str, Any], alternate: bool) -> None:
        self._states, self._alternate = states, alternate
        self.forget()

    def forget(self) -> None:
        """The state was set from outside: find the memories anew."""
        self._pair: dict[int, dict[str, np.ndarray]] = {}  # address of the first variable -> views of all
        self._trusted = 0  # steps for which the memories did what is expected of them
        self._old: dict[str, np.ndarray] | None = None
        self.new: dict[str, np.ndarray] = {}

    def before(self) -> None:
        self._old = self._current()

    def after(self) -> None:
        self.new = self._current()
        if self._alternate and self._trusted < 2:
            fresh = self._views()
            assert self._old is not None
            moved = all(_address(fresh[n]) != _address(a) for n, a in self._old.items())
            known = all(_address(fresh[n]) == _address(a) for n, a in self.new.items())
            self._trusted += 1
            if not (moved and known and len(self._pair) == 2):
                self._alternate, self._old, self._pair, self.new = False, None, {}, fresh

    def undo(self) -> None:
        if self._old is None:
            raise ArtifactError(
                "This device writes over the state before a step, and the first step failed. Go back with "
                "load_checkpoint() or reset(); from here on a copy is kept."
            )
        for name, state in self._states.items():
            held = self._old[name].reshape(state.state.data.shape)
            state.state = ov.Tensor(held, shared_memory=True)  # copies
        self.forget()

    def _current(self) -> dict[str, np.ndarray]:
        if not self._alternate:
            return {n: a.copy() for n, a in self._views().items()}
        if not self._states:
            return {}
        key = _address(next(iter(self._states.values())).state.data)
        if key not in self._pair:
            self._pair[key] = self._views()
        return self._pair[key]

    def _views(self) -> dict[str, np.ndarray]:
        return {n: s.state.data.reshape(-1) for n, s in self._states.items()}


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
