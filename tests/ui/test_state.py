"""The store of a session: edits, budgets, locks, undo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pockgraph.errors import BudgetError, PlanError, StudyError
from pockgraph.plan import Plan
from pockgraph.search import Constraints
from pockgraph.search.plan_search import Budget
from pockui.info.layers import BIASES
from pockui.state import State

WEIGHT = "blocks.1.0.weight"


def test_it_opens_half_way_between_the_head_and_the_best(state, facts) -> None:
    low, high = (facts.known_plans[n].figures.peak_bytes for n in ("Head", "Best"))
    assert state.budget.peak_bytes == (low + high) // 2
    assert state.plan is not None
    assert state.prediction.figures.peak_bytes <= state.budget.peak_bytes
    assert state.plan.predicted["peak_bytes"] == state.prediction.figures.peak_bytes
    assert not state.can_undo


def test_a_missing_study_is_a_value_to_show(tmp_path) -> None:
    state = State()
    state.open(tmp_path / "none.db")
    assert isinstance(state.facts, StudyError)
    assert state.plan is None
    assert not state.ready


def test_moving_the_budget_changes_the_plan(state, facts) -> None:
    state.set_budget(peak_bytes=None)
    everything = state.plan
    state.set_budget(peak_bytes=facts.known_plans["Head"].figures.peak_bytes)
    assert set(state.plan.tensors) == set(facts.contribution.head)
    assert len(everything.tensors) > len(state.plan.tensors)


def test_an_unmet_budget_keeps_the_plan_and_says_why(state) -> None:
    before = state.plan
    state.set_budget(peak_bytes=1000)
    assert isinstance(state.problem, BudgetError)
    assert "smallest" in str(state.problem)
    assert state.plan is before
    assert state.excess["peak_bytes"] > 0
    state.undo()
    assert state.problem is None
    assert state.budget.peak_bytes > 1000


def test_a_drag_moves_the_figures_and_only_its_end_the_plan(state) -> None:
    plan, prediction = state.plan, state.prediction
    state.set_ratio(WEIGHT, 0.75, final=False)
    assert state.plan is plan
    assert state.prediction.choice[WEIGHT] == 0.75
    assert state.prediction.figures != prediction.figures
    state.set_ratio(WEIGHT, 0.75)
    assert state.plan.ratio(WEIGHT) == 0.75
    assert state.origin == "edited"
    assert state.locked == {WEIGHT: 0.75}


def test_others_keep_their_share_while_one_is_edited(state) -> None:
    before = dict(state.prediction.choice)
    state.set_ratio(WEIGHT, 0.0)
    assert WEIGHT not in state.prediction.choice
    assert {k: v for k, v in before.items() if k != WEIGHT} == state.prediction.choice


def test_a_search_works_around_what_is_locked(state) -> None:
    state.set_ratio(WEIGHT, 0.375)
    state.set_budget(peak_bytes=None)
    assert state.plan.ratio(WEIGHT) == 0.375
    assert state.origin == "search"
    state.unlock_all()
    state.search_again()
    assert state.plan.ratio(WEIGHT) != 0.375


def test_a_lock_keeps_the_present_share(state) -> None:
    now = state.ratios.get(WEIGHT, 0.0)
    state.set_lock(WEIGHT, True)
    assert state.locked == {WEIGHT: now}
    assert state.locked_rows == [WEIGHT]
    state.set_lock(WEIGHT, False)
    assert state.locked == {}


def test_a_pattern_locks_all_it_matches_and_the_rest_is_searched(state) -> None:
    state.set_budget(peak_bytes=None)
    state.lock("blocks.*.weight", 0.25)
    names = {f"blocks.{n}.0.weight" for n in range(3)}
    assert state.locked == dict.fromkeys(names, 0.25)
    assert all(state.plan.ratio(fqn) == 0.25 for fqn in names)
    state.lock("re:blocks.[01].0.weight", "frozen")
    assert [state.plan.ratio(f"blocks.{n}.0.weight") for n in range(3)] == [0.0, 0.0, 0.25]
    state.undo()
    assert set(state.locked.values()) == {0.25}
    state.lock("blocks.1.*", "free")
    assert state.locked_rows == ["blocks.0.0.weight", "blocks.2.0.weight"]
    state.unlock_all()
    now = state.ratios.get(WEIGHT, 0.0)
    state.lock(WEIGHT, None)
    assert state.locked == {WEIGHT: now}


def test_a_pattern_that_matches_nothing_changes_nothing(state) -> None:
    plan = state.plan
    for pattern, words in (
        ("block.1.*", r"no trainable tensor 'block\.1\.\*'.*blocks\.1\.\*"),
        ("re:blocks.(", "no regular expression"),
    ):
        with pytest.raises(PlanError, match=words):
            state.lock(pattern, "frozen")
    assert (state.plan, state.locked) == (plan, {})


def test_several_rows_are_set_locked_and_let_go_in_one_step_of_undo_each(state, facts) -> None:
    first = state.plan
    weights = [f"blocks.{n}.0.weight" for n in range(3)]
    state.set_ratios([*weights, "stem.weight", "head.weight"], 0.3, final=False)
    assert (state.plan, state.locked) == (first, {})
    state.set_ratios([*weights, "stem.weight", "head.weight"], 0.3)
    assert [state.plan.ratio(fqn) for fqn in weights] == [0.25] * 3, "the nearest that eight channels allow"
    assert "stem.weight" not in state.plan.tensors, "on or off"
    assert facts.row("stem.weight").nearest(0.5) == 1
    assert state.plan.ratio("head.weight") == 1, "the head stays"
    assert state.locked == {**dict.fromkeys(weights, 0.25), "stem.weight": 0.0}
    state.set_locks(weights[:2], False)
    assert set(state.locked) == {weights[2], "stem.weight"}
    state.set_locks([BIASES, weights[0]], True)
    assert state.locked_rows.count(BIASES) == 1
    assert state.locked[weights[0]] == 0.25
    for locks in ({weights[2], "stem.weight"}, {*weights, "stem.weight"}, set()):
        state.undo()
        assert set(state.locked) == locks
    assert (state.plan, state.can_undo) == (first, False)


def test_rules_hold_in_searches_and_are_undone(state, facts) -> None:
    state.set_budget(peak_bytes=None)
    free = state.plan
    state.set_rules(max_tensors=3)
    assert len(state.plan.tensors) == 3
    state.set_rules(max_tensors=1)
    assert "always trained, 2 tensors" in str(state.problem)
    state.undo()
    assert state.rules.max_tensors == 3
    state.set_rules(max_tensors=None, weights_need_bias=True)
    biases = {fqn.replace("weight", "bias") for fqn in state.plan.tensors}
    assert biases <= state.plan.tensors.keys()
    state.undo()
    state.undo()
    assert (state.plan, state.asked) == (free, Constraints())


def test_biases_are_set_from_the_output_on(state, facts) -> None:
    state.set_ratio(BIASES, 0.5)
    trained = [fqn for fqn in facts.contribution.bias_order if fqn in state.plan.tensors]
    assert trained == list(facts.contribution.bias_order[:2])
    assert BIASES in state.locked_rows
    assert state.ratios[BIASES] == 0.5


def test_one_undo_per_finished_edit(state) -> None:
    first = state.plan
    for share in (0.2, 0.4, 0.6):
        state.set_ratio(WEIGHT, share, final=False)
    state.set_ratio(WEIGHT, 0.75)
    second = state.plan
    state.set_budget(peak_bytes=None)
    third, budget = state.plan, state.budget
    state.undo()
    assert state.plan == second
    state.undo()
    assert state.plan == first
    assert state.locked == {}
    assert not state.can_undo
    state.redo()
    state.redo()
    assert state.plan == third
    assert state.budget == budget
    assert not state.can_redo


def test_nothing_trained_is_a_problem_and_no_plan(state) -> None:
    for fqn in list(state.prediction.choice):
        state.set_ratio(fqn, 0.0)
    assert isinstance(state.problem, PlanError)
    assert state.plan.tensors


def test_imports_keep_the_very_channels(state, tmp_path: Path) -> None:
    plan = state.facts.profile.plan({WEIGHT: 0.25, "head.weight": 1.0})
    other = plan.model_copy(
        update={"tensors": {**plan.tensors, WEIGHT: replace_channels(plan.tensors[WEIGHT], (0, 7))}}
    )
    state.import_plan(other.to_json(), "file")
    assert state.plan.tensors[WEIGHT].channels == (0, 7)
    assert state.origin == "imported"


def replace_channels(trained, channels):
    return trained.model_copy(update={"channels": channels})


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not JSON"), ("{}", "schema"), ('{"schema": "pockui.plan/1"}', "not a valid plan")],
)
def test_a_broken_file_is_refused_and_changes_nothing(state, text: str, reason: str) -> None:
    before = state.plan
    with pytest.raises(PlanError, match=reason):
        state.import_plan(text, "broken.json")
    assert state.plan is before


def test_another_models_plan_is_refused(state) -> None:
    foreign = Plan(
        task="x", model={"w": (2, 2)}, batch={}, optimizer={"name": "sgd", "lr": 0.1}, tensors={"w": {}}
    )
    with pytest.raises(PlanError, match="another model"):
        state.import_plan(foreign.to_json(), "foreign.json")


def test_taking_a_point_of_the_frontier_sets_its_budget(state, facts) -> None:
    plan = facts.frontier("peak_bytes")[1]
    state.take_with_budget(plan, "peak_bytes")
    assert state.plan is plan
    assert state.budget == Budget(peak_bytes=plan.predicted["peak_bytes"])
    assert state.excess == {}


def test_sessions_do_not_see_each_others_edits(facts) -> None:
    one, other = State(), State()
    one.show(facts)
    other.show(facts)
    before = other.plan
    one.set_ratio(WEIGHT, 0.125)
    one.set_budget(peak_bytes=None)
    assert other.plan is before
    assert other.locked == {}


def test_an_answer_for_a_closed_study_is_dropped(facts) -> None:
    waiting = []
    state = State(run=lambda compute, then: waiting.append((compute, then)))
    state.show(facts)
    compute, then = waiting.pop()
    answer = compute()
    state.show(replace(facts))
    then(answer)
    assert state.plan is None


@pytest.mark.parametrize("also", [lambda state: None, lambda state: state.set_ratio(WEIGHT, 0.75)])
def test_undo_while_a_plan_is_searched_ends_that_search(facts, also) -> None:
    waiting = []
    state = State(run=lambda compute, then: waiting.append((compute, then)))

    def answer() -> None:
        compute, then = waiting.pop()
        then(compute())

    state.show(facts)
    answer()
    first = state.plan
    state.set_rules(max_tensors=3)
    answer()
    second = state.plan
    state.set_rules(max_tensors=None)
    assert (state.can_undo, state.can_redo) == (True, False)
    also(state)
    state.undo()
    assert (state.plan, state.rules.max_tensors) == (second, 3)
    answer()
    assert (state.plan, state.rules.max_tensors) == (second, 3)
    state.undo()
    assert (state.plan, state.rules.max_tensors, state.can_redo) == (first, None, True)


def test_an_edit_while_another_one_is_searched_is_not_lost(facts) -> None:
    waiting = []
    state = State(run=lambda compute, then: waiting.append((compute, then)))
    state.show(facts)
    for edit in ({"max_tensors": 3}, {"max_tensors": 2}):
        state.set_rules(**edit)
    for compute, then in waiting:
        then(compute())
    assert len(state.plan.tensors) == 2


def test_locking_is_undone_and_done_again(state) -> None:
    plan, now = state.plan, state.ratios.get(WEIGHT, 0.0)
    state.set_lock(WEIGHT, True)
    state.lock("head.*", None)
    state.unlock_all()
    assert (state.locked, state.plan) == ({}, plan)
    state.undo()
    assert state.locked_rows == [WEIGHT, "head.weight", "head.bias"]
    state.undo()
    assert state.locked == {WEIGHT: now}
    state.undo()
    assert state.locked == {}
    assert not state.can_undo
    state.redo()
    assert (state.locked, state.plan, state.can_redo) == ({WEIGHT: now}, plan, True)


def test_what_changes_nothing_is_no_step_of_undo(state) -> None:
    state.set_ratio(WEIGHT, 0.375)
    state.undo()
    state.redo()
    state.set_ratio(WEIGHT, 0.375)  # a click on the handle
    state.set_lock(WEIGHT, True)  # which setting it did
    state.undo()
    assert (state.locked, state.can_undo) == ({}, False)


def test_locking_while_a_budget_cannot_be_met_leaves_one_step_back(state) -> None:
    budget = state.budget
    state.set_budget(peak_bytes=1000)
    state.set_lock(WEIGHT, True)
    state.undo()
    assert (state.problem, state.budget, state.locked_rows) == (None, budget, [WEIGHT])
    state.undo()
    assert state.locked == {}


def test_what_is_being_typed_stays_while_another_rule_changes(state) -> None:
    from pockui.views.search_rules import SearchRules

    view = SearchRules(state)
    view._most.value = "few"
    state.set_rules(weights_need_bias=True)
    assert (view._most.value, view._switches["weights_need_bias"].value) == ("few", True)
    state.set_rules(max_tensors=4)
    assert view._most.value == "4"
    state.set_rules(max_tensors=None)
    assert view._most.value == ""
