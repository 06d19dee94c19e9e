"""What a plan must keep to beside its budget: locked tensors, whole blocks, weights with their biases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..errors import PlanError, listing, suggest
from ..globs import matches
from ..plan.tensor_info import TensorInfo
from ..strict_model import Strict

if TYPE_CHECKING:
    from ..profile import Profile

REGEX = "re:"
Share = Annotated[float, Field(ge=0, le=1)]
Lock = Share | Literal["frozen", "free"]


class Constraints(Strict):
    """What every plan of a search keeps to, beside the budget.

    Attributes:
        locked: pattern -> ratio that the matching tensors are trained at; `"frozen"` (or 0): they are not
            trained; `"free"`: the search decides, as if nothing had been said. A pattern is a name, a glob
            (`"blocks.3.*"`), or `re:` and a regular expression of the whole name (`"re:blocks.[0-3].*"`).
            Of several patterns that match a tensor the last one counts.
        whole_blocks: the measured weights of a block (the repeated part of the network that they are in, as
            presets have it) are trained all or none, each at any measured ratio. Biases are not meant: they
            are chosen as "the last k".
        weights_need_bias: a weight is trained only where its bias is among the last k that are: the one of
            its own layer, or else of the normalisation that is next in its block. Weights without one, and
            those that are locked to a ratio, are trained as before.
        max_tensors: how many tensors a plan trains at most, the head's and biases included.
    """

    locked: dict[str, Lock] = Field(default={})
    whole_blocks: bool = False
    weights_need_bias: bool = False
    max_tensors: Annotated[int, Field(ge=1)] | None = None

    refusal = PlanError

    def with_locked(self, locked: Mapping[str, Lock]) -> Constraints:
        """These constraints and further locks, which count before the ones that are there."""
        return Constraints(**{**dict(self), "locked": {**self.locked, **locked}}) if locked else self

    def ratios(self, profile: Profile) -> dict[str, float]:
        """FQN -> ratio of every locked tensor; 0 where it stays frozen.

        Raises:
            PlanError: a pattern that matches no trainable tensor, or is no regular expression.
        """
        names = [tensor.fqn for tensor in profile.tensors]
        found: dict[str, float] = {}
        for pattern, ratio in self.locked.items():
            for fqn in matching(names, pattern):
                if ratio == "free":
                    found.pop(fqn, None)
                else:
                    found[fqn] = 0.0 if ratio == "frozen" else float(ratio)
        return found


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """The names that a pattern means, see `Constraints.locked`.

    Raises:
        PlanError: none; with names, and globs of modules, that are near.
    """
    if pattern in names:
        return [pattern]  # which may hold brackets and stars
    if pattern.startswith(REGEX):
        try:
            regex = re.compile(pattern.removeprefix(REGEX))
        except re.error as e:
            raise PlanError(
                f"The lock {pattern!r} is no regular expression: {e}. Correct it, or write a glob without "
                f"{REGEX!r}."
            ) from e
        found = [name for name in names if regex.fullmatch(name)]
    else:
        found = [name for name in names if matches(name, pattern)]
    if found:
        return found
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:n]) for part in parts for n in range(1, len(part))}
    plain = pattern.removeprefix(REGEX).replace("\\", "")
    near = suggest(plain, [*names, *(f"{module}.*" for module in sorted(modules))])
    raise PlanError(
        f"The model has no trainable tensor {pattern!r}, nor one that it matches.{near} "
        f"There are {listing(names, 4)}."
    )


def blocks(tensors: Sequence[TensorInfo]) -> dict[str, list[int]]:
    """Block -> positions of its tensors; a layer outside all repeated parts is a block of its own."""
    found: dict[str, list[int]] = {}
    for i, tensor in enumerate(tensors):
        found.setdefault(tensor.block, []).append(i)
    return found


def biases_of_weights(tensors: Sequence[TensorInfo]) -> dict[int, int]:
    """Position of a weight -> position of its bias, see `Constraints.weights_need_bias`."""
    bias_of_layer = {t.layer: i for i, t in enumerate(tensors) if t.kind == "bias"}
    order = sorted(range(len(tensors)), key=lambda i: tensors[i].depth)
    found: dict[int, int] = {}
    for place, i in enumerate(order):
        weight = tensors[i]
        if weight.kind != "weight":
            continue
        bias = bias_of_layer.get(weight.layer)
        if bias is None:
            after = next((tensors[j] for j in order[place + 1 :] if tensors[j].layer != weight.layer), None)
            if after is not None and after.kind == "norm" and _repeated_part(after) == _repeated_part(weight):
                bias = bias_of_layer.get(after.layer)
        if bias is not None:
            found[i] = bias
    return found


def _repeated_part(tensor: TensorInfo) -> str:
    """The repeated part that a tensor is in; the same for all that are in none."""
    return "" if tensor.block == tensor.layer else tensor.block
