"""How a run is trained: from the form and the address to the run that the study keeps, without a browser."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.optimizer import OPTIMIZERS, Base, optimizer_from_dict
from pockgraph.runtime import Trainer
from pockgraph.study import Study
from pockui import training as training_module
from pockui.devices_here import BEFORE, DevicesHere
from pockui.info.format import MetricScale
from pockui.info.kept_run import kept_run
from pockui.info.optimizers import RULES, SHARED, defaults, optimizer_of
from pockui.info.train_settings import TrainSettings, learning_rate, option_value, read_settings
from pockui.info.training import live_tiles, metric_history
from pockui.info.training_code import training_code
from pockui.jobs import Jobs
from pockui.kept import read_kept
from pockui.train_job import TrainSpec, train
from pockui.training import Training, open_settings
from pockui.views.train import Train

ADAMW = TrainSettings(
    "torch", 40, precision="bf16", optimizer="adamw", options={"beta1": 0.8}, lr=0.003, measure=False
)


class Events(list[dict[str, Any]]):
    """Collects what a worker reports."""

    def __call__(self, kind: str, **data: Any) -> None:
        self.append({"kind": kind, **data})


class Here(DevicesHere):
    """Devices of a machine that has more than this one."""

    def __init__(self) -> None:
        super().__init__()
        self._found = {
            **BEFORE,
            "openvino": {"CPU": ("f32", "bf16"), "GPU": ("f32", "f16")},
            "torch": {"CPU": ("f32", "bf16")},
        }


@pytest.fixture
def training(state, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setattr(training_module, "why_not_trainable", lambda *_: "")
    monkeypatch.setattr(training_module, "named_reference", lambda _: "ui_task:task")
    return Training(state, Jobs(), tmp_path / "out", Here())


def test_the_table_of_optimizers_is_the_engines() -> None:
    assert set(RULES) == set(OPTIMIZERS)
    assert set(SHARED) == {f.name for f in dataclasses.fields(Base)}
    for name, rule in RULES.items():
        made = OPTIMIZERS[name]().to_dict()
        usual = defaults(name, {})
        betas = {"beta1": made["betas"][0], "beta2": made["betas"][1]} if "betas" in made else {}
        assert usual == {k: v for k, v in made.items() if k in usual} | betas
        assert getattr(pg, rule.label) is OPTIMIZERS[name]


@pytest.mark.parametrize("name", RULES)
def test_what_the_form_allows_the_optimizer_takes(name: str) -> None:
    for option in RULES[name].options:
        for value in (0.0, 0.5):
            made = optimizer_from_dict(optimizer_of(name, {option.name: value}, {"name": name}))
            told = {**made.to_dict(), **dict(zip(("beta1", "beta2"), made.to_dict().get("betas", ())))}
            assert told[option.name] == value
        if option.below == 1:
            with pytest.raises(PockError, match="below 1"):
                option_value("1", option.name)
        with pytest.raises(PockError, match=option.label):
            option_value("-1", option.name)


def test_another_optimizer_keeps_what_all_have_and_drops_what_was_the_other_ones() -> None:
    planned = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "clip_norm": 1.0}
    found = TrainSettings(optimizer="adam", options={"momentum": 0.5}).optimizer_for(planned)
    assert found == {
        "name": "adam",
        "lr": 0.001,
        "betas": [0.9, 0.999],
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    assert TrainSettings().optimizer_for(planned) == {**planned, "weight_decay": 0.0}


@pytest.mark.parametrize("settings", [TrainSettings(), ADAMW, TrainSettings("onnx", device="CUDA", lr=1e-5)])
def test_an_address_brings_settings_back(settings: TrainSettings) -> None:
    assert read_settings(settings.to_text()) == settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optimizer:adamv", "Did you mean 'adam"),
        ("target:openvin", "Did you mean 'openvino'"),
        ("step:3", "Did you mean 'steps'"),
        ("steps:0", "no number of steps from 1"),
        ("lr:fast", "'fast' is no learning rate"),
        ("lr:inf", "no learning rate"),
        ("beta2:1", "Beta 2: '1'"),
        ("precision:f64", "no precision 'f64'"),
    ],
)
def test_an_address_that_asks_for_what_there_is_not_is_answered(text: str, says: str, training) -> None:
    before = training.settings
    (problem,) = open_settings(training, text)
    assert says in problem
    assert training.settings == before


def test_a_rate_is_a_number_above_zero() -> None:
    assert learning_rate("  ") is None
    assert learning_rate("1e-3") == 0.001
    for typed in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(PockError, match="no learning rate"):
            learning_rate(typed)


def test_the_form_follows_target_and_optimizer_and_answers_bad_values_in_place(training, state) -> None:
    view = Train(state, training)
    form = view._form
    assert form._device.visible
    assert form._device.options == ["CPU", "GPU"]
    form._device.value = "GPU"
    assert list(form._precision.options.values()) == ["f32", "f16"]
    form._precision.value = "f16"
    assert form._measure.disabled
    form._target.value = "torch"
    assert (training.settings.device, training.settings.precision) == ("CPU", "f32"), "torch has neither here"
    assert not form._device.visible

    form._optimizer.value = "adamw"
    shown = {name for name, field in form._options.items() if field.visible}
    assert shown == {"beta1", "beta2", "weight_decay"}
    assert form._rate.value == "0.001"
    form._options["beta1"].value = "2"
    assert form._options["beta1"].error_state
    assert "Beta 1" in form.problem.object
    assert 'role="alert"' in form.problem.object
    view.start()
    assert training.job is None, "nothing is trained with a value that is wrong"
    form._options["beta1"].value = "0.8"
    assert not form.problem.visible
    assert training.settings.options == {"beta1": 0.8}
    form._rate.value = ""
    assert form._rate.value == "0.001", "an empty field means the usual value"
    assert training.settings.lr is None
    form._optimizer.value = "sgd"
    assert training.settings.optimizer == "", "the plan's"
    assert training.settings.options == {}


def test_a_run_is_set_up_as_the_analysis_trained(training, state) -> None:
    form = Train(state, training)._form
    assert "10 steps at a rate of 0.05" in form._how.object
    form._optimizer.value = "adamw"
    form._rate.value = "fast"
    form._like.clicks += 1
    settings = training.settings
    assert (settings.optimizer, settings.steps, settings.lr) == ("", 10, 0.05)
    assert (form._steps.value, form._rate.value) == (10, "0.05")
    assert not form.problem.visible
    assert form._like.disabled
    form._steps.value = 11
    assert not form._like.disabled


def test_the_code_makes_the_step_that_the_form_asks_for(state, tmp_path, monkeypatch) -> None:
    source = training_code(state.plan, "ui_task:task", replace(ADAMW, steps=2), "p.json")
    monkeypatch.chdir(tmp_path)
    state.plan.save("p.json")
    exec(source, {})
    trainer = Trainer.load("out/blobs")
    assert trainer.manifest.optimizer["name"] == "adamw"
    assert trainer.manifest.optimizer["betas"] == [0.8, 0.999]
    assert trainer.manifest.optimizer["lr"] == 0.003
    assert trainer.manifest.options == {"precision": "bf16"}


def test_a_run_with_another_optimizer_is_kept_with_its_live_metric_and_told_from_the_analysis(
    training, state, study_path, tmp_path, monkeypatch
) -> None:
    study_file = Path(shutil.copy(study_path, tmp_path / "study.db"))
    asked: list[TrainSpec] = []
    monkeypatch.setattr(training, "_begin", asked.append)
    training.settings = ADAMW
    training.start()
    (spec,) = asked
    with Study(study_file) as study:
        before = study.forecast(state.plan)
    events: Any = Events()
    train(replace(spec, study=str(study_file), run="other"), events)

    run = read_kept(study_file).run("other")
    assert run is not None
    assert run.plan.optimizer["name"] == "adamw"
    assert run.lr == 0.003
    assert run.plan.predicted == {}, "the plan's figures are another optimizer's"
    assert "AdamW, bf16" in run.name
    assert [step for step, _ in run.validation_curve][:: len(run.validation_curve) - 1] == [0, 40]
    validated = [e for e in events if e["kind"] == "validation"]
    assert run.validation_curve == tuple((e["step"], e["value"]) for e in validated)
    assert validated[-1]["value"] == run.validation_metric, "of 64 samples the first 256 are all"
    live = live_tiles(events, MetricScale(0.5))
    assert [tile.label for tile in live] == [
        "Validation metric", "Speed", "Memory of the process", "Time left",
    ]  # fmt: skip
    shown = kept_run(run, study_file.parent)
    assert metric_history(shown.events) == metric_history(events), "also from another server"
    assert shown.spec["precision"] == "bf16"
    with Study(study_file) as study:
        assert study.forecast(state.plan) == before, "no head alone was trained so"
    json.dumps(run.validation_curve)
