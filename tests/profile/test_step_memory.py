"""What is alive at each moment adds up to the figures, and is gone when what keeps it is frozen."""

from __future__ import annotations

import random
from functools import cache

import pytest
from oracle import built

from pockgraph.profile import Profile
from pockgraph.profile.profiler import profile_of
from pockgraph.profile.step_memory import PHASES, StepMemory, Value, freezing

MODELS = ("mobilenet", "transformer")


@cache
def profiled(model: str, optimizer: str) -> Profile:
    return profile_of(built(model, optimizer))


def choices(profile: Profile, seed: int, count: int) -> list[dict[str, float]]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        some = draw.sample(profile.tensors, draw.randint(1, len(profile.tensors)))
        found.append({t.fqn: draw.choice([1.0, 0.5]) if t.channels else 1.0 for t in some})
    return found


@pytest.mark.parametrize(("model", "optimizer"), [("mobilenet", "adamw"), ("transformer", "momentum")])
def test_every_moment_is_the_sum_of_what_is_alive(model: str, optimizer: str) -> None:
    profile = profiled(model, optimizer)
    for choice in choices(profile, 0, 3):
        memory, figures = StepMemory(profile, choice), profile.figures(choice)
        assert memory.peak_bytes == figures.peak_bytes
        assert memory.saved_bytes + memory.state_bytes == figures.extra_bytes
        assert memory.live_bytes.tolist() == [alive for _, _, alive in profile.live_bytes(choice)]
        by_phase = sum(memory.made_in(phase) for phase in PHASES)
        assert (by_phase + memory.resident_bytes).tolist() == memory.live_bytes.tolist()
        for moment, alive in enumerate(memory.live_bytes.tolist()):
            values = memory.alive(moment)
            assert sum(v.nbytes for v in values) + memory.resident_bytes == alive
            assert all(v.made <= moment <= v.last for v in values)
            assert [v.nbytes for v in values] == sorted((v.nbytes for v in values), reverse=True)


@pytest.mark.parametrize("model", MODELS)
def test_operators_know_their_phase_layer_and_name(model: str) -> None:
    graph, profile = built(model, "momentum"), profiled(model, "momentum")
    by_name = {node.name: node for node in graph.nodes()}
    known = [(o, by_name[o.name]) for o in profile.operators if o.name in by_name]
    assert len(known) > 0.9 * len(profile.operators)
    for o, node in known:
        assert (o.phase, o.layer) == (node.meta["phase"], node.meta["layer"])
        assert o.op in str(node.target)
    assert Profile.from_json(profile.to_json()).operators == profile.operators


def saved(memory: StepMemory) -> dict[str, Value]:
    first = next(i for i, m in enumerate(memory.moments) if m.phase == "backward")
    values = memory.alive(first)
    return {memory.moments[v.made].name: v for v in values if memory.moments[v.made].phase == "forward"}


@pytest.mark.parametrize("model", MODELS)
def test_an_activation_is_gone_once_all_that_it_is_kept_for_is_frozen(model: str) -> None:
    profile = profiled(model, "momentum")
    for choice in choices(profile, 1, 2):
        for name, value in list(saved(StepMemory(profile, choice)).items())[::3]:
            if value.in_use:
                continue
            assert value.kept_for
            rest = {fqn: share for fqn, share in choice.items() if fqn not in value.kept_for}
            left = StepMemory(profile, rest)
            if rest and any(m.phase == "backward" for m in left.moments):
                assert name not in saved(left), (name, value)
            *others, last = value.kept_for
            if others:  # one of them is enough to keep it, or what it is kept as
                one = saved(StepMemory(profile, {last: choice[last]} | rest))
                assert name in one or any(name in other for other in one), (name, value)


@pytest.mark.parametrize("model", MODELS)
def test_freezing_is_the_difference_of_two_plans(model: str) -> None:
    profile = profiled(model, "momentum")
    draw = random.Random(2)
    for choice in choices(profile, 2, 4):
        fqn = draw.choice([t.fqn for t in profile.tensors])
        found = freezing(profile, choice, [fqn])
        trains = choice | {fqn: choice.get(fqn, 0) or 1.0}
        freezes = {k: v for k, v in choice.items() if k != fqn}
        a, b = profile.figures(trains), profile.figures(freezes)
        assert found.peak_bytes == a.peak_bytes - b.peak_bytes
        assert found.extra_bytes == a.extra_bytes - b.extra_bytes
        assert all(v.kept_for and fqn not in v.kept_for for v in found.still)
