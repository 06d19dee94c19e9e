"""What the next training asks for: target, device, precision, steps, optimizer and its rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import panel as pn
import panel_material_ui as pmui

from pockgraph.errors import PockError

from ..info.optimizers import OPTIONS, RULES, defaults
from ..info.train_settings import STEPS_MAX, TrainSettings, learning_rate, option_value
from ..info.training import PRECISIONS, runnable_targets
from ..state import State
from ..training import Training
from . import parts

# Material's buttons beside a number have no name; arrow keys do the same.
NO_STEPPERS = parts.FIELD | {"& .MuiInputAdornment-root": {"display": "none"}, "& input": {"pl": "14px"}}
SMALL: dict[str, Any] = {"size": "small", "margin": 0, "sx": parts.FIELD}


class TrainForm:
    """Fields ↔ `Training.settings`. What was typed and is wrong is said below them, and starts nothing.

    Attributes:
        row: the fields. problem: what is wrong with them.
        analysis: how the analysis trained, and a button that sets the same.
    """

    def __init__(self, state: State, training: Training) -> None:
        self._state, self._training = state, training
        self._targets = runnable_targets()
        self._target = pmui.Select(label="Target", options=self._targets, width=150, **SMALL)
        self._device = pmui.Select(label="Device", options=["CPU"], width=120, **SMALL)
        self._precision = pmui.Select(label="Precision", options=["f32"], width=120, **SMALL)
        steps = {"start": 1, "end": STEPS_MAX, "step": 50, **SMALL, "sx": NO_STEPPERS}
        self._steps = pmui.IntInput(label="Steps", value=100, width=100, **steps)
        self._optimizer = pmui.Select(label="Optimizer", options=["sgd"], width=170, **SMALL)
        self._rate = pmui.TextInput(label="Learning rate", width=120, **SMALL)
        self._options = {o.name: pmui.TextInput(label=o.label, width=120, **SMALL) for o in OPTIONS.values()}
        self._measure = pmui.Switch(label="Measure time and memory", value=True, margin=0)
        self._how = parts.text()
        self._like = pmui.Button(label="Set as in the analysis", size="small", variant="outlined", margin=0)
        self._like.on_click(lambda _: self._train_like_the_analysis())
        self.problem = parts.text(visible=False)
        self._wrong: dict[str, str] = {}  # field -> what is wrong with what stands there
        self._showing = False
        fields = (
            self._target, self._device, self._precision, self._steps, self._optimizer, self._rate,
            *self._options.values(), self._measure,
        )  # fmt: skip
        wraps = {"flexWrap": "wrap", "gap": 1.5, "alignItems": "center", "pt": 1}
        self.row = pmui.Row(*fields, margin=0, sizing_mode="stretch_width", sx=wraps)
        self.analysis = pmui.Row(
            self._like,
            self._how,
            margin=0,
            sizing_mode="stretch_width",
            sx={"gap": 1.5, "pt": 1, "alignItems": "center", "flexWrap": "wrap"},
        )
        if training.settings.target not in self._targets.values():
            training.settings = replace(training.settings, target=next(iter(self._targets.values())))
        for widget in fields:
            widget.param.watch(self._changed, "value")
        training.param.watch(lambda _: self.show(), "settings")
        self.show()

    def _train_like_the_analysis(self) -> None:
        self._wrong.clear()
        self._training.settings = self._like_the_analysis

    @property
    def _like_the_analysis(self) -> TrainSettings:
        return self._training.settings.like(self._state.facts.conditions, self._planned)

    @property
    def ok(self) -> bool:
        """Whether all that stands in the fields can be asked for."""
        return not self._wrong

    def _changed(self, event: Any) -> None:
        """Take over what stands in the fields, as far as it is right."""
        if self._showing:
            return
        now = self._training.settings
        changes: dict[str, Any] = {
            "target": self._target.value, "device": self._device.value, "precision": self._precision.value,
            "steps": self._steps.value or now.steps, "measure": self._measure.value,
        }  # fmt: skip
        if event.obj is self._target:
            precisions = self._devices(self._target.value)["CPU"]
            changes |= {"device": "CPU"} | ({} if now.precision in precisions else {"precision": "f32"})
        if event.obj is self._optimizer:
            chosen = self._optimizer.value
            # The rate and options of one optimizer are not another's.
            changes |= {"optimizer": "" if chosen == self._planned.get("name") else chosen}
            changes |= {"lr": None, "options": {}}
            self._wrong.clear()
        else:
            changes |= {"optimizer": now.optimizer, **self._typed(now)}
        self._training.settings = TrainSettings(**changes)
        self.show()

    def _typed(self, now: TrainSettings) -> dict[str, Any]:
        """The rate and the options; what is wrong keeps its last value, and is noted.

        An empty field means the usual value, as does that value itself.
        """
        self._wrong.clear()
        usual = defaults(now.optimizer or self._planned["name"], self._planned)
        values: dict[str, float | None] = {"lr": now.lr, **now.options}
        fields = {"lr": self._rate, **{k: w for k, w in self._options.items() if k in usual}}
        for name, widget in fields.items():
            try:
                typed = learning_rate(widget.value) if name == "lr" else option_value(widget.value, name)
                values[name] = None if typed == usual[name] else typed
            except PockError as e:
                self._wrong[name] = str(e)
        return {"lr": values.pop("lr"), "options": {k: v for k, v in values.items() if v is not None}}

    @property
    def _planned(self) -> dict[str, Any]:
        plan = self._state.plan
        return dict(plan.optimizer) if plan is not None else {"name": "sgd"}

    def _devices(self, target: str) -> dict[str, tuple[str, ...]]:
        return dict(self._training.devices.found.get(target, {"CPU": ("f32",)}))

    def show(self) -> None:
        """Show the settings, and what there is to choose from."""
        s, planned = self._training.settings, self._planned
        devices = self._devices(s.target)
        devices.setdefault(s.device, ("f32",))  # an address may name one that is not here: training says so
        precisions = dict.fromkeys((*devices[s.device], s.precision))
        name = s.optimizer or planned["name"]
        usual = defaults(name, planned)
        kinds = {f"{r.label}, the plan's" if k == planned["name"] else r.label: k for k, r in RULES.items()}
        self._showing = True
        try:
            with pn.io.hold():
                self._target.value = s.target
                self._device.param.update(options=[*devices], value=s.device, visible=len(devices) > 1)
                self._precision.param.update(
                    options={PRECISIONS[p]: p for p in precisions}, value=s.precision,
                    visible=len(precisions) > 1,
                )  # fmt: skip
                self._steps.value = s.steps
                parts.set_choices(self._optimizer, kinds, name)
                self._show_number(self._rate, "lr", s.lr, usual["lr"])
                known = {option.name for option in RULES[name].options}
                for option, widget in self._options.items():
                    widget.visible = option in known
                    self._show_number(widget, option, s.options.get(option), usual.get(option, 0.0))
                here = s.device.upper() == "CPU"
                self._measure.param.update(value=s.measure, disabled=not here)
                self._measure.label = "Measure time and memory" if here else "Measured on the CPU only"
                parts.put(self.problem, parts.problem_html(" ".join(self._wrong.values())))
                self._show_analysis()
        finally:
            self._showing = False

    def _show_analysis(self) -> None:
        self.analysis.visible = self._state.ready and self._state.plan is not None
        if not self.analysis.visible:
            return
        how = self._state.facts.conditions
        self._how.object = (
            f'<span class="hint">Forecasts are of a training as the analysis trained: {how.steps} steps at a '
            f"rate of {how.lr:.4g}.</span>"
        )
        self._like.disabled = not self._wrong and self._training.settings == self._like_the_analysis

    def _show_number(self, widget: pmui.TextInput, name: str, value: float | None, usual: float) -> None:
        """What was typed stays while it is wrong."""
        wrong = name in self._wrong
        shown = {} if wrong else {"value": f"{usual if value is None else value:g}"}
        widget.param.update(error_state=wrong, **shown)
