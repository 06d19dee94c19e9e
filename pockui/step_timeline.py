"""The step of the current choice, moment by moment, and the moment that a session looks at. No Panel here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import param

from pockgraph.profile.step_memory import StepMemory, freezing

from .facts import Facts
from .info import charts
from .info.layers import chosen
from .info.live_values import Alive, alive_at, freezing_text, hover_text, peaks
from .info.palette import palette
from .info.predictions import Prediction
from .info.timeline import Timeline, moment_at, timeline
from .state import State

COMPARED = {"Full": "full training", "Preset": "the preset"}  # names in `Facts.known_plans`


class StepTimeline(param.Parameterized):
    """What is alive over the step; read when it is drawn, so that a drag need not wait for it."""

    place = param.Number(
        default=None, allow_None=True, bounds=(0, 100),
        doc="Where in the step one looks, in percent of its operators; None: at the peak.",
    )  # fmt: skip

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._drawn: tuple[StepMemory, bool | None, Timeline, charts.Figure] | None = None
        self._memory: tuple[Prediction, StepMemory] | None = None
        self._others: tuple[Facts, Mapping[str, StepMemory]] | None = None

    @property
    def ready(self) -> bool:
        return self._state.ready and self._state.prediction is not None

    @property
    def memory(self) -> StepMemory:
        """Of the current choice."""
        s = self._state
        if self._memory is None or self._memory[0] is not s.prediction:
            self._memory = s.prediction, StepMemory(s.facts.profile, s.prediction.choice)
        return self._memory[1]

    @property
    def others(self) -> Mapping[str, StepMemory]:
        """Of the plans that it is compared with."""
        facts = self._state.facts
        if self._others is None or self._others[0] is not facts:
            known = {COMPARED[k]: p for k, p in facts.known_plans.items() if k in COMPARED}
            made = {name: StepMemory(facts.profile, known[name].choice) for name in COMPARED.values()}
            self._others = facts, made
        return self._others[1]

    @property
    def moment(self) -> int:
        """The moment that is looked at."""
        count = len(self._state.facts.profile.operators)
        return self.memory.peak if self.place is None else moment_at(self.memory, self.place, count)

    def figure(self) -> charts.Figure | None:
        """The chart; None while there is no choice."""
        if not self.ready:
            return None
        memory, s = self.memory, self._state
        if self._drawn is None or self._drawn[0] is not memory or self._drawn[1] != s.dark:
            found = timeline(s.facts.profile, memory, self.others)
            points = tuple(
                p._replace(text=hover_text(memory, m, p.text)) for m, p in zip(found.moments, found.points)
            )
            figure = charts.timeline_chart(found._replace(points=points), palette(s.dark))
            self._drawn = memory, s.dark, found, figure
        *_, found, figure = self._drawn  # a move of the line draws nothing else anew
        here = found.peak.x if self.place is None else self.place
        return charts.with_moment(figure, here, palette(s.dark))

    def alive(self) -> Alive:
        """What is alive at `moment`."""
        return alive_at(self.memory, self.moment)

    def peaks(self) -> str:
        """Where this plan and the others peak, in a sentence."""
        return peaks(self.memory, [*self.others.items()])

    def freezing(self) -> str:
        """What freezing the selected row does, and why not more; empty: no row is selected."""
        s = self._state
        if not s.selected:
            return ""
        tensors, choice = [*chosen(s.selected, 1, s.facts.contribution)], s.prediction.choice
        found = freezing(s.facts.profile, choice, tensors)
        row = s.facts.row(s.selected)
        return freezing_text(found, row.prefix + row.short, any(choice.get(fqn) for fqn in tensors))

    def edited(self, edit: Mapping[str, Any]) -> None:
        """A click on the chart, or its line moved."""
        if edit["kind"] == "click":
            count = len(self._state.facts.profile.operators)
            self.place = 100 * max(self.memory.moments[edit["index"]].place, 0) / count
        else:
            self.place = min(100.0, max(0.0, float(edit["value"])))
