"""`pockui check`: what is in the way, what compiles instead, and the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import Cli  # pyright: ignore

from pockgraph.ir.graph import aten
from pockgraph.passes import legalize
from pockgraph.plan import Plan
from pockgraph.targets.openvino import RULES
from pockgraph.targets.openvino.openvino_rules import TABLE


@pytest.fixture
def no_relu_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO as it would be without the backward pass of ReLU; pruned graphs keep its mask instead.

    Nor does anything say how to write these operators in terms of others.
    """
    gone = (aten.threshold_backward.default, aten.masked_fill.Scalar)
    known = legalize.expansion_of
    monkeypatch.setattr(legalize, "expansion_of", lambda node: None if node.target in gone else known(node))
    monkeypatch.setattr(TABLE, "legalize", legalize.Legalize(TABLE.legalize.refusal))
    for operator in gone:
        monkeypatch.delitem(RULES, operator)


def test_a_plan_that_compiles(project: Path, cli: Cli) -> None:
    result = cli("check", "my_project:task", "--json")
    assert result.code == 0, result.err
    assert result.json["ok"]
    assert result.json["problems"] == []
    assert "lowers everything" in cli("check", "my_project:task", "--plan", "head").out


def test_a_plan_that_does_not(project: Path, cli: Cli, no_relu_backward: None) -> None:
    result = cli("check", "my_project:task", "--out", "nearest.json", "--json")
    assert result.code == 1
    assert result.json["trainable"] == ["head.weight", "head.bias"]
    assert result.json["other_targets"] == ["onnx", "torch"]
    assert {p["needed_by"] for p in result.json["problems"]} == {"gradients"}
    assert all("my_project.py" in p["source"] for p in result.json["problems"])

    text = cli("check", "my_project:task")
    assert text.code == 1
    assert "Train from `head` up, 2 of its 6 tensors" in text.out
    assert list(Plan.load("nearest.json").tensors) == ["head.weight", "head.bias"]
    assert cli("check", "my_project:task", "--plan", "nearest.json").code == 0


def test_compiling_says_the_same(project: Path, cli: Cli, no_relu_backward: None) -> None:
    result = cli("compile", "my_project:task", "--plan", "full")
    assert result.code == 2
    assert "Train from `head` up" in result.err
    assert "compiles for 'onnx'" in result.err
    assert not (project / "out").exists()


def test_an_unknown_target(project: Path, cli: Cli) -> None:
    result = cli("check", "my_project:task", "--target", "openvin")
    assert result.code == 2
    assert "'openvino'" in result.err
