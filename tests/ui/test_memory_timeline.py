"""The memory of a step: its numbers are the engine's, and its sentences say why."""

from __future__ import annotations

import re

import plotly.graph_objects as go
import pytest

from pockgraph.profile.step_memory import StepMemory, freezing
from pockui.info.live_values import alive_at, freezing_text, peaks, tensors
from pockui.info.timeline import moment_at, timeline
from pockui.step_timeline import StepTimeline


def bytes_of(text: str) -> float:
    number, unit = text.replace(",", "").split(" ")
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_the_chart_adds_up_to_the_figures_of_every_plan(facts) -> None:
    profile = facts.profile
    known = {name: StepMemory(profile, p.choice) for name, p in facts.known_plans.items()}
    others = {name: known[name] for name in ("Full", "Preset")}
    for name, memory in known.items():
        found = timeline(profile, memory, others)
        wanted = facts.known_plans[name].figures.peak_bytes
        assert found.peak.y * found.unit.size == pytest.approx(wanted, abs=1e-6)
        assert max(p.y for p in found.points) == found.peak.y  # what is drawn has the peak
        sums = [sum(amounts) for amounts in zip(*found.kinds.values())]
        assert sums == pytest.approx([p.y for p in found.points])
        xs = [p.x for p in found.points]
        assert xs == sorted(xs)
        for line in found.others:
            wanted = facts.known_plans[line.name].figures.peak_bytes
            assert max(p.y for p in line.points) * found.unit.size == pytest.approx(wanted, abs=1e-6)


def test_a_place_means_the_highest_moment_near_it(facts) -> None:
    memory = StepMemory(facts.profile, facts.known_plans["Full"].choice)
    count = len(facts.profile.operators)
    at = memory.moments[memory.peak].place
    assert moment_at(memory, 100 * at / count, count) == memory.peak
    assert moment_at(memory, 0, count) < moment_at(memory, 100, count)


def test_what_is_alive_is_listed_with_what_frees_it(facts) -> None:
    memory = StepMemory(facts.profile, facts.known_plans["Full"].choice)
    found = alive_at(memory, memory.peak)
    assert found.title.startswith("Alive at the peak: ")
    parts = re.findall(r"[\d.,]+ k?M?B", found.sum)
    assert sum(map(bytes_of, parts)) == pytest.approx(memory.peak_bytes, rel=0.01)
    largest = memory.alive(memory.peak)[0]
    assert bytes_of(found.lines[0][1]) == pytest.approx(largest.nbytes, rel=0.005)
    assert any("more" in line[3] or "weight" in line[3] for line in found.lines)
    assert "full training" in peaks(memory, [("full training", memory)])


def test_freezing_says_what_it_frees_and_why_not_more(facts) -> None:
    profile, full = facts.profile, facts.known_plans["Full"].choice
    weight = "blocks.1.0.weight"
    found = freezing(profile, full, [weight])
    text = freezing_text(found, weight, True)
    saved = profile.figures(full).peak_bytes - profile.figures({**full, weight: 0}).peak_bytes
    amount = re.match(r"Freezing blocks\.1\.0\.weight takes ([\d.]+ k?B) off the peak", text)
    assert amount
    assert bytes_of(amount[1]) == pytest.approx(saved, rel=0.005)
    # The peak is late in the backward pass, and what the first layer needs is needed by others.
    first = freezing(profile, full, ["stem.weight"])
    assert first.still
    text = freezing_text(first, "stem", True)
    assert ("nothing off the peak" in text) == (first.peak_bytes <= 0)
    assert f"is kept for {tensors(first.still[0].kept_for)} as well" in text
    alone = freezing(profile, {}, ["stem.weight"])
    assert "stem.weight is frozen; training it would add" in freezing_text(alone, "stem.weight", False)


def test_the_step_follows_the_choice_and_the_place(state) -> None:
    step = StepTimeline(state)
    assert step.memory.peak_bytes == state.prediction.figures.peak_bytes
    assert step.moment == step.memory.peak
    go.Figure(step.figure())  # Plotly knows every attribute
    step.edited({"kind": "move", "value": 0.0, "final": True})
    assert step.memory.moments[step.moment].phase == "forward"
    step.edited({"kind": "click", "index": step.memory.peak})
    assert step.moment == step.memory.peak
    state.set_ratio("stem.weight", 1.0)
    assert step.memory.peak_bytes == state.prediction.figures.peak_bytes
    assert "stem.weight" in step.alive().lines[0][3] or step.freezing()
    state.selected = ""
    assert step.freezing() == ""
