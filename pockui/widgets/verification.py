"""The plan of a notebook, verified: trained as the analysis trained, in a process of its own."""

from __future__ import annotations

import ipywidgets as w

from pockgraph.errors import PockError

from ..info.verification import VERIFY
from ..scheduling import Trailing
from ..state import State
from ..verifying import Verifying
from .parts import ROW, button, said

IN_THIS_KERNEL = (
    "study.verify(planner.plan) trains it in this kernel, and adds the point. The button trains in another "
    "process, which needs a task that it can make: pockui.project.load_task('my_project:task')."
)


class Verification(w.VBox):
    """A button that verifies the plan as it stands; another cancels; what goes on, or was found last.

    Args:
        state: whose plan it is.
        verifying: starts and follows verifications; left out: those of this kernel.
    """

    def __init__(self, state: State, verifying: Verifying | None = None) -> None:
        self.state, self.verifying = state, verifying or Verifying(state)
        self._start, self._cancel = button("Verify this plan", tooltip=VERIFY), button("Cancel")
        self._note = w.HTML()
        self._start.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: self.verifying.cancel())
        self.verifying.param.watch(lambda _: self._show(), "news")
        state.param.watch(Trailing(state.scheduler, self._show), ["facts", "plan"])
        self._show()
        super().__init__([w.HBox([self._start, self._cancel], layout=ROW), self._note])

    def start(self) -> None:
        """Verify the plan; why it cannot be is said below."""
        try:
            self.verifying.start()
        except PockError as e:
            self._note.value = said(str(e), problem=True)

    def _show(self) -> None:
        running, why_not, problem = self.verifying.running, self.verifying.why_not, self.verifying.problem
        self._start.disabled = running or bool(why_not)
        self._cancel.layout.display = None if running else "none"
        what = self.verifying.result or (IN_THIS_KERNEL if why_not else VERIFY)
        self._note.value = said(problem or what, problem=bool(problem))
