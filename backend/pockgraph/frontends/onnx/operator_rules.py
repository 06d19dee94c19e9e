"""The table of rules.

A rule is a function of torch tensors that does what one ONNX operator does. Its positional
parameters are the operator's inputs, absent ones None; its keyword parameters the operator's
attributes, by ONNX's names and with ONNX's defaults:

    @op("Softmax", 13)
    def softmax(x, *, axis=-1):
        return torch.softmax(x, axis)

The numbers are the opset versions in which the operator took the form that the rule implements. A
model whose opset defines another form is refused, so that a changed meaning is never run by the old
rule. `host` inputs decide shapes, and arrive as numpy arrays: their values must be known beforehand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """How one form of an operator runs.

    Attributes:
        function: takes inputs and attributes; a tuple when it makes several outputs.
        inputs: names of the inputs; of a variadic operator just the one.
        attributes: names of the attributes that it takes.
        host: inputs whose values must be known beforehand.
        computed: those of them that may be tensors as well, where they are not known.
        leaves: input -> the last part of the FQN of a weight that stands there.
        buffers: inputs that are never trained though they are weights.
        numbers: inputs whose constants of one element may arrive as Python numbers.
        outputs: how many outputs it can make.
        check: attributes -> the reason why they cannot be run, or an empty string.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    variadic: bool
    attributes: frozenset[str]
    host: frozenset[str]
    computed: frozenset[str]
    leaves: Mapping[str, str]
    buffers: frozenset[str]
    numbers: frozenset[str]
    outputs: int
    check: Callable[[Mapping[str, Any]], str] | None

    def input_name(self, position: int) -> str:
        """The name of an input; empty beyond the last."""
        if self.variadic:
            return self.inputs[0]
        return self.inputs[position] if position < len(self.inputs) else ""

    def is_host(self, position: int) -> bool:
        return self.input_name(position) in self.host


RULES: dict[str, dict[int, Rule]] = {}
COUNT = "outputs"  # a keyword parameter of this name is told how many outputs the node has


class NotRunnable(Exception):
    """Raised by a rule: with these shapes it cannot do what the operator does."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def op(
    name: str,
    *versions: int,
    host: Sequence[str] = (),
    computed: Sequence[str] = (),
    leaves: Mapping[str, str] | None = None,
    buffers: Sequence[str] = (),
    numbers: Sequence[str] = (),
    outputs: int = 1,
    check: Callable[[Mapping[str, Any]], str] | None = None,
) -> Callable[[F], F]:
    """Register a function as the rule of an operator in the forms that `versions` introduced."""

    def register(function: F) -> F:
        parameters = inspect.signature(function).parameters.values()
        inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        rule = Rule(
            function,
            tuple(p.name for p in inputs),
            any(p.kind is p.VAR_POSITIONAL for p in inputs),
            frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
            frozenset((*host, *computed)),
            frozenset(computed),
            dict(leaves or {}),
            frozenset(buffers),
            frozenset(numbers),
            outputs,
            check,
        )
        unknown = {*host, *computed, *rule.leaves, *buffers, *numbers} - {*rule.inputs}
        assert not unknown, f"{name}: {unknown} are no inputs"
        forms = RULES.setdefault(name, {})
        for version in versions:
            assert version not in forms, f"{name}-{version} has two rules"
            forms[version] = rule
        return function

    return register


def only(**allowed: Any) -> Callable[[Mapping[str, Any]], str]:
    """A check: each of these attributes, where given, must have this value (or be one of a tuple's)."""

    def check(attributes: Mapping[str, Any]) -> str:
        for name, values in allowed.items():
            values = values if isinstance(values, tuple) else (values,)
            given = attributes.get(name, values[0])
            if given not in values:
                can = " or ".join(map(repr, values))
                return f"{name}={given!r} is not supported, only {can}"
        return ""

    return check


def is_plain(*attributes: str) -> Callable[[Mapping[str, Any]], str]:
    """A check: these attributes, where given, must be all ones."""

    def check(given: Mapping[str, Any]) -> str:
        odd = [a for a in attributes if any(v != 1 for v in given.get(a, ()))]
        return f"{odd[0]}={list(given[odd[0]])} is not supported, only ones" if odd else ""

    return check


def from_start(axis: int, ndim: int) -> int:
    """An axis counted from the first one.

    Raises:
        NotRunnable: there is no such axis.
    """
    if not -ndim <= axis < ndim:
        raise NotRunnable(f"it has {ndim} dimensions, and no axis {axis}")
    return axis % ndim


def find_rule(name: str, version: int) -> Rule | None:
    return RULES.get(name, {}).get(version)
