"""The memory of the plan's process in four parts, beside well-known plans; it follows every drag."""

from __future__ import annotations

import html
from pathlib import Path

import panel as pn
import param

from ..info.process_memory import PARTS, Stacks, stacks
from ..info.training import RUNTIMES
from ..state import State
from .parts import card, heading, table, text

STACKS = (Path(__file__).parent / "stacks.css").read_text(encoding="utf-8")


class ProcessMemory(pn.viewable.Viewer):
    """A bar for each plan, and the figures as a table; hidden where no process was measured."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._view = text(stylesheets=[STACKS])
        self._card = card(
            heading("Process memory", "All that the process holds, as the operating system counts it."),
            self._view,
        )
        state.param.watch(self._show, ["facts", "prediction", "budget"])
        self._show()

    def _show(self, *_: object) -> None:
        s = self.state
        model = s.facts.profile.memory if s.ready else None
        self._card.visible = model is not None
        if model is not None and s.prediction is not None and s.prediction.memory is not None:
            runtime = RUNTIMES.get(model.target, (model.target,))[0]
            known, limit = s.facts.known_plans, s.budget.process_bytes
            self._view.object = _html(stacks(s.prediction, known, model, runtime, limit))

    def __panel__(self) -> pn.viewable.Viewable:
        return self._card


def _html(shown: Stacks) -> str:
    legend = "".join(f'<span><i class="{part}"></i>{part}</span>' for part in PARTS)
    limit = shown.limit_percent
    mark = "" if limit is None else f'<b style="left: {limit:.2f}%" title="budget"></b>'
    bars = []
    for n, stack in enumerate(shown.stacks):
        name, *sizes = stack.line
        parts = "".join(
            f'<i class="{part}" style="width: {percent:.2f}%" title="{part} {size}"></i>'
            for (part, percent), size in zip(stack.percents.items(), sizes)
        )
        bars.append(
            f'<div class="stack{"" if n else " now"}"><span>{html.escape(name)}</span>'
            f'<div class="room">{parts}{mark}</div></div>'
        )
    # The table says the same in words.
    drawing = f'<div aria-hidden="true"><div class="legend">{legend}</div>{"".join(bars)}</div>'
    figures = table(shown.columns, [stack.line for stack in shown.stacks], mark=0)
    return f'{drawing}{figures}<span class="hint">{html.escape(shown.note)}</span>'
