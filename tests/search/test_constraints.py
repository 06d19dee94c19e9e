"""What a user asks of a plan beside the budget: each constraint alone and together, against trying all."""

from __future__ import annotations

import functools
import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import built

from pockgraph.contribution import Contribution, Gain
from pockgraph.errors import BudgetError, PlanError
from pockgraph.plan import Budget, Plan, presets
from pockgraph.profile import Profile
from pockgraph.profile.profiler import profile_of
from pockgraph.search import Constraints, frontier, search
from pockgraph.search.constraints import biases_of_weights, matching

MODELS = ("mobilenet", "transformer")
RATIOS = (0.5, 1.0)
HEAD = "classifier.*"
SLACK_BYTES = 1024  # the solver keeps a distance from a limit, which is visible in a network as small


@functools.cache
def subject(model: str, seed: int = 0, weights: int = 5) -> tuple[Profile, Contribution]:
    """A profile, and made-up gains of a few weights, some of them losses, and of bias counts."""
    graph, rng = built(model), random.Random(seed)
    head = presets.head(graph)
    rows = [r for r in graph.tensors if r.kind == "weight" and r.channel_dim is not None]
    rows = [r for r in rows if r.fqn not in head]
    table = {
        r.fqn: {ratio: Gain(rng.uniform(-0.2, 1), 0.0, 3) for ratio in RATIOS}
        for r in rows[:: math.ceil(len(rows) / weights)]
    }
    order = tuple(r.fqn for r in presets.biases(graph))
    counts = {k: Gain(rng.uniform(-0.1, 0.5), 0.0, 3) for k in (1, len(order) // 2, len(order))}
    return profile_of(graph), Contribution(Gain(0.5, 0.0, 3), table, counts, order, tuple(head))


@functools.cache
def costs(model: str, choice: tuple[tuple[str, float], ...]) -> int:
    return subject(model)[0].figures(dict(choice)).peak_bytes


def allowed(model: str, asked: Constraints) -> list[tuple[int, float]]:
    """(peak bytes, gain) of every plan that keeps to the constraints, each read as its text has it."""
    profile, table = subject(model)
    locked = {}
    for pattern, ratio in asked.locked.items():
        for fqn in matching([r.fqn for r in profile.tensors], pattern):
            locked[fqn] = {"frozen": 0.0, "free": None}.get(ratio, ratio) if isinstance(ratio, str) else ratio
    locked = {fqn: ratio for fqn, ratio in locked.items() if ratio is not None}
    home = {r.fqn: r.block for r in profile.tensors}
    bias_of = {
        profile.tensors[w].fqn: profile.tensors[b].fqn for w, b in biases_of_weights(profile.tensors).items()
    }
    free = [fqn for fqn in table.weights if fqn not in locked]
    found = []
    for shares in itertools.product((0.0, *RATIOS), repeat=len(free)):
        for k in (0, *table.biases):
            last = table.bias_order[:k]
            choice = {**dict.fromkeys((*table.head, *last), 1.0), **dict(zip(free, shares)), **locked}
            choice = {fqn: ratio for fqn, ratio in choice.items() if ratio}
            if any(locked.get(fqn) == 0 for fqn in last):
                continue
            if asked.max_tensors is not None and len(choice) > asked.max_tensors:
                continue
            if asked.weights_need_bias and any(bias_of.get(w, w) not in choice for w in free if w in choice):
                continue
            if asked.whole_blocks and any(
                len({w in choice for w in [*free, *(w for w in locked if locked[w])]
                     if home[w] == block and profile.tensor(w).kind == "weight"}) > 1
                for block in set(home.values())
            ):  # fmt: skip
                continue
            found.append((costs(model, tuple(sorted(choice.items()))), table.predicted_gain(choice)))
    return found


@st.composite
def constraints(draw: st.DrawFn, model: str) -> Constraints:
    _, table = subject(model)
    ratio = st.sampled_from([0.5, 1.0, 0.0, "frozen", "free"])
    some = st.dictionaries(st.sampled_from([*table.weights]), ratio, max_size=2)
    bias = st.dictionaries(st.sampled_from(table.bias_order), st.sampled_from(["frozen", 1.0]), max_size=1)
    return Constraints(
        locked={**draw(some), **draw(bias)},
        whole_blocks=draw(st.booleans()),
        weights_need_bias=draw(st.booleans()),
        max_tensors=draw(st.none() | st.integers(3, 14)),
    )


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=8)
@given(data=st.data())
def test_the_best_of_all_plans_that_keep_to_the_constraints_is_found(model: str, data: Any) -> None:
    profile, table = subject(model)
    asked = data.draw(constraints(model))
    plans = allowed(model, asked)
    least, most = (pick((p for p, _ in plans), default=0) for pick in (min, max))
    budget = int(least + data.draw(st.sampled_from([0.1, 0.4, 1.0])) * (most - least)) or 10**9
    if not plans:
        with pytest.raises(BudgetError, match=r"constraints|at most"):
            search(profile, table, Budget(peak_bytes=budget), constraints=asked)
        return
    best = max(gain for peak, gain in plans if peak <= budget)
    near = max((gain for peak, gain in plans if peak <= budget - SLACK_BYTES), default=None)
    try:
        plan = search(profile, table, Budget(peak_bytes=budget), constraints=asked)
    except BudgetError:
        assert near is None
        return
    assert plan.predicted["peak_bytes"] <= budget
    assert (near or 0.0) - 1e-6 <= plan.predicted["gain"] <= best + 1e-6 or near is None


# ---------------------------------------------------------------- locks


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("blocks.1.*", {"blocks.1"}),
        (r"re:blocks\.\d+\..*weight", {"blocks.0", "blocks.1"}),
        ("re:.*", {"blocks.0", "blocks.1"}),
    ],
)
def test_a_pattern_locks_all_that_it_matches(pattern: str, layers: set[str]) -> None:
    profile, table = subject("transformer")
    plan = search(profile, table, Budget(), locked={pattern: "frozen", HEAD: 1.0})
    trained = {profile.tensor(fqn).block for fqn in plan.tensors if profile.tensor(fqn).kind == "weight"}
    assert not trained & layers
    assert set(table.head) <= set(plan.tensors)


