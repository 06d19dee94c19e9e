"""The tiles on top of the page, drawn; they follow every drag. What they say is `info/figure_tiles.py`'s."""

from __future__ import annotations

import panel as pn
import param

from ..info.figure_tiles import figure_tiles
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


class FigureTiles(pn.viewable.Viewer):
    """One tile per figure."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State) -> None:
        super().__init__(state=state)
        self._view = text(stylesheets=[TILES], styles=STICKY)
        state.param.watch(self._show, ["prediction", "budget"])
        self._show()

    def _show(self, *_: object) -> None:
        s = self.state
        if s.prediction is None or not s.ready:
            return
        facts = s.facts
        shown = figure_tiles(
            s.prediction, facts.known_plans["Full"], facts.contribution.baseline.mean, facts.profile, s.budget
        )
        tiles = "".join(tile_html(*tile) for tile in shown)
        self._view.object = f'<div class="tiles" style="--columns: {len(shown)}">{tiles}</div>'

    def __panel__(self) -> pn.viewable.Viewable:
        return self._view
