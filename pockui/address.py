"""The address of a session's page: what was chosen is written to it, and read from it."""

from __future__ import annotations

from collections.abc import Callable

import panel as pn

from pockgraph.errors import PlanError
from pockui.components.web import Page
from pockui.scheduling import Trailing
from pockui.state import State
from pockui.url_state import STATE, query_of

WRITE_MS = 150  # after the last change


class Address:
    """The page's address: what was chosen is written to it, and read from it when a page is opened."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def write(self, **query: str | None) -> None:
        """Put these in the address, or None: take them out."""
        self._page.query = {**self._page.query, **query}

    def follow(self, state: State, tell: Callable[[Exception], None]) -> None:
        """Write what the state holds, a moment after each finished edit.

        Args:
            tell: is given the error, where a plan does not fit an address.
        """

        def write() -> None:
            try:
                self.write(**query_of(state))
            except PlanError as e:
                self.write(plan=None)
                tell(e)

        state.param.watch(Trailing(state.scheduler, write, WRITE_MS), list(STATE))
        write()

    @staticmethod
    def read() -> dict[str, str]:
        """What this session was asked for."""
        return {k: v[0].decode(errors="replace") for k, v in pn.state.session_args.items() if v}
