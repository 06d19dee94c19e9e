"""How the inputs and outputs of a graph are called, in memory and in an artefact's manifest.

Imports no torch: a device reads the same names.
"""

from __future__ import annotations

import enum
from typing import Protocol

EMA = "ema"  # the key of an optimizer state that averages a trained tensor


class Role(enum.StrEnum):
    """What a graph input or output is."""

    BATCH = "batch"
    PARAM = "param"
    BUFFER = "buffer"
    CONST = "const"
    OPT_STATE = "opt_state"
    LR = "lr"
    SEED = "seed"
    LOSS = "loss"
    METRIC = "metric"
    PREDICTION = "prediction"
    GRAD = "grad"
    NEW_PARAM = "new_param"
    NEW_BUFFER = "new_buffer"
    NEW_OPT_STATE = "new_opt_state"


class _Described(Protocol):
    """What names are made of; `ir.graph.Slot` says what each is."""

    @property
    def role(self) -> str: ...
    @property
    def fqn(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def trained(self) -> bool: ...
    @property
    def changes(self) -> bool: ...


class SlotNames:
    """The names of a slot, for every class that has its fields."""

    @property
    def name(self: _Described) -> str:
        """Unique in a graph: `param:conv.weight`, `opt_state:conv.weight:momentum_buffer`, `lr`."""
        if self.role in (Role.LR, Role.SEED, Role.LOSS, Role.METRIC):
            return str(self.role)
        role = "trained" if self.role == Role.PARAM and self.trained else self.role
        return ":".join(filter(None, (role, self.fqn, self.key)))

    @property
    def is_state(self: _Described) -> bool:
        """Held by the target between steps."""
        return self.trained or self.changes or self.role == Role.OPT_STATE

    @property
    def next_name(self: _Described) -> str:
        """State only: the name of the output that holds the slot's next value."""
        return ":".join(filter(None, (f"new_{self.role}", self.fqn, self.key)))
