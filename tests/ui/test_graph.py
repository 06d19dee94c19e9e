"""The training graph as a tree, what compiling changed, and a target that is asked: no browser."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from ui_task import task

import pockgraph as pg
from pockgraph.plan import Plan
from pockgraph.profile.graph_summary import graph_summary
from pockgraph.targets import get_target
from pockui.info.graph import PASSES, passes_table, totals, tree_rows
from pockui.jobs import Jobs
from pockui.target_check import TargetCheck
from pockui.training import Training


def after(cell: str) -> int:
    return int(cell.split(" → ")[-1].replace(",", ""))


def test_blocks_are_the_sum_of_their_layers_and_those_of_their_phases(facts) -> None:
    choice = {"blocks.1.0.weight": 0.5, "head.bias": 1.0}
    layers = graph_summary(facts.profile, choice)
    rows = tree_rows(layers)
    total = sum(after(row["cells"][0]) for row in rows if row["level"] == 1)
    small = pg.build(task(), pg.SGD()).prune(facts.profile.plan(choice))
    assert total == len(list(small.nodes()))
    assert f"{total:,} in all" in totals(layers, "blobs")
    for i, row in enumerate(rows):
        if row["opens"]:
            inside = []
            for below in rows[i + 1 :]:
                if below["level"] <= row["level"]:
                    break
                if below["level"] == row["level"] + 1:
                    inside.append(after(below["cells"][0]))
            assert sum(inside) == after(row["cells"][0]), row
    assert len({row["id"] for row in rows}) == len(rows)


def test_rows_say_what_is_trained_and_what_is_gone(facts) -> None:
    rows = {r["id"]: r for r in tree_rows(graph_summary(facts.profile, {"blocks.1.0.weight": 0.5}))}
    assert rows["layer blocks.1.0"]["cells"][3] == "weight 50 %"
    assert rows["layer head"]["cells"][3] == ""
    assert rows["backward stem"]["state"] == "gone"
    assert re.search(r"FLOP → 0 FLOP", rows["backward stem"]["cells"][2])
    assert rows["forward stem"]["state"] == "whole"
    assert "→" not in rows["forward stem"]["cells"][0]
    assert re.match(r"backward, pruned: .*convolution", rows["backward stem"]["name"])
    assert "→" not in rows["backward stem"]["name"]
    full = tree_rows(graph_summary(facts.profile, facts.known_plans["Full"].choice))
    assert all(row["state"] != "gone" for row in full)


def test_a_profile_without_layers_still_counts_phases(facts) -> None:
    old = replace(
        facts.profile,
        operators=tuple(replace(o, op="", layer="", update=False) for o in facts.profile.operators),
    )
    assert not old.has_layers
    text = totals(graph_summary(old, {"head.bias": 1.0}), "blobs")
    assert "forward" in text
    assert "update" not in text


def test_an_artefact_says_what_each_pass_did(facts, tmp_path) -> None:
    graph = pg.build(task(), pg.SGD())
    made = pg.compile(graph, Plan.head(graph), target="onnx", out=tmp_path / "a", parity=False)
    passes = made.manifest.passes
    assert passes[0].before == len(list(graph.prune(Plan.head(graph)).nodes()))
    assert all(a.after == b.before for a, b in pairwise(passes))
    changed = [p for p in passes if p.before != p.after]
    assert len(passes_table(made.manifest)) == len(changed) > 0


@pytest.mark.usefixtures("worker_finds_task")
def test_a_target_is_asked_in_a_process_of_its_own(state, monkeypatch) -> None:
    from pockui import project

    monkeypatch.setattr(project, "_NAMED", ["ui_task:task"])
    jobs = Jobs()
    check = TargetCheck(state, Training(state, jobs), jobs)
    assert check.why_not == ""
    check.start("onnx")
    assert check.job.wait(120) == "done", check.job.error
    assert check.job.last("checked")["ok"]
    assert check.is_current
    state.set_ratio("stem.weight", 1.0)
    assert not check.is_current
    monkeypatch.setattr(project, "_NAMED", [])
    monkeypatch.setattr("pockgraph.study.study.OPENED_WITH", set())
    assert "--task" in check.why_not


def test_the_next_analysis_renews_a_profile_that_knows_no_layers(study_path, tmp_path) -> None:
    with pg.Study(shutil.copy(study_path, tmp_path / "old.db"), task()) as study:
        made = study.profile
        bare = tuple(replace(o, op="", layer="", update=False) for o in made.operators)
        study.save_profile(replace(made, operators=bare))
        assert not study.profile.has_layers
        study.analyze(steps=10, seeds=(0, 1), lr=0.05, target="torch")
        assert study.profile == made


@pytest.mark.parametrize("target", ["openvino", "onnx", "torch"])
def test_every_pass_of_a_target_has_words(target: str) -> None:
    assert {p.name for p in get_target(target).pipeline({}).all} <= PASSES.keys()
