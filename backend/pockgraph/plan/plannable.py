"""What a plan needs to know of the training graph it is made for. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import PlanError, listing, require

if TYPE_CHECKING:
    from .plan import Plan
    from .tensor_info import TensorInfo


class HasRule(Protocol):
    """An optimizer that says which update it makes."""

    def to_dict(self) -> dict[str, Any]: ...


class Entry(Protocol):
    """A batch entry: its name, shape and dtype."""

    @property
    def fqn(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


class HasTensors(Protocol):
    """What has tensors to train: a training graph, or a profile of one."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]: ...


@runtime_checkable
class PlannableGraph(Protocol):
    """A training graph as a plan sees it: `TrainGraph` without its operators.

    Attributes:
        name: the task's name.
        plan: what the graph trains.
        optimizer: whose update it holds.
        tensors: what each trainable tensor costs, in forward order.
        unused, aliases, frozen: names that cannot be trained; see `TrainGraph`.
        batch_slots: what a batch holds.
    """

    @property
    def name(self) -> str: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def optimizer(self) -> HasRule: ...
    @property
    def tensors(self) -> tuple[TensorInfo, ...]: ...
    @property
    def unused(self) -> tuple[str, ...]: ...
    @property
    def aliases(self) -> Mapping[str, str] | None: ...
    @property
    def frozen(self) -> tuple[str, ...]: ...
    @property
    def batch_slots(self) -> Sequence[Entry]: ...

    def initial(self, fqn: str) -> Any:
        """A parameter's value when the graph was built, a torch tensor."""
        ...


def require_graph(graph: object) -> None:
    """Refuse what is no training graph.

    Raises:
        PlanError: with what to pass instead.
    """
    require(PlanError, "graph", graph, PlannableGraph, "Pass what pockgraph.build(task) returns.")


def check_trainable(graph: PlannableGraph, names: list[str]) -> None:
    """Refuse names that exist in the model but cannot be trained, with the reason.

    Raises:
        PlanError: a name of a tensor that the user froze, that the loss does not depend on, or another
            name of a tied one.
    """
    frozen = [n for n in names if n in graph.frozen]
    if frozen:
        raise PlanError(
            f"The model froze {listing(frozen)} (requires_grad=False), so no plan trains it. Set "
            "requires_grad_(True) on it and build again, or leave it out of the plan."
        )
    unused = [n for n in names if n in graph.unused]
    if unused:
        raise PlanError(
            f"The loss does not depend on {listing(unused)}, so there is no gradient to train with. "
            "Leave them out of the plan, or use them in the model's forward pass."
        )
    for name in names:
        if graph.aliases and name in graph.aliases:
            raise PlanError(
                f"{name!r} is tied to {graph.aliases[name]!r}: one tensor under two names. "
                f"Plan {graph.aliases[name]!r}, which trains both uses."
            )
