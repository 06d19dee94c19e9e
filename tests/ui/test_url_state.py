"""What was chosen, as a page's address has it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pockgraph.search import Constraints
from pockui.facts import Facts
from pockui.state import State
from pockui.url_state import encode, query_of, read

WEIGHT = "blocks.1.0.weight"


def reopened(state: State) -> State:
    """Another session, with the address of this one."""
    query = {k: v for k, v in query_of(state).items() if v is not None}
    opened = read(query, state.facts)
    assert opened.problems == ()
    other = State()
    other.show(state.facts, opened.planned)
    other.param.update(**opened.views)
    assert query_of(other) == query_of(state)
    return other


def same(one: State, other: State) -> bool:
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("budget", "locked", "rules", "plan", "origin", "cost", "axis", "order", "filter")
    )


def test_a_page_that_was_just_opened_has_a_short_address(state) -> None:
    assert {k for k, v in query_of(state).items() if v is not None} == set()
    assert query_of(State()) == {}


def test_budget_locks_and_rules_come_back_with_the_very_plan(state, facts) -> None:
    state.set_budget(peak_bytes=None, extra_bytes=4000)
    assert same(state, reopened(state))
    state.lock("blocks.0.*", "frozen")
    state.set_rules(weights_need_bias=True, max_tensors=5)
    back = reopened(state)
    assert same(state, back)
    assert back.rules == Constraints(weights_need_bias=True, max_tensors=5)
    assert back.prediction.figures == state.prediction.figures
    assert not back.can_undo


def test_an_edit_by_hand_and_a_point_of_the_frontier_come_back(state, facts) -> None:
    state.set_ratio(WEIGHT, 0.375)
    assert same(state, reopened(state))
    state.take_with_budget(facts.frontier("peak_bytes")[1], "peak_bytes")
    back = reopened(state)
    assert (back.plan.tensors, back.budget, back.origin) == (state.plan.tensors, state.budget, "frontier")


def test_an_imported_plan_keeps_its_channels(state) -> None:
    plan = state.facts.profile.plan({WEIGHT: 0.25, "head.weight": 1.0})
    part = plan.tensors[WEIGHT].model_copy(update={"channels": (0, 7)})
    state.take(plan.model_copy(update={"tensors": {**plan.tensors, WEIGHT: part}}))
    assert reopened(state).plan.tensors == state.plan.tensors


def test_what_the_views_show_stands_in_it_in_words(state) -> None:
    state.param.update(
        axis="extra_bytes", order="gain", filter="blocks & <b>", all_tensors=True, cost="flops"
    )
    state.selected = WEIGHT if state.facts.best_row != WEIGHT else "head.weight"
    query = query_of(state)
    assert (query["axis"], query["order"], query["all"], query["plan"]) == ("extra_bytes", "gain", "1", None)
    back = reopened(state)
    assert same(state, back)
    assert (back.selected, back.all_tensors) == (state.selected, True)


def test_undo_goes_on_from_what_the_address_brought(state) -> None:
    state.set_budget(peak_bytes=None)
    back = reopened(state)
    plan = back.plan
    back.set_ratio(WEIGHT, 0.125)
    back.undo()
    assert back.plan == plan
    assert not back.can_undo


def test_a_search_that_would_find_another_plan_by_now_says_so(state, facts) -> None:
    state.set_budget(peak_bytes=None)
    worse = facts.plan_of(dict(list(state.plan.tensors.items())[:2]), "search")
    opened = read({"plan": encode_of(state, plan=worse)}, facts)
    assert opened.planned is not None
    assert (opened.planned.origin, opened.planned.plan.tensors) == ("linked", worse.tensors)


def encode_of(state: State, **other: object) -> str:
    from pockui.history import Snapshot

    now = Snapshot(state.budget, state.locked, state.rules, state.plan, state.origin)
    return encode(now._replace(**other), state.facts.profile)


def forged(state: State, **changes: object) -> str:
    """An address whose content somebody wrote by hand."""
    text = encode_of(state)
    data = json.loads(zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
    return base64.urlsafe_b64encode(zlib.compress(json.dumps({**data, **changes}).encode())).decode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "0" * 12}, "made for another model than 'blobs'"),
        ({"tensors": {"99": 0}}, "names tensors that there are not: 99"),
        ({"tensors": {"0": 500}}, "names channels of 'stem.weight' that there are not"),
        ({"tensors": {"0": "////////"}}, "channels of 'stem.weight'"),
        ({"tensors": {"0": "no base64!"}}, "channels of 'stem.weight'"),
        ({"tensors": {}}, "Nothing is trained"),
        ({"budget": {"peak_bytes": -1}}, "greater than 0"),
        ({"budget": {"money": 3}}, "limits money, which is no cost"),
        ({"locked": {"0": 7}}, "less than or equal to 1"),
        ({"rules": {"max_tensors": 0}}, "max_tensors"),
        ({"origin": "elsewhere"}, "origin"),
        ({"version": 2}, "version"),
    ],
)
def test_a_forged_address_is_answered_with_a_sentence(state, facts, changes: Mapping, words: str) -> None:
    opened = read({"plan": forged(state, **changes)}, facts)
    assert opened.planned is None
    (problem,) = opened.problems
    assert words in problem
    assert problem.endswith("Shown is the plan that this page opens with.")


def test_an_address_that_was_cut_or_is_a_bomb_is_answered(state, facts) -> None:
    state.set_ratio(WEIGHT, 0.375)
    whole = encode_of(state)
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 50_000_000, 9)).decode()
    for text in (whole[:-9], whole[3:], "x", "%%%", "é", bomb):
        opened = read({"plan": text}, facts)
        assert opened.planned is None
        assert "cannot be read" in opened.problems[0], text


def test_unknown_names_in_it_are_answered_with_what_is_near(facts) -> None:
    opened = read(
        {"cost": "peak_byte", "tensor": "blocks.1.0.wait", "order": "gain", "axis": "step_ms"}, facts
    )
    assert opened.views == {"order": "gain"}
    assert "'peak_bytes'" in opened.problems[0]
    assert any("'blocks.1.0.weight'" in problem for problem in opened.problems)
    assert any("step_ms" in problem for problem in opened.problems), "nothing was timed here"


def test_a_plan_with_too_many_single_channels_is_no_address(state, facts: Facts, monkeypatch) -> None:
    from pockgraph.errors import PlanError

    state.set_ratio(WEIGHT, 0.375)
    monkeypatch.setattr("pockui.url_state.LINK_BYTES", 20)
    with pytest.raises(PlanError, match="Download it under Export"):
        query_of(state)


def test_the_same_model_in_another_study_takes_the_address(state, facts) -> None:
    state.set_ratio(WEIGHT, 0.375)
    again = replace(facts, name="other")
    assert read({"plan": encode_of(state)}, again).planned is not None
