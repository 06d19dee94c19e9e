"""The largest of a row of plans that a budget allows; the last biases are one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import BudgetError
from ..plan import Budget, Plan
from ..profile import Profile


def fits(profile: Profile, choice: Mapping[str, float], budget: Budget) -> bool:
    """Whether a plan keeps to every limit of a budget.

    Raises:
        BudgetError: the budget limits what the profile has no model of, such as a time that nobody measured.
    """
    figures = profile.figures(choice)
    for name, limit in budget.limits.items():
        value = getattr(figures, name)
        if value is None:
            raise BudgetError(
                f"The budget limits {name}, which this profile cannot tell. Measure it first, or limit "
                "peak_bytes."
            )
        if value > limit:
            return False
    return True


def largest(most: int, allowed: Callable[[int], bool]) -> int:
    """The largest n in 0..`most` that is allowed, where all below an allowed one are.

    Raises:
        BudgetError: not even 0 is.
    """
    if not allowed(0):
        raise BudgetError("Not even the smallest of these plans fits the budget. Raise it.")
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle - 1)
    return low


def within(budget: Budget) -> str:
    """A budget in a few words, for a plan's provenance."""
    return ", ".join(f"{name} {limit:g}" for name, limit in budget.limits.items()) or "no limit"


def last_biases(profile: Profile, budget: Budget) -> Plan:
    """The head, and as many of the last biases below it (those of norms, too) as the budget allows.

    Raises:
        BudgetError: not even the head alone fits.
    """
    biases = [t for t in profile.tensors if t.kind == "bias" and t.fqn not in profile.head]
    order = [t.fqn for t in sorted(biases, key=lambda t: -t.depth)]

    def choice(k: int) -> dict[str, float]:
        return dict.fromkeys([*profile.head, *order[:k]], 1.0)

    k = largest(len(order), lambda n: fits(profile, choice(n), budget))
    return profile.plan(choice(k), provenance={"made_by": f"last {k} biases, within {within(budget)}"})
