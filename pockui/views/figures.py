"""The strip of figures on top: what the current choice promises. It follows every drag."""

from __future__ import annotations

import panel as pn
import param

from ..info.outlook import tiles
from ..state import State
from .parts import TILES, text, tile_html

# In sight while a bar further down is dragged.
STICKY = {
    "position": "sticky",
    "top": "0",
    "z-index": "20",
    "padding-top": "8px",
    "background": "var(--mui-palette-background-paper)",
}


class FiguresStrip(pn.viewable.Viewer):
    """One tile per figure."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._view = text(stylesheets=[TILES], styles=STICKY)
        state.param.watch(self._show, ["outlook", "budget"])
        self._show()

    def _show(self, *_: object) -> None:
        s = self.state
        if s.outlook is None or not s.ready:
            return
        facts = s.facts
        shown = tiles(
            s.outlook, facts.marks["Full"], facts.contribution.baseline.mean, facts.profile, s.budget
        )
        self._view.object = f'<div class="tiles">{"".join(tile_html(*tile) for tile in shown)}</div>'

    def __panel__(self) -> pn.viewable.Viewable:
        return self._view
