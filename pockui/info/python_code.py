"""What a session has planned, and how it would train it, as Python that does the same when it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import format as fmt
from .names import file_name
from .predictions import ORIGINS
from .training_code import import_lines, task_lines, training_lines

if TYPE_CHECKING:
    from pockgraph.plan import Budget, Plan
    from pockgraph.profile import Profile
    from pockgraph.search import Constraints

    from .train_settings import TrainSettings

WIDTH = 100  # of a line


class Planned(NamedTuple):
    """What a session has settled.

    Attributes:
        study: its file.
        device: whose costs count; None: nobody's.
        asked: locks and rules. origin: how the plan came about, a key of `ORIGINS`.
    """

    study: str
    device: str | None
    budget: Budget
    asked: Constraints
    plan: Plan
    origin: str


def session_code(planned: Planned, profile: Profile, reference: str, settings: TrainSettings) -> str:
    """The plan with its figures, and its training.

    Args:
        profile: of the device that the plan is made for.
        reference: `module:task`, or empty.
    """
    return "\n".join(
        [
            *import_lines(reference),
            *planning_lines(planned, profile),
            "",
            "# Compile and train it.",
            *task_lines(reference),
            *training_lines(planned.plan, settings),
        ]
    )


def planning_code(planned: Planned, profile: Profile) -> str:
    """The plan with its figures alone: needs no torch."""
    return "\n".join(["import pockgraph as pg", "", *planning_lines(planned, profile)])


def planning_lines(planned: Planned, profile: Profile) -> list[str]:
    device = planned.device
    lines = [
        f"study = pg.Study({planned.study!r})",
        f"profile = study.profile_on({device!r})" if device else "profile = study.profile",
        *_budget_lines(planned.budget),
        *_call("constraints = pg.Constraints", _constraints(planned.asked)),
    ]
    if planned.origin == "search":
        on = f", device={device!r}" if device else ""
        lines.append(f"plan = study.search(budget, constraints=constraints{on})")
    else:
        lines += _plan_lines(planned.plan, profile, planned.origin)
    return [
        *lines,
        f"plan.save({file_name(planned.plan.task) + '.plan.json'!r})",
        "print(plan)",
        "print(profile.figures(profile.ratios_of(plan)))",
        "print(study.forecast(plan))",
    ]


def _budget_lines(budget: Budget) -> list[str]:
    """Limits to the digit, each with what it is in words."""
    limits = budget.limits
    if not limits:
        return ["budget = pg.Budget()  # no limit"]
    said = [fmt.size(v) if k.endswith("bytes") else fmt.milliseconds(v) for k, v in limits.items()]
    inside = ", ".join(f"{k}={int(v) if k.endswith('bytes') else v!r}" for k, v in limits.items())
    return [f"budget = pg.Budget({inside})  # {', '.join(said)}"]


def _constraints(asked: Constraints) -> dict[str, Any]:
    return asked.model_dump(exclude_defaults=True)


def _plan_lines(plan: Plan, profile: Profile, origin: str) -> list[str]:
    """A plan by shares where those mean its channels, and by channels elsewhere."""
    shares = profile.ratios_of(plan)
    usual = profile.plan(shares).tensors
    lines = [f"# {ORIGINS[origin]} The budget and the constraints say what a search would keep to."]
    lines += _call("plan = profile.plan", [{fqn: shares[fqn] for fqn in plan.tensors}])
    if named := {fqn: how for fqn, how in plan.tensors.items() if usual.get(fqn) != how}:
        channels = {fqn: _Code(f"pg.Trained(dim={t.dim}, channels={t.channels})") for fqn, t in named.items()}
        lines += _call("tensors = dict", [channels])
        lines.append('plan = plan.model_copy(update={"tensors": plan.tensors | tensors})')
    return lines


class _Code(str):
    """A text that is Python."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _call(function: str, arguments: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """`function(…)`: on one line where it has the room, else a line for each entry of a dict."""
    named = arguments if isinstance(arguments, Mapping) else dict.fromkeys([""], arguments[0])
    parts = [(f"{name}=" if name else "", value) for name, value in named.items()]
    one = f"{function}({', '.join(name + repr(value) for name, value in parts)})"
    if len(one) <= WIDTH:
        return [one]
    lines = [f"{function}("]
    for name, value in parts:
        if isinstance(value, dict):
            entries = [f"        {key!r}: {entry!r}," for key, entry in value.items()]
            lines += [f"    {name}{{", *entries, "    },"]
        else:
            lines.append(f"    {name}{value!r},")
    return [*lines, ")"]
