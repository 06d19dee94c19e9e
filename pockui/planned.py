"""What a session has settled, as the code that reproduces it takes it."""

from __future__ import annotations

from .info.python_code import Planned
from .state import State


def planned(state: State) -> Planned:
    """Of a state that has a plan."""
    facts = state.facts
    return Planned(str(facts.path), facts.device, state.budget, state.asked, state.plan, state.origin)
