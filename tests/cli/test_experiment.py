"""The demo's comparison, on a small project instead of a real network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pockgraph as pg
from pockgraph import Plan, Study
from pockgraph.baselines.low_rank import low_rank
from pockgraph.contribution.forecast import Forecaster
from pockgraph.errors import NonFiniteLoss, PockError
from pockgraph.measure import Memory, measure_interleaved
from pockgraph.profile import MeasuredPlan
from pockgraph.profile.profiler import profile_of
from pockgraph.runtime import Trainer
from pockui import project as projects
from pockui.demo import experiment, planning, report
from pockui.demo.experiment import Settings, loss_difference
from pockui.demo.forecasts import held_against
from pockui.demo.measured_costs import process_peaks
from pockui.demo.results import Expected, Report
from pockui.demo.settings import FIRST_FORECAST_SEED, TUNING_SEED, settings_for
from pockui.demo.training import cosine
from pockui.demo.tuning import FURTHER

SETTINGS = Settings(
    seeds=(0, 1), steps=12, tuning_steps=6, rates=(0.01, 0.1), blocks=1, block_steps=2, compiled=False,
    analysis={"steps": 10, "ratios": (1.0, 0.5), "lr": 0.05}, eager_methods=("auto", "full"),
    adapters=True,
)  # fmt: skip


MEASURED = ("full on openvino", "full on eager")


def measure_some(commands: Mapping[str, Sequence[str]], **how: Any) -> dict[str, Any]:
    """A process of each kind; the figures of other methods are those of full training."""
    found = measure_interleaved({name: commands[name] for name in MEASURED}, **how)
    return {name: found.get(name, found[MEASURED["eager" in name]]) for name in commands}


def adapted_head(task: pg.Task, optimizer: Any, within: pg.Budget) -> tuple[pg.TrainGraph, Plan]:
    """LoRA for a network without attention."""
    return low_rank(task, optimizer, pg.Budget(), "head", rank=1)


def with_prediction(reference: str) -> pg.Task:
    return replace(projects.load_task(reference), predict=lambda net, batch: net(batch["x"]).softmax(1))


@pytest.fixture
def found(project: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.setattr(experiment, "measure_interleaved", measure_some)
    monkeypatch.setattr(planning, "low_rank", adapted_head)
    monkeypatch.setitem(projects.DEMOS, "tiny", "my_project:task")
    monkeypatch.setitem(experiment.TITLES, "tiny", ("Textures", "accuracy on 48 textures"))
    monkeypatch.setattr(experiment, "load_task", with_prediction)
    return experiment.run(
        "tiny",
        project / "out",
        SETTINGS,
        quick=False,
        command="pockui demo tiny",
        progress=lambda *event: None,
    )


def test_comparison_end_to_end(found: Report, project: Path) -> None:
    out = project / "out"
    rows = {(r.method, r.runtime): r for r in found.rows}
    methods = ["head", "biases", "preset", "elastic", "lora", "auto", "auto_small", "full"]
    assert [m.key for m in found.methods] == methods
    assert all(len(rows[key, "openvino"].metrics) == 2 for key in methods)
    assert all(r.step_ms for r in found.rows if not r.reason)
    assert rows["full", "compiled"].reason
    assert found.method("auto").peak_bytes <= found.budget_bytes
    assert found.method("auto_small").peak_bytes <= found.method("preset").peak_bytes
    assert found.method("elastic").peak_bytes <= found.method("preset").peak_bytes
    assert found.method("lora").ratios.keys() > found.method("head").ratios.keys()
    assert all(2 <= len(m.trials) <= 2 + FURTHER for m in found.methods)

    # What PyTorch trains is what OpenVINO trains.
    assert found.agreement["full"] < 1e-5
    assert rows["full", "eager"].metrics == pytest.approx(rows["full", "openvino"].metrics, abs=0.05)

    plan = Plan.load(out / "plan.json")
    assert Trainer.load(out / "artifact").plan.tensors == plan.tensors
    study = Study(out / "study.db")
    assert "Automatic" in study.plans()
    trials, finals, verified = [], [], []
    for run in study.runs():
        kind = verified if run.origin == "verify" else trials if run.seed == TUNING_SEED else finals
        kind.append(run)
    kept = len(methods) - 1  # the network with adapters is none of the study's
    assert len(trials) == sum(len(m.trials) for m in found.methods if m.key != "lora")
    assert len(finals) == kept * 2 + 2  # and full fine-tuning in PyTorch
    assert {(r.origin, r.status, r.schedule, r.fresh) for r in (*trials, *finals)} == {
        ("demo", "done", "cosine", True)
    }
    for seed in (0, 1, TUNING_SEED):  # the fresh head's, the same for every method
        runs = [r for r in (*trials, *finals) if (r.seed, r.target) == (seed, "openvino")]
        (before,) = {r.validation_baseline for r in runs}
        assert before is not None
    assert all(r.metric is None and r.validation_metric is not None for r in trials)
    assert all(r.measured_peak_bytes and r.measured["step_ms"] for r in finals)
    assert tuple(r.metric for r in finals if r.name.startswith("Automatic, seed")) == (
        rows["auto", "openvino"].metrics
    )
    assert all((r.head_metric is None) == (r.name.startswith("Head") or r.target == "eager") for r in finals)
    assert all(r.data["test"].samples == 48 for r in finals)

    # What the artefact predicts is what the last training was judged by.
    assert found.answers is not None
    assert found.answers.samples == 48
    assert found.answers.right / 48 == pytest.approx(rows["auto", "openvino"].metrics[-1])
    said = f"predicts {found.answers.right} of 48 held-out samples right"
    assert any(said in finding for finding in report.findings(found))

    # Forecasts, and what plans reach that are trained as the analysis trains, with another seed.
    alone = Forecaster(study.contribution)
    for method in found.methods:
        assert (method.expected is None) == (method.key == "lora")
        if method.expected is not None:
            forecast = alone.forecast({fqn: method.ratios[fqn] for fqn in method.ratios})
            assert method.expected.metric == pytest.approx(forecast.metric)
            assert method.expected.low <= method.expected.metric <= method.expected.high
    steps = {(r.steps, r.lr, r.seed) for r in verified}
    assert steps == {(10, 0.05, FIRST_FORECAST_SEED)}
    reached = {r.name.partition(", seed")[0]: r.validation_metric for r in verified}
    for method in found.methods:
        name = "head alone" if method.key == "head" else method.label
        assert method.expected is None or method.expected.reached == (reached[name],)

    # What steps take here without what other processes add, and what processes hold.
    device = study.device(study.used_device or "")
    assert [p.step_ms for p in device.plans()] == [b.net_time.median_ms for b in device.blocks if b.net_time]
    assert len(device.choices) == kept
    assert study.profile.time is not None
    assert study.profile.memory is not None
    for method in found.methods:
        assert (method.process is None) == (method.key == "lora")
        if method.process is not None:
            assert method.process.predicted_bytes == sum(method.process.parts.values())

    data, page = report.write(found, out)
    assert Report.load(data) == found
    assert "Textures" in page.read_text()
    assert "| LoRA | OpenVINO |" in report.markdown(found)
    assert [p.title for p in report.predictions(found)] == ["Forecasts", "Memory of the process"]


def test_what_diverges_as_the_analysis_trains_reached_nothing() -> None:
    class Study:
        """Verifies every plan but that of all tensors."""

        def verify(self, plan: str, *, seeds: Sequence[int], **how: Any) -> Any:
            if plan == "full":
                raise NonFiniteLoss("the loss is nan")
            runs = [SimpleNamespace(validation_metric=0.9, head_metric=0.5) for _ in seeds]
            return SimpleNamespace(runs=runs)

    forecast = Expected(metric=0.8, low=0.7, high=0.95)
    keys = ("head", "auto", "full")
    planned: Any = {key: SimpleNamespace(plan=key, label=key) for key in keys}
    study: Any = Study()
    found = held_against(dict.fromkeys(keys, forecast), study, planned, (7, 8), lambda *event: None)
    assert {key: e.reached for key, e in found.items()} == {
        "head": (0.5, 0.5), "auto": (0.9, 0.9), "full": (None, None),
    }  # fmt: skip
    assert {key: e.inside for key, e in found.items()} == {"head": 0, "auto": 2, "full": 0}


def measured(ratios: Mapping[str, float], megabytes: int) -> MeasuredPlan:
    peak = megabytes * 1_000_000
    memory = Memory(
        imported_bytes=60_000_000, loaded_bytes=80_000_000, peak_bytes=peak, whole_peak_bytes=peak
    )
    return MeasuredPlan(target="openvino", choice=dict(ratios), step_ms=1.0, memory=memory)


def test_no_process_tells_its_own_account(project: Path) -> None:
    """What one plan's process held moves the accounts of the others, and not its own."""
    profile = profile_of(pg.build(projects.load_task("my_project:task")))
    fqns = [t.fqn for t in profile.tensors]
    plans = {str(n): measured(dict.fromkeys(fqns[-n:], 1.0), 100 + n) for n in range(1, 6)}
    before = process_peaks(profile, plans)
    assert before.keys() == plans.keys()
    assert all(abs(p.error_ratio) < 0.05 for p in before.values())
    after = process_peaks(profile, plans | {"5": measured(plans["5"].choice, 200)})  # pyright: ignore
    assert after["5"].predicted_bytes == before["5"].predicted_bytes
    assert after["5"].measured_bytes == 200_000_000
    assert after["4"].predicted_bytes != before["4"].predicted_bytes
    assert process_peaks(profile, {key: plans[key] for key in "1234"}) == {}  # three are too few


