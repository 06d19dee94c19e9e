"""Take away the plan, what a run has made, tables, charts and a report; and bring a plan in."""

from __future__ import annotations

import html
import io
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PlanError, PockError

from ..components.web import Copy, Pictures
from ..downloads import runs_csv
from ..frontier_plans import FrontierPlans
from ..info.contribution_table import contribution_csv
from ..info.names import file_name
from ..info.python_code import session_code
from ..jobs import JOBS, Jobs
from ..pictures import PICTURES, picture
from ..planned import planned
from ..state import State
from ..study_report import report_html
from ..training import Training
from . import parts
from .run_files import RunFiles, download

PLAN_BYTES = 8_000_000  # a thousand tensors with every channel listed take less


class Export(pn.viewable.Viewer):
    """Downloads, the import of a plan, and the current state as code."""

    state: State = param.ClassSelector(class_=State)  # pyright: ignore[reportAssignmentType]

    def __init__(
        self, state: State, training: Training, frontier: FrontierPlans | None = None, jobs: Jobs = JOBS
    ) -> None:
        super().__init__(state=state)
        self._training, self._frontier = training, frontier or FrontierPlans(state)
        self.files = RunFiles(state, training, jobs)
        self._runs = download("Runs (CSV)", "runs.csv", lambda: runs_csv(self.state.facts.path))
        self._contribution = download("Contribution (CSV)", "contribution.csv", self._contribution_file)
        self._report = download("Report (HTML)", "report.html", self._report_file)
        self._download = download("Download plan", "plan.json", self._file, variant="contained")
        self._upload = pmui.FileInput(
            accept=".json,application/json",
            label="Import plan",
            variant="outlined",
            margin=0,
            max_file_size=PLAN_BYTES,
        )
        self.pictures = Pictures(margin=0)
        self.pictures.on_edit(self._draw)
        self._rejected = parts.text(visible=False)
        self._accepted = parts.text(visible=False)
        self._summary = parts.text()
        self._code = parts.text()
        self.copy = Copy(label="Copy as Python", margin=0)
        self._upload.param.watch(lambda _: self._import(), "value")
        show = parts.WhenShown(self._show)
        self.set_shown = show.set_shown
        state.param.watch(show, ["facts", "plan", "locked", "rules", "budget", "problem"])
        training.param.watch(show, ["news", "settings"])
        self._show()

    # ------------------------------------------------------------------ files

    def _file(self) -> io.BytesIO:
        if self.state.plan is None:
            raise PlanError("There is no plan yet. Download it when its figures are there.")
        return io.BytesIO(self.state.plan.to_json().encode())

    def _contribution_file(self) -> io.BytesIO:
        return io.BytesIO(contribution_csv(self.state.facts.rows, self.state.ratios).encode())

    def _report_file(self) -> io.BytesIO:
        return io.BytesIO(report_html(self.state, self._ready_frontier(), self._training).encode())

    def _ready_frontier(self) -> FrontierPlans:
        if not self._frontier.plans and self._frontier.problem is None:
            raise PockError("The best plan for each budget is still being searched. Ask again in a moment.")
        return self._frontier

    def _draw(self, edit: dict[str, Any]) -> None:
        key = edit["key"]
        frontier = self._ready_frontier() if key == "frontier" else self._frontier
        self.pictures.picture = {
            "seq": edit["seq"],
            "name": f"{file_name(self.state.facts.name)}.{key}",
            "format": edit["format"],
            "svg": picture(key, self.state, frontier, self._training),
        }

    def _import(self) -> None:
        if not self._upload.value:
            return
        name = str(self._upload.filename or "the file")
        parts.put(self._accepted, "")
        try:
            if len(self._upload.value) > PLAN_BYTES:
                raise PlanError(f"{name} is larger than any plan. Choose a plan's JSON file.")
            self.state.import_plan(self._upload.value.decode("utf-8"), name)
        except UnicodeDecodeError:
            parts.put(
                self._rejected, parts.problem_html(f"{name} is not a text file. Choose a plan's JSON file.")
            )
            return
        except PlanError as e:
            parts.put(self._rejected, parts.problem_html(str(e)))
            return
        parts.put(self._rejected, "")
        parts.put(self._accepted, f'<p role="status">{html.escape(name)} is the current plan now.</p>')

    # ------------------------------------------------------------------ showing

    def _show(self) -> None:
        s = self.state
        with pn.io.hold():
            self.files.refresh()
            trained = self._training.job is not None and bool(self._training.job.events)
            self.pictures.pictures = [
                {"key": key, "title": p.title} for key, p in PICTURES.items() if key != "loss" or trained
            ]
            # A button that changes while the browser draws it for the first time may miss that: it is
            # enabled from the start, and changes only where a request could not be met.
            self._download.disabled = s.plan is None and s.problem is not None
            if s.plan is None:
                return
            name = file_name(s.facts.name)
            self._download.filename = f"{name}.plan.json"
            self._runs.filename, self._contribution.filename = f"{name}.runs.csv", f"{name}.contribution.csv"
            self._report.filename = f"{name}.report.html"
            parts_trained = sum(t.channels is not None for t in s.plan.tensors.values())
            self._summary.object = (
                f'<span class="hint">{len(s.plan.tensors)} of {len(s.plan.model)} tensors learn, '
                f"{parts_trained} of them in part. The file names every channel, so training and the device "
                "read the same ones.</span>"
            )
            source = session_code(planned(s), s.facts.profile, self._reference, self._training.settings)
            self.copy.text = source
            self._code.object = parts.code(source)

    @property
    def _reference(self) -> str:
        return self._training.reference or self.state.facts.reference

    def __panel__(self) -> pn.viewable.Viewable:
        sx = {"gap": 1.5, "flexWrap": "wrap", "py": 1}
        return pmui.Column(
            parts.card(
                parts.heading("Export", "The plan as a file that people keep and share."),
                self._summary,
                pmui.Row(self._download, self._upload, margin=0, sx=sx),
                self._rejected,
                self._accepted,
            ),
            self.files,
            parts.card(
                parts.heading(
                    "Study and charts",
                    "The report is one page of the study and this plan that opens without a network. Charts "
                    "are as the page shows them.",
                ),
                pmui.Row(self._report, self._contribution, self._runs, margin=0, sx=sx),
                self.pictures,
            ),
            parts.card(
                parts.heading("The same in Python", "This plan with its figures, and its training."),
                self.copy,
                self._code,
            ),
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 2},
        )