def test_the_last_of_several_locks_counts() -> None:
    profile, table = subject("transformer")
    one = max(table.weights, key=lambda fqn: max(g.mean for g in table.weights[fqn].values()))
    assert one not in search(profile, table, Budget(), locked={"*": "frozen", HEAD: 1}).tensors
    assert one in search(profile, table, Budget(), locked={"*": "frozen", HEAD: 1, one: "free"}).tensors
    assert set(search(profile, table, Budget(), locked={"*": "frozen", one: 0.5}).tensors) == {one}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("blocks.1.*.wieght", "nor one that it matches"),
        ("block.1.*", r"Did you mean 'blocks\.1\.\*'"),
        (r"re:block\.0\..*", r"Did you mean .*'blocks\.0\.\*'"),
        ("blocks.0.attention.qkv.weigth", r"Did you mean 'blocks\.0\.attention\.qkv\.weight'"),
        ("re:blocks[", "no regular expression: "),
    ],
)
def test_a_lock_that_matches_nothing_is_refused_with_what_is_near(pattern: str, words: str) -> None:
    profile, table = subject("transformer")
    with pytest.raises(PlanError, match=words):
        search(profile, table, Budget(), locked={pattern: 0.5})


def test_without_the_head_it_is_said_what_else_to_lock() -> None:
    profile, table = subject("mobilenet")
    budget = Budget(peak_bytes=10**9)
    with pytest.raises(PlanError, match=r"head is locked out, and nothing is locked in: .* Lock one tensor"):
        search(profile, table, budget, locked={HEAD: "frozen"})
    with pytest.raises(PlanError, match="head is locked out, and nothing that gains is left: "):
        search(profile, table, budget, locked={"*": 0.0})
    other = next(iter(table.weights))
    assert other in search(profile, table, budget, locked={HEAD: 0.0, other: 1.0}).tensors


def test_a_name_with_brackets_is_itself_before_it_is_a_glob() -> None:
    assert matching(["a[0].weight", "a0.weight"], "a[0].weight") == ["a[0].weight"]
    assert matching(["re:x", "x"], "re:x") == ["re:x"]


# ---------------------------------------------------------------- the others


def test_weights_come_with_their_biases_or_those_of_their_norms() -> None:
    for model, pairs in {
        "mobilenet": {"project.weight": "norm.bias", "expand.0.weight": "expand.1.bias"},
        "mlp": {"weight": "bias"},
    }.items():
        tensors = profile_of(built(model)).tensors
        found = {tensors[w].fqn: tensors[b].fqn for w, b in biases_of_weights(tensors).items()}
        assert found
        for weight, bias in found.items():
            ends = next(end for end in pairs if weight.endswith(end)) if model == "mlp" else ""
            if ends or weight.endswith(tuple(pairs)):
                end = ends or next(end for end in pairs if weight.endswith(end))
                assert bias == weight.removesuffix(end) + pairs[end]


def test_at_most_so_many_tensors_count_the_heads() -> None:
    profile, table = subject("mobilenet")
    assert len(search(profile, table, Budget(), constraints=Constraints(max_tensors=5)).tensors) <= 5
    with pytest.raises(BudgetError, match="always trained, 2 tensors"):
        search(profile, table, Budget(), constraints=Constraints(max_tensors=1))


def test_a_frontier_keeps_to_constraints() -> None:
    profile, table = subject("mobilenet")
    asked = Constraints(locked={next(iter(table.weights)): 0.5}, max_tensors=6, weights_need_bias=True)
    plans = frontier(profile, table, 6, constraints=asked)
    assert plans
    for plan in plans:
        assert len(plan.tensors) <= 6
        assert next(iter(table.weights)) in plan.tensors
    gains = [plan.predicted["gain"] for plan in plans]
    assert gains == sorted(set(gains))


def test_a_plan_says_what_was_asked_and_constraints_travel_as_json() -> None:
    profile, table = subject("mobilenet")
    asked = Constraints(locked={"blocks.*": "frozen"}, max_tensors=9, whole_blocks=True)
    plan = Plan.from_json(search(profile, table, Budget(), constraints=asked).to_json())
    assert Constraints.model_validate_json(plan.provenance["constraints"]) == asked
    assert "constraints" not in search(profile, table, Budget()).provenance


@pytest.mark.parametrize(
    "bad", [{"max_tensors": 0}, {"locked": {"a": 2}}, {"locked": {"a": "thawed"}}, {"blocks": True}]
)
def test_constraints_that_cannot_be_are_refused_in_words(bad: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"Constraints\(…\) cannot take these values"):
        Constraints(**bad)