def test_an_artefact_that_no_demo_made_stays(project: Path) -> None:
    place = project / "out" / "artifact"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("somebody's")
    with pytest.raises(PockError, match="no study beside it says that a demo made it"):
        experiment.run(
            "vision", project / "out", SETTINGS, quick=False, command="", progress=lambda *event: None
        )
    assert [p.name for p in (project / "out").rglob("*")] == ["artifact", "manifest.json"]


def test_rates_fall_along_a_cosine() -> None:
    rates = [cosine(0.2, i, 10) for i in range(10)]
    assert rates[0] == 0.2
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_loss_difference_looks_at_the_first_steps_only() -> None:
    assert loss_difference([(1.0, 2.0, 4.0, 9.0)], [(1.0, 2.0, 4.4, 1.0)]) == pytest.approx(0.4 / 4.4)


@pytest.mark.parametrize("which", ["vision", "text"])
def test_settings(which: str) -> None:
    full, quick = (settings_for(which, q, None) for q in (False, True))
    assert full.baselines
    assert not quick.baselines  # which would double its time; with --all-baselines they are there
    assert settings_for(which, True, None, all_baselines=True).baselines
    assert full.adapters == quick.adapters == (which == "text")
    assert len(full.seeds) >= 3
    assert TUNING_SEED not in full.seeds
    assert quick.steps < full.steps or which == "text"
    assert settings_for(which, True, 5).seeds == (0, 1, 2, 3, 4)
