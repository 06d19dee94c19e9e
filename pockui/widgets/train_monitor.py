"""Training in a notebook, with the loss as it falls."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from pockgraph.errors import PockError
from pockgraph.notebook_html import sparkline

from ..bindings import loss_figure, metric_figure
from ..info import charts
from ..info import format as fmt
from ..info.palette import palette
from ..info.train_settings import TrainSettings, learning_rate
from ..info.training import progress, result_tiles, runnable_targets
from ..training import Training
from .parts import BESIDE, HALF, ROW, ChartPart, OfStudy, Source, button, named, said, tiles_html

if TYPE_CHECKING:
    from pockgraph.runtime import Trainer

DRAW_S = 0.4  # between drawings of the loss
IN_THIS_KERNEL = (
    "monitor.watch(trainer, batches) trains in this kernel. The button trains in another process, which "
    "needs a task that it can make: pockui.project.load_task('my_project:task')."
)


class TrainMonitor(OfStudy):
    """Trains the plan of a study in a process of its own, or watches a trainer of this kernel.

    Args:
        source: a study, its file, or the `state` of another widget, whose plan is trained.

    Attributes:
        loss: the chart of the last run's loss.

    Example:
        >>> monitor = TrainMonitor(planner.state)
        >>> monitor  # a form that compiles and trains
        >>> losses = monitor.watch(artifact.trainer(), task.forever(seed=0), steps=100)
    """

    def __init__(self, source: Source) -> None:
        state = self.state = self.state_of(source)
        training = self.training = Training(state)
        targets = runnable_targets()
        self._target = w.Dropdown(options=list(targets.items()), **named("Target", 190))
        self._steps = w.BoundedIntText(value=100, min=1, max=1_000_000, **named("Steps", 130))
        self._rate = w.Text(placeholder="the plan's", **named("Learning rate", 190))
        self._start = button("Compile and train", button_style="primary")
        self._cancel = button("Cancel")
        self._note, self._result = w.HTML(), w.HTML()
        self._bar = w.FloatProgress(min=0, max=1, layout=w.Layout(width="100%"))
        self.loss: Any = ChartPart(label="Training loss against the step", layout=HALF)
        self._metric = ChartPart(label="Validation metric against the step", layout=HALF)
        self.loss.visible = self._metric.visible = False
        self._drawn_s = 0.0
        self._start.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: training.cancel())
        training.param.watch(lambda _: self._show(), "news")
        form = [self._target, self._steps, self._rate, self._start, self._cancel]
        super().__init__(
            [
                w.HBox(form, layout=ROW),
                self._note,
                self._bar,
                w.HBox([self.loss, self._metric], layout=BESIDE),
                self._result,
            ]
        )
        self._show()

    def _repr_html_(self) -> str:
        losses = [y for trace in self.loss.figure.get("data", ()) for y in trace["y"]]
        return f"<div>{sparkline(losses, 'training loss')}{self._note.value}</div>"

    def start(self) -> None:
        """Begin a run with the plan and what the form says; what is wrong with it is said below the form."""
        try:
            rate = learning_rate(self._rate.value)
            self.training.settings = TrainSettings(str(self._target.value), self._steps.value, lr=rate)
            self.training.start()
        except PockError as e:
            self._note.value = said(str(e), problem=True)

    def _show(self) -> None:
        training, job = self.training, self.training.job
        running = training.running
        self._start.disabled = running or bool(training.why_not)
        self._cancel.layout.display = None if running else "none"
        self._bar.layout.display = None if running else "none"
        if job is None:
            named, why_not = training.reference, training.why_not
            self._note.value = said(IN_THIS_KERNEL if why_not and not named else why_not)
            return
        failed = job.status == "failed"
        now = progress(job.events, job.spec["steps"])
        ended = f"{job.status} after {fmt.duration(job.seconds)}"
        self._note.value = said(job.error if failed else now.text if running else ended, problem=failed)
        self._bar.value = now.share or 0
        metric = self.state.facts.metric
        self._result.value = tiles_html(result_tiles(job.events, {}, metric, job.spec["target"]))
        now_s = time.monotonic()
        if not running or now_s - self._drawn_s > DRAW_S:
            self._drawn_s = now_s
            dark = self.state.dark
            self._draw(loss_figure(training, dark), metric_figure(training, dark, metric))

    def watch(
        self,
        trainer: Trainer,
        batches: Iterable[Mapping[str, Any]],
        *,
        steps: int | None = None,
        lr: float | None = None,
    ) -> list[float]:
        """Train in this kernel with what `batches` gives, and show the loss and the time left meanwhile.

        Args:
            steps: at most so many; None trains with all that `batches` gives.
            lr: learning rate; None takes the plan's.

        Returns:
            The loss of each step.

        Raises:
            PockError: as `Trainer.step`.
        """
        losses: list[float] = []
        total = steps or operator.length_hint(batches)
        self._bar.value, self._bar.layout.display = 0, None if total else "none"
        drawn_s = start_s = time.monotonic()
        try:
            for batch in islice(batches, steps):
                losses.append((trainer.step(batch) if lr is None else trainer.step(batch, lr=lr)).loss)
                if time.monotonic() - drawn_s > DRAW_S:
                    drawn_s = time.monotonic()
                    self._show_losses(losses, total, drawn_s - start_s)
        finally:  # what was trained is shown, also when the kernel is interrupted
            self._bar.layout.display = "none"
            if losses:
                self._show_losses(losses, len(losses), time.monotonic() - start_s)
        return losses

    def _show_losses(self, losses: list[float], total: int, seconds: float) -> None:
        done = len(losses)
        text = f"{done} steps, {fmt.milliseconds(1000 * seconds / done)} each, loss {losses[-1]:.4g}"
        if total > done:
            text += f", {fmt.duration(seconds / done * (total - done))} left"
        self._note.value = said(text)
        self._bar.value = done / max(done, total)
        steps = list(range(1, done + 1))
        self._draw(charts.loss_chart(steps, losses, max(done, total), palette(self.state.dark)))

    def _draw(self, loss: charts.Figure | None, metric: charts.Figure | None = None) -> None:
        for chart, figure in ((self.loss, loss), (self._metric, metric)):
            chart.visible = figure is not None
            chart.put(figure=figure or {})
