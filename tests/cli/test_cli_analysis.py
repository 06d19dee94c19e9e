"""`pockui analyze` in its modes: what is measured, what is only probed, and that both are told."""

from __future__ import annotations

import math
from pathlib import Path

from projects import Cli  # pyright: ignore

from pockgraph.contribution.agreement import Agreement
from pockui.commands.analysis import agreement_text

ANALYZE = ("analyze", "my_project:task", "--study", "s.db", "--target", "torch")


def test_a_probe_shows_scores_of_all_and_what_was_not_measured(project: Path, cli: Cli) -> None:
    found = cli(*ANALYZE, "--mode", "probe", "--steps", 10)
    assert found.code == 0, found.err
    for words in ("Metric of the head alone", "Probed, not measured", "conv1.weight", "conv2.weight"):
        assert words in found.out
    assert "Measured 0 of 2 weights outside the head." in found.out
    shown = cli("study", "show", "s.db")
    assert "Probed, not measured" in shown.out
    figures = cli("study", "show", "s.db", "--json").json
    assert set(figures["scores"]["weights"]) == {"conv1.weight", "conv2.weight"}
    assert set(figures["coverage"]["skipped"]) == {"conv1.weight", "conv2.weight"}
    assert figures["agreement"] == []


def test_a_quick_analysis_of_plain_convolutions_measures_some_and_says_which(project: Path, cli: Cli) -> None:
    found = cli(*ANALYZE, "--quick", "--json")
    assert found.code == 0, found.err
    assert found.json["weights"]
    coverage = found.json["coverage"]
    assert set(coverage["measured"]) | set(coverage["skipped"]) == {"conv1.weight", "conv2.weight"}
    assert coverage["measured"]
    assert coverage["text"]
    again = cli(*ANALYZE, "--quick")
    assert "weights outside the head" in again.out


def test_an_analysis_ends_with_its_time_and_says_so(project: Path, cli: Cli) -> None:
    found = cli(*ANALYZE, "--steps", 5, "--lr", 0.1, "--time-budget", 1e-6)
    assert found.code == 0, found.err
    assert "because the time was used up" in found.out
    refused = cli(*ANALYZE, "--time-budget", -1)
    assert refused.code == 2
    assert "time_budget_s must be positive" in refused.err


def test_scores_of_gains_that_are_all_alike_rank_nothing() -> None:
    found = Agreement("taylor", math.nan, math.nan, math.nan, math.nan, tensors=4, pairs=4)
    assert "cannot be held against measured gains" in agreement_text(found)
    assert "nan" not in agreement_text(found)
