"""Which runs of a study its forecast counts, and that what was trained moves it."""

from __future__ import annotations

import dataclasses

import pytest
from shapes_task import QUICK

from pockgraph.errors import PlanError, StudyError
from pockgraph.plan import Budget, Plan
from pockgraph.study import Run, Study
from pockgraph.study.records import DataSplit

SETTINGS = {**QUICK, "ratios": (1.0,), "bias_counts": (3,), "lr": 0.1, "steps": 12}


@pytest.fixture
def measured(study: Study) -> Study:
    study.analyze(**SETTINGS)
    return study


def test_after_a_verification_the_forecast_is_near_to_what_was_measured_and_surer(measured: Study) -> None:
    plan = Plan.full(measured.graph)
    before = measured.forecast(plan)
    found = measured.verify(plan, seeds=range(4))
    assert found.forecast == before
    after = measured.forecast(plan)
    assert abs(after.gain - found.measured.mean) < abs(before.gain - found.measured.mean)
    assert after.high - after.low < before.high - before.low
    (trained,) = measured.forecaster.trained
    assert (trained.gain, trained.trainings, trained.conditions) == (found.measured.mean, 4, "")
    assert trained.same_head == 0.5, "two of the four heads are the analysis's"


def test_the_runs_of_a_verification_hold_its_forecast(measured: Study) -> None:
    found = measured.verify(Plan.full(measured.graph), seeds=[0])
    (run,) = measured.runs()
    assert run.predicted_gain == found.forecast.gain
    assert run.plan.predicted["metric_low"] == found.forecast.low
    assert run.plan.predicted["metric_high"] == found.forecast.high


def test_what_repeats_a_measurement_is_not_counted_twice(measured: Study) -> None:
    plan = Plan.of(measured.graph, {"stem.weight": 1.0, "head.weight": 1.0, "head.bias": 1.0})
    measured.verify(plan)
    measured.verify(Plan.head(measured.graph))
    assert measured.forecaster.trained == ()
    measured.verify(plan, seeds=[5])
    assert [p.trainings for p in measured.forecaster.trained] == [1]


def verified(study: Study) -> Run:
    study.verify(Plan.full(study.graph), seeds=[0])
    return study.runs()[-1]


def test_a_run_from_elsewhere_counts_as_much_as_it_was_trained_alike(measured: Study) -> None:
    """Seven more runs of another plan, from the demo, the command line and the dashboard."""
    run = dataclasses.replace(verified(measured), plan=Plan.preset(measured.graph), id=None, uid="", seed=1)
    head = measured.contribution.baseline.mean
    other = {"validation": DataSplit(99, 999, "other")}
    for origin, changes, gain, conditions in (
        ("python", {"seed": 7, "head_metric": 0.25, "validation_metric": 0.5}, 0.25, True),
        (
            "demo",
            {"steps": 400, "schedule": "cosine", "head_metric": 0.5, "validation_metric": 0.75},
            0.25,
            False,
        ),
        ("cli", {"fresh": False, "head_metric": None, "validation_metric": 0.5}, 0.5 - head, False),
        ("cli", {"steps": 50, "head_metric": None}, None, False),
        ("dashboard", {"steps": 30, "head_metric": None, "data": other}, None, False),
        ("dashboard", {"validation_metric": None}, None, False),
        ("cli", {"began_at": 5}, None, False),
        ("verify", {"status": "cancelled"}, None, False),
    ):
        kept = measured.add_run(dataclasses.replace(run, origin=origin, **changes))
        found = [p for p in measured.forecaster.trained if "blocks.0.1.weight" not in p.ratios]
        assert [p.gain for p in found] == ([] if gain is None else [pytest.approx(gain)]), (origin, changes)
        assert [not p.conditions for p in found] == ([] if gain is None else [conditions])
        with measured._store.transaction("runs") as write:
            write.execute("DELETE FROM runs WHERE id = ?", (kept.id,))


def test_the_head_alone_may_be_a_run_of_its_own(measured: Study) -> None:
    run = dataclasses.replace(verified(measured), id=None, uid="", steps=50, head_metric=None)
    measured.add_run(dataclasses.replace(run, plan=Plan.head(measured.graph), validation_metric=0.25))
    measured.add_run(dataclasses.replace(run, validation_metric=0.75, uid=""))
    assert [p.gain for p in measured.forecaster.trained if p.conditions] == [0.5]


def test_a_run_that_goes_on_changes_no_forecast(measured: Study) -> None:
    before = measured.forecaster
    run = measured.add_run(Run(Plan.full(measured.graph), status="running"))
    measured.update_run(dataclasses.replace(run, losses=(1.0, 0.5)))
    assert measured.forecaster is before
    measured.verify(Plan.full(measured.graph), seeds=[3])
    assert measured.forecaster is not before


def test_a_plan_is_forecast_by_value_by_name_and_by_ratios_without_its_task(measured: Study) -> None:
    plan = measured.search(Budget())
    assert plan.predicted["gain"] == measured.forecast(plan).gain
    measured.save_plan("best", plan)
    with Study(measured.path) as reader:
        ratios = {fqn: plan.ratio(fqn) for fqn in plan.tensors}
        assert reader.forecast("best") == reader.forecast(plan) == reader.forecast(ratios)
        for wrong, error, words in (
            ("bset", StudyError, "best"),
            ({"stem.wieght": 1.0}, PlanError, r"stem\.weight"),
            ({"stem.weight": 2.0}, PlanError, "between 0 and 1"),
            (plan.model_copy(update={"model": {"w": (1,)}, "tensors": {}}), PlanError, "another model"),
            (3, StudyError, "Pass a Plan"),
        ):
            with pytest.raises(error, match=words):
                reader.forecast(wrong)


def test_an_old_study_is_forecast_as_it_is(older) -> None:
    with Study(older) as study:
        found = study.forecast({"head.weight": 1.0, "head.bias": 1.0, "stem.weight": 1.0})
        assert 0 <= found.low < found.metric < found.high <= 1


def test_nothing_measured_is_nothing_to_forecast_from(study: Study) -> None:
    with pytest.raises(StudyError, match="nothing was measured"):
        study.forecast({"head.weight": 1.0})
