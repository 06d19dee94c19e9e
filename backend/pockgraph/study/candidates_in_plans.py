"""Which candidates the plans for a few budgets train: what an analysis of mode "mixed" wants to settle."""

from __future__ import annotations

from collections.abc import Mapping

from ..contribution import Candidate, Contribution
from ..contribution.gains import count_last_biases
from ..contribution.mixed_schedule import Chooser
from ..plan import Budget
from ..profile import Profile
from ..search import search

# Of the memory that training everything takes beyond the head alone.
BUDGETS = (0.25, 0.5)


def chooser(profile: Profile) -> Chooser:
    """For `contribution.mixed_schedule.MixedSchedule`."""
    full = profile.figures({t.fqn: 1.0 for t in profile.tensors}).peak_bytes

    def choose(table: Contribution) -> frozenset[Candidate]:
        alone = profile.figures(dict.fromkeys(table.head, 1.0)).peak_bytes
        found: set[Candidate] = set()
        for share in BUDGETS:
            budget = Budget(peak_bytes=round(alone + share * max(0, full - alone)))
            found |= taken(profile.ratios_of(search(profile, table, budget)), table)
        return frozenset(found)

    return choose


def taken(ratios: Mapping[str, float], table: Contribution) -> set[Candidate]:
    """The candidates of a table that a plan trains."""
    found = set()
    for fqn, ratio in ratios.items():
        if fqn in table.weights:
            nearest = min(table.weights[fqn], key=lambda r: abs(r - ratio))
            found.add(Candidate("weight", fqn, nearest))
    count = count_last_biases(ratios, table.bias_order)
    if table.biases and count:
        found.add(Candidate("bias_k", k=min(table.biases, key=lambda k: abs(k - count))))
    return found
