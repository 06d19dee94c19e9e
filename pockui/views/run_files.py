"""Take away what a run has made: the artefact, its checkpoint, the whole model with its weights."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from pockgraph.errors import PockError

from ..downloads import artifact_zip, checkpoint_file, merged_weights
from ..info.names import file_name
from ..jobs import JOBS, Jobs
from ..state import State
from ..training import Training
from . import parts

NO_ARTIFACT = "No artefact yet. Compile and train this plan on the Train tab, or choose a run there."
NO_WEIGHTS = (
    "This run has kept no weights. Train the plan to its end, or choose another run on the Train tab."
)


def download(label: str, file: str, make: Callable[[], Any], variant: str = "outlined") -> pmui.FileDownload:
    """A button that asks `make` for a file's content."""
    button = pmui.FileDownload(callback=make, filename=file, label=label, margin=0)
    button.param.update(
        variant=variant
    )  # given at once, it is warned of, as the older name for it has a default
    return button


class RunFiles(pn.viewable.Viewer):
    """Of the run that is followed."""

    state = param.ClassSelector(class_=State)

    def __init__(self, state: State, training: Training, jobs: Jobs = JOBS) -> None:
        super().__init__(state=state)
        self._training, self._jobs = training, jobs
        self.artifact = download("Artefact (zip)", "artefact.zip", self.artifact_file)
        self.checkpoint = download("Checkpoint", "checkpoint.safetensors", self.checkpoint_file)
        self.merged = download("Merged weights", "model.safetensors", self.merged_file)
        self._about = parts.text()
        self._working = parts.text(visible=False)
        self.refresh()

    def _last(self, *kinds: str) -> Mapping[str, Any]:
        """The newest event of the run of one of these kinds; empty where there is none."""
        job = self._training.job
        return next((e for kind in kinds if job and (e := job.last(kind))), {})

    @property
    def _checkpoint(self) -> str:
        return self._last("result", "stopped").get("checkpoint", "")

    def artifact_file(self) -> io.BytesIO:
        if not (compiled := self._last("compiled")):
            raise PockError(NO_ARTIFACT)
        return artifact_zip(compiled["path"])

    def checkpoint_file(self) -> io.BytesIO:
        if not self._checkpoint:
            raise PockError(NO_WEIGHTS)
        return checkpoint_file(self._checkpoint)

    async def merged_file(self) -> io.BytesIO:
        """Makes the task in a process of its own, while the page goes on."""
        compiled = self._last("compiled")
        if not (self._checkpoint and compiled):
            raise PockError(NO_WEIGHTS)
        if why := self._training.why_not:
            raise PockError(why)
        parts.put(self._working, '<p role="status">Making the model and merging the weights …</p>')
        try:
            return await asyncio.to_thread(
                merged_weights, self._jobs, self._training.reference, compiled["path"], self._checkpoint
            )
        finally:
            parts.put(self._working, "")

    def refresh(self) -> None:
        """Which files there are, or how to get them."""
        job, compiled = self._training.job, self._last("compiled")
        self.artifact.disabled = not compiled
        self.checkpoint.disabled = not self._checkpoint
        self.merged.disabled = not (self._checkpoint and compiled) or bool(self._training.why_not)
        if job is None or not compiled:
            self._about.object = parts.hint_html(NO_ARTIFACT)
            return
        name = f"{file_name(self.state.facts.name)}-{job.spec['target']}"
        self.artifact.filename = f"{name}.zip"
        self.checkpoint.filename = f"{name}.checkpoint.safetensors"
        self.merged.filename = f"{name}.model.safetensors"
        self._about.object = parts.hint_html(
            f"Of the run on the Train tab. Artefact: what a device loads, from {compiled['path']}, as it was "
            "before training. Checkpoint: what training changed, and the optimizer's state, to go on from. "
            "Merged weights: the whole model after training, for load_state_dict."
        )

    def __panel__(self) -> pn.viewable.Viewable:
        buttons = pmui.Row(
            self.artifact, self.checkpoint, self.merged, margin=0,
            sx={"gap": 1.5, "flexWrap": "wrap", "py": 1},
        )  # fmt: skip
        return parts.card(
            parts.heading("Run", "What was compiled, and what training made of it."),
            self._about,
            buttons,
            self._working,
        )
