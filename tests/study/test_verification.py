"""A plan that is trained for real: as the analysis trained, against what it predicted."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path

import pytest
from shapes_task import OPTIMIZER, QUICK, make_shapes

from pockgraph.contribution.analysis import Cancelled
from pockgraph.contribution.gains import HEAD
from pockgraph.errors import NonFiniteLoss, PlanError, PockError, StudyError
from pockgraph.plan import Plan
from pockgraph.study import Study
from pockgraph.study.records import DataSplit

SETTINGS = {**QUICK, "tensors": "blocks.1*", "ratios": (1.0,), "bias_counts": (1,), "lr": 0.1, "steps": 8}


@pytest.fixture
def measured(study: Study) -> Study:
    study.analyze(**SETTINGS)
    return study


def one_weight(study: Study) -> Plan:
    return Plan.of(study.graph, {"blocks.1.0.weight": 1.0, "head.weight": 1.0, "head.bias": 1.0})


def test_it_trains_exactly_as_the_analysis_did(measured: Study) -> None:
    """A plan that was a measurement gets that measurement's metrics."""
    found = measured.verify(one_weight(measured))
    by_seed = {m.seed: m for m in measured.measurements() if m.candidate.fqn == "blocks.1.0.weight"}
    assert {r.seed: r.validation_metric for r in found.runs} == {s: m.metric for s, m in by_seed.items()}
    gain = measured.contribution.weights["blocks.1.0.weight"][1.0]
    assert found.measured.mean == gain.mean
    assert found.predicted_gain == found.forecast.gain == pytest.approx(gain.mean, abs=0.05)
    assert found.difference == found.measured.mean - found.forecast.gain
    assert found.head.mean == measured.contribution.baseline.mean
    for run in found.runs:
        quarter = run.losses[-2:]
        assert statistics.fmean(quarter) == pytest.approx(by_seed[run.seed].loss)


def test_the_runs_are_kept_with_all_that_is_needed_to_compare_them(measured: Study) -> None:
    found = measured.verify(one_weight(measured), name="one")
    runs = measured.runs()
    assert runs == list(found.runs)
    for seed, run in enumerate(runs):
        assert (run.name, run.origin, run.status, run.target) == (
            f"one, seed {seed}",
            "verify",
            "done",
            "torch",
        )
        assert (run.seed, run.steps, run.lr, len(run.losses)) == (seed, 8, 0.1, 8)
        assert run.fresh
        assert run.metric is None  # the test data is not read
        assert run.validation_baseline is not None
        assert run.gain == (run.validation_metric or math.nan) - (run.head_metric or math.nan)
        assert run.data["validation"] == DataSplit(4, 32, run.data["validation"].fingerprint)
        assert run.step_ms
        assert run.step_ms > 0


def test_other_seeds_train_the_head_too_and_only_once(measured: Study) -> None:
    plan = one_weight(measured)
    first = measured.verify(plan, seeds=[1, 7])
    assert [r.seed for r in first.runs] == [1, 7]
    assert [r.name for r in measured.runs()] == ["head alone, seed 7", *(r.name for r in first.runs)]
    again = measured.verify(plan, seeds=[7])
    assert len(measured.runs()) == 4
    assert again.runs[0].validation_metric == first.runs[1].validation_metric
    assert again.runs[0].head_metric == first.runs[1].head_metric == measured.runs()[0].validation_metric


def test_the_compiled_step_agrees(measured: Study) -> None:
    plan = one_weight(measured)
    eager, compiled = measured.verify(plan), measured.verify(plan, target="onnx", seeds=[0])
    assert compiled.runs[0].target == "onnx"
    assert compiled.runs[0].losses == pytest.approx(eager.runs[0].losses, rel=1e-4)
    assert "head alone, seed 0" in [r.name for r in measured.runs()]  # by the same target


