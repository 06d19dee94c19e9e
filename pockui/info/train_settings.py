"""How a plan is trained: what the form asks, as a value and as a part of the page's address."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pockgraph.errors import PockError, suggest

from .optimizers import OPTIONS, RULES, optimizer_of
from .training import PRECISIONS, RUNTIMES

if TYPE_CHECKING:
    from pockgraph.study.trained_plans import Conditions

STEPS_MAX = 1_000_000


@dataclass(frozen=True)
class TrainSettings:
    """
    Attributes:
        target: what to compile to.
        steps: how many.
        device: as the target's runtime calls it.
        precision: of activations and gradients.
        optimizer: of `RULES`; empty means the plan's.
        options: what is not as the plan's, or the optimizer's own defaults: option -> value.
        lr: learning rate; None means the optimizer's.
        measure: also measure time and memory afterwards.
    """

    target: str = "openvino"
    steps: int = 100
    device: str = "CPU"
    precision: str = "f32"
    optimizer: str = ""
    options: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None
    measure: bool = True

    def optimizer_for(self, planned: Mapping[str, Any]) -> dict[str, Any]:
        """The optimizer that trains, as a plan describes it.

        Args:
            planned: the plan's.
        """
        rate = {} if self.lr is None else {"lr": self.lr}
        known = {o.name for o in RULES[self.optimizer or planned["name"]].options}
        options = {k: v for k, v in self.options.items() if k in known}
        return optimizer_of(self.optimizer, {**options, **rate}, planned)

    def like(self, conditions: Conditions, planned: Mapping[str, Any]) -> TrainSettings:
        """With the steps, rate and optimizer of an analysis.

        Args:
            planned: the optimizer of the plan, which is the analysis's.
        """
        lr = None if conditions.lr == planned["lr"] else conditions.lr
        return replace(self, steps=conditions.steps, lr=lr, optimizer="", options={}, precision="f32")

    def to_text(self) -> str:
        """`target:torch,steps:200,optimizer:adamw`: what is not as a page opens with; empty for nothing."""
        usual = TrainSettings()
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "options"}
        changed = {k: v for k, v in found.items() if v != getattr(usual, k)}
        written = {k: str(int(v)) if isinstance(v, bool) else str(v) for k, v in changed.items()}
        written |= {k: repr(v) for k, v in self.options.items()}
        return ",".join(f"{k}:{v}" for k, v in written.items())


def read_settings(text: str) -> TrainSettings:
    """What `to_text` gave.

    Raises:
        PockError: it says what there is not, with the names that there are.
    """
    values: dict[str, Any] = {}
    options: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition(":")
        if key in OPTIONS:
            options |= {} if (number := option_value(value, key)) is None else {key: number}
        elif key in _READ:
            values[key] = _READ[key](value)
        else:
            raise PockError(f"The address sets {key[:40]!r} of a training.{suggest(key, [*_READ, *OPTIONS])}")
    return TrainSettings(**values, options=options)


def option_value(typed: str, name: str) -> float | None:
    """A number that an optimizer's option can be; None for nothing.

    Raises:
        PockError: it is none, with those that are.
    """
    option = OPTIONS[name]
    if not typed.strip():
        return None
    value = _number(typed)
    if not 0 <= value < option.below:
        upper = "" if option.below == math.inf else f" and below {option.below:g}"
        raise PockError(
            f"{option.label}: {typed[:40]!r} is no number from 0 up{upper}. Type one, or leave it empty."
        )
    return value


def learning_rate(typed: str) -> float | None:
    """What was typed into a field; None for nothing.

    Raises:
        PockError: it is no number above 0.
    """
    text = typed.strip()
    if not text:
        return None
    rate = _number(text)
    if not 0 < rate < math.inf:
        raise PockError(
            f"{text[:40]!r} is no learning rate. Type a number above 0, or leave the field empty."
        )
    return rate


def _number(typed: str) -> float:
    """NaN for what is none, and what has no end."""
    try:
        value = float(typed)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _one_of(known: Mapping[str, Any] | tuple[str, ...], what: str) -> Any:
    def read(value: str) -> str:
        if value not in known:
            raise PockError(
                f"There is no {what} {value[:40]!r} to train with. There are {', '.join(known)}."
                f"{suggest(value, known)}"
            )
        return value

    return read


def _steps(value: str) -> int:
    count = int(value) if value.isdecimal() and len(value) < 8 else 0
    if not 1 <= count <= STEPS_MAX:
        raise PockError(f"{value[:40]!r} is no number of steps from 1 to {STEPS_MAX:,}.")
    return count


_READ: dict[str, Any] = {
    "target": _one_of(RUNTIMES, "target"),
    "steps": _steps,
    "device": lambda value: value[:40],
    "precision": _one_of(PRECISIONS, "precision"),
    "optimizer": _one_of(RULES, "optimizer"),
    "lr": learning_rate,
    "measure": lambda value: value != "0",
}
