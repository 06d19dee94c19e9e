"""The optimizers that a training may use, and their options, without PyTorch; as Python, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Option(NamedTuple):
    """A number that an optimizer takes beside its learning rate.

    Attributes:
        name: as in an address and a form; `beta1` and `beta2` are the two of `betas`.
        below: it is smaller than this, and 0 or more.
    """

    name: str
    label: str
    default: float
    below: float = math.inf


class Rule(NamedTuple):
    """A kind of optimizer.

    Attributes:
        label: its name, which its class has, too. lr: its learning rate, unless another is given.
    """

    label: str
    lr: float
    options: tuple[Option, ...]


def _decay(default: float = 0.0) -> Option:
    return Option("weight_decay", "Weight decay", default)


def _betas(first: float, second: float) -> tuple[Option, Option]:
    return Option("beta1", "Beta 1", first, 1.0), Option("beta2", "Beta 2", second, 1.0)


RULES = {
    "sgd": Rule("SGD", 1e-2, (Option("momentum", "Momentum", 0.0), _decay())),
    "adam": Rule("Adam", 1e-3, (*_betas(0.9, 0.999), _decay())),
    "adamw": Rule("AdamW", 1e-3, (*_betas(0.9, 0.999), _decay(1e-2))),
    "lion": Rule("Lion", 1e-4, (*_betas(0.9, 0.99), _decay())),
    "adafactor": Rule("Adafactor", 1e-2, (_decay(),)),
}
OPTIONS = {option.name: option for rule in RULES.values() for option in rule.options}
SHARED = ("groups", "clip_norm", "accumulate", "ema_decay")  # of every optimizer; a change of it keeps them


def defaults(name: str, planned: Mapping[str, Any]) -> dict[str, float]:
    """`lr` and the options of an optimizer, where nothing else is asked for.

    Args:
        planned: the plan's optimizer, whose own values are meant where it is of that kind.
    """
    rule = RULES[name]
    found = {"lr": rule.lr, **{option.name: option.default for option in rule.options}}
    if planned.get("name") == name:
        found |= {k: float(planned[k]) for k in found if k in planned}
        if "betas" in planned:
            found |= dict(zip(("beta1", "beta2"), planned["betas"]))
    return found


def optimizer_of(name: str, values: Mapping[str, float], planned: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer as a plan describes it.

    Args:
        name: of `RULES`; empty means the plan's.
        values: `lr` and options that are not as `defaults` has them.
        planned: the plan's.
    """
    name = name or planned["name"]
    all_values = {**defaults(name, planned), **values}
    betas = [all_values.pop(k) for k in ("beta1", "beta2") if k in all_values]
    kept = planned if planned["name"] == name else {k: planned[k] for k in SHARED if k in planned}
    return {**kept, "name": name, **all_values, **({"betas": betas} if betas else {})}


def same_rule(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two optimizers differ in no more than the learning rate."""
    plain = [
        {k: list(v) if isinstance(v, tuple) else v for k, v in o.items() if k != "lr"} for o in (one, other)
    ]
    return plain[0] == plain[1]


def optimizer_code(optimizer: Mapping[str, Any]) -> str:
    """`pg.SGD(lr=0.01, momentum=0.9)`, without options that are at their default of nothing."""
    name = str(optimizer["name"])
    options = {
        k: v for k, v in optimizer.items() if k != "name" and (v or (name, k) == ("adamw", "weight_decay"))
    }
    written = {k: repr(tuple(v) if isinstance(v, list) else v) for k, v in options.items()}
    if "groups" in options:
        groups = (", ".join(f"{k}={v!r}" for k, v in g.items()) for g in options["groups"])
        written["groups"] = f"({' '.join(f'pg.Group({g}),' for g in groups)})"
    return f"pg.{RULES[name].label}({', '.join(f'{k}={v}' for k, v in written.items())})"