def test_progress_ends_at_its_total_and_cancelling_keeps_what_was_trained(measured: Study) -> None:
    seen = []
    measured.verify(one_weight(measured), seeds=[0], progress=seen.append)
    assert seen[-1].done == seen[-1].total == 8 + 2 * 4
    with pytest.raises(Cancelled, match=r"after \d+ of 16 steps"):
        measured.verify(one_weight(measured), seeds=[0], cancel=iter([False] * 8 + [True]).__next__)
    last = measured.runs()[-1]
    assert (last.status, len(last.losses)) == ("cancelled", 4)


def test_a_kept_plan_is_verified_by_its_name_and_another_optimizer_is_the_studys(measured: Study) -> None:
    plan = one_weight(measured)
    measured.save_plan("mine", plan.model_copy(update={"optimizer": {"name": "adam", "lr": 1.0}}))
    found = measured.verify("mine", seeds=[0])
    assert found.runs[0].name == "mine, seed 0"
    assert found.runs[0].plan.optimizer == OPTIMIZER.to_dict()
    assert found.difference == pytest.approx(0, abs=1)


def test_what_cannot_be_verified_is_refused_before_anything_is_trained(measured: Study) -> None:
    plan = one_weight(measured)
    for wrong, words in (
        ({"plan": "mine"}, "no plan 'mine'"),
        ({"plan": plan, "seeds": []}, "distinct whole numbers"),
        ({"plan": plan, "seeds": [0, 0]}, "distinct whole numbers"),
        ({"plan": plan, "target": "openvin"}, "openvino"),
        ({"plan": plan.model_copy(update={"tensors": {}})}, "trains nothing"),
    ):
        with pytest.raises(PockError, match=words):
            measured.verify(**wrong)
    with pytest.raises(PlanError, match="another model"):
        measured.verify(plan.model_copy(update={"model": {"w": (1,)}, "tensors": {}}))
    with Study(measured.path) as reader, pytest.raises(StudyError, match="without its task"):
        reader.verify(plan)
    assert measured.runs() == []


def test_a_study_without_measurements_says_what_comes_first(study: Study) -> None:
    with pytest.raises(StudyError, match="nothing was measured"):
        study.verify(Plan.head(study.graph))


def test_a_training_that_diverges_is_kept_as_failed(measured: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with measured._store.transaction("measurements") as write:
        write.execute("UPDATE measurements SET lr = 1e30")
    with pytest.raises(NonFiniteLoss):
        measured.verify(one_weight(measured), seeds=[0])
    (run,) = measured.runs()
    assert run.status == "failed"
    assert "lr 1e+30" in run.error
    assert run.losses


def test_the_head_alone_gains_nothing(measured: Study) -> None:
    found = measured.verify(Plan.head(measured.graph))
    assert found.measured.mean == 0
    assert found.forecast.gain == pytest.approx(0, abs=1e-9)
    assert {m.seed: m.metric for m in measured.measurements() if m.candidate == HEAD} == {
        r.seed: r.validation_metric for r in found.runs
    }


def test_a_task_without_validation_data_holds_some_back_as_the_analysis_did(tmp_path: Path) -> None:
    task = dataclasses.replace(make_shapes(), validation=None)
    with Study(tmp_path / "s.db", task, OPTIMIZER) as study:
        study.analyze(**{**SETTINGS, "seeds": (0,)})
        found = study.verify(one_weight(study))
        assert found.difference == pytest.approx(0, abs=0.05)
        assert {n: s.samples for n, s in found.runs[0].data.items()} == {
            "train": 72, "validation": 16, "test": 32,
        }  # fmt: skip


def test_a_notebook_shows_the_forecast_beside_what_was_reached(measured: Study) -> None:
    found = measured.verify(one_weight(measured))
    assert repr(found).startswith("Verification(3 of ")
    assert "trained 2 times: metric " in repr(found)
    assert len(repr(found)) < 120
    shown = found._repr_html_()
    assert f"<td>{found.forecast.metric:.4f}</td>" in shown
    for run in found.runs:
        assert f"<td>measured, seed {run.seed}</td><td>{run.validation_metric:.4f}</td>" in shown
