"""Targets: what a graph is compiled to. Each says all that it lacks before it starts, and then writes files.

Not here: expansions that are right for every target (`passes/legalize/`), and the runners that load files
without torch (`runtime/`). A target is imported when it is asked for, so that one can be missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import fx

from ..errors import PockError, UnsupportedOperators, require, suggest
from ..ir.graph import Graph
from ..passes import Pipeline
from ..runtime.frozen_weights import OPTION

_MODULES = {
    "openvino": "pockgraph.targets.openvino",
    "onnx": "pockgraph.targets.onnx",
    "torch": "pockgraph.targets.torch",
}
_EXPERIMENTAL = {"executorch": "pockgraph.targets.executorch"}
_OPTIONS = {"openvino": ("precision", OPTION), "torch": ("mode", "precision")}


@dataclass(frozen=True)
class Unsupported:
    """An operator that a target cannot lower.

    Attributes:
        op: the ATen overload, `"aten.svd.default"`.
        layer: dotted path of the module it comes from; empty for the loss.
        source: `file:line` of the user's code; empty when unknown.
        reason: why, in words.
        node: its name in the graph that was asked about.
    """

    op: str
    layer: str
    source: str
    reason: str
    node: str = field(compare=False)

    def __str__(self) -> str:
        where = ", ".join(filter(None, (self.layer and f"layer {self.layer!r}", self.source)))
        return f"{self.op}{f' ({where})' if where else ''}: {self.reason}"


def unsupported_calls(graph: Graph, refusal: Callable[[fx.Node], str]) -> list[Unsupported]:
    """Every call of `graph` that `refusal` gives a reason against, in schedule order."""
    found = []
    for node in graph.nodes():
        reason = refusal(node)
        if reason:
            where = node.meta.get("layer", ""), node.meta.get("source", "")
            found.append(Unsupported(str(node.target), *where, reason, node.name))
    return found


class Target(Protocol):
    """What every target can do."""

    name: str

    @property
    def integers_below(self) -> int | None:
        """Integers smaller than this are exact whatever is computed with them; None: all of int64's are."""
        ...

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        """Every operator of `graph` that the target cannot lower, in schedule order."""
        ...

    def pipeline(self, options: Mapping[str, Any]) -> Pipeline:
        """The passes that a graph goes through before it is written.

        Raises:
            PockError: `options` names an option that the target does not have.
        """
        ...

    def write(self, graph: Graph, folder: Path, stem: str, options: Mapping[str, Any]) -> None:
        """Lower `graph`, as it is after the pipeline, and write `folder/stem.*`.

        Raises:
            UnsupportedOperators: the graph holds operators that the target lacks.
            PockError: `options` names an option that the target does not have.
        """
        ...


def target_names(experimental: bool = False) -> tuple[str, ...]:
    """The targets' names, of the experimental ones only if asked for: these need packages of their own."""
    return (*_MODULES, *(_EXPERIMENTAL if experimental else ()))


def get_target(name: str) -> Target:
    """The target called `name`, imported on first use.

    Raises:
        PockError: no target has that name (with suggestions).
    """
    require(PockError, "target", name, str, f"Pass one of {', '.join(map(repr, _MODULES))}.")
    modules = _MODULES | _EXPERIMENTAL
    if name not in modules:
        known = ", ".join(repr(n) for n in _MODULES)
        more = " and ".join(repr(n) for n in _EXPERIMENTAL)
        raise PockError(
            f"There is no target {name!r}.{suggest(name, modules)} The targets are {known}; experimental is "
            f"{more}."
        )
    return importlib.import_module(modules[name]).TARGET


def require_supported(target: Target, graph: Graph) -> None:
    """Refuse a graph that holds operators which `target` lacks.

    Raises:
        UnsupportedOperators: listing every one of them.
    """
    others = ", ".join(repr(n) for n in _MODULES if n != target.name)
    refuse_unsupported(
        target.unsupported(graph),
        f"Target {target.name!r} cannot lower",
        f"rewrite those lines of the model, or compile for another target ({others})",
    )


def refuse_unsupported(found: Iterable[Unsupported], what: str, remedy: str) -> None:
    """Refuse calls, if there are any.

    Args:
        what: who lacks them, as the beginning of a sentence.
        remedy: what helps besides training fewer layers.

    Raises:
        UnsupportedOperators: listing every one of them.
    """
    missing = dict.fromkeys(found)
    if missing:
        operators = f"{len(missing)} operator{'s' * (len(missing) > 1)}"
        lines = "\n".join(f"  - {u}" for u in missing)
        raise UnsupportedOperators(f"{what} {operators}:\n{lines}\nTrain fewer layers, {remedy}.")


def check_options(target: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a target does not have.

    Raises:
        PockError: naming the option, with suggestions, and the target that has it.
    """
    known = _OPTIONS.get(target, ())
    for option in options:
        if option not in known:
            has = f"Its options are {', '.join(map(repr, known))}." if known else "It has no options."
            others = [name for name, theirs in _OPTIONS.items() if option in theirs]
            elsewhere = f" Target {' or '.join(map(repr, others))} has it; or leave it out." if others else ""
            raise PockError(
                f"Target {target!r} has no option {option!r}.{suggest(option, known)} {has}{elsewhere}"
            )


def check_choice(target: str, options: Mapping[str, Any], option: str, choices: Sequence[str]) -> str:
    """The value of an option that is one of `choices`; by default the first.

    Raises:
        PockError: naming the value, with suggestions.
    """
    value = options.get(option, choices[0])
    if value not in choices:
        has = ", ".join(map(repr, choices))
        raise PockError(
            f"Target {target!r} has no {option} {value!r}.{suggest(str(value), choices)} It has {has}."
        )
    return value
