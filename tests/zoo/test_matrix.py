"""The coverage matrix: every cell is right or refused with a reason, and its table says what was run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import ALL_OPTIMIZERS

from pockgraph.errors import UnsupportedOperators
from pockgraph.targets import target_names
from zoo import coverage, families, matrix
from zoo.matrix import PLAN_KINDS, Cell, Outcome, cells, run_cell


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells(), ids=str)
def test_cell(cell: Cell) -> None:
    outcome = run_cell(cell)
    assert outcome.kind != "wrong", outcome.reason
    if outcome.kind == "refused":
        pytest.skip(outcome.reason)


def test_optimizers_take_turns_over_everything() -> None:
    chosen = cells()
    assert {(c.model, c.plan, c.target) for c in chosen} == {
        (model, plan, target)
        for family in families().values()
        for model in family
        for plan in PLAN_KINDS
        for target in target_names()
    }
    assert len(chosen) == len(set(chosen)) == len(cells(every_optimizer=True)) / len(ALL_OPTIMIZERS)
    for target in target_names():
        assert {c.optimizer for c in chosen if c.target == target} == set(ALL_OPTIMIZERS)


def test_the_outcome_of_a_cell_is_right_refused_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("mlp", "parts", "torch", "momentum")
    assert run_cell(cell) == Outcome("right")

    real = matrix._compiled_steps

    def off(small, cell):
        steps = real(small, cell)
        steps.weights["layers.2.weight"][0, 0] += 1e-2
        return steps

    monkeypatch.setattr(matrix, "_compiled_steps", off)
    wrong = run_cell(cell)
    assert wrong.kind == "wrong"
    assert "layers.2.weight" in wrong.reason

    def refuse(small, cell):
        raise UnsupportedOperators("no such\nthing")

    monkeypatch.setattr(matrix, "_compiled_steps", refuse)
    assert run_cell(cell) == Outcome("refused", "no such thing")

    def crash(small, cell):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(matrix, "_compiled_steps", crash)
    assert run_cell(cell) == Outcome("wrong", "ZeroDivisionError: by zero")


def test_a_drawn_plan_is_the_same_every_time() -> None:
    graph = matrix._graph("mlp", "sgd")
    plan = PLAN_KINDS["random"](graph)
    assert plan.tensors == PLAN_KINDS["random"](graph).tensors
    assert 0 < len(plan.tensors) <= 6
    torch.manual_seed(1)
    assert plan.tensors == PLAN_KINDS["random"](graph).tensors


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [Cell("mlp", plan, "torch", "sgd") for plan in PLAN_KINDS]
    ran: list[Cell] = []

    def stop_at_third(cell: Cell) -> Outcome:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(cell)
        return Outcome("right")

    monkeypatch.setattr(coverage, "run_cell", stop_at_third)
    record = tmp_path / "record.jsonl"
    with pytest.raises(KeyboardInterrupt):
        coverage.run(planned, record)
    with record.open("a") as file:
        file.write('{"sources": "cut sho')
        file.write("\n")
    monkeypatch.setattr(coverage, "run_cell", lambda cell: ran.append(cell) or Outcome("refused", "because"))
    found = coverage.run(planned, record)
    assert ran == planned
    assert [o.kind for o in found.values()] == ["right", "right", "refused", "refused", "refused"]
    monkeypatch.setattr(coverage, "_digest_of_sources", lambda: "other sources")
    coverage.run(planned, record)
    assert ran == planned * 2, "what other sources gave does not count"


@pytest.mark.slow
def test_cells_are_shared_out_to_processes(tmp_path: Path) -> None:
    planned = [Cell("mlp", plan, "torch", "sgd") for plan in ("head", "biases")]
    found = coverage.run(planned, tmp_path / "record.jsonl", jobs=2)
    assert list(found.items()) == [(cell, Outcome("right")) for cell in planned]
    assert coverage.run(planned, tmp_path / "record.jsonl", jobs=2) == found


def test_the_table_says_what_was_run() -> None:
    found = {
        Cell("mlp", "full", "torch", "sgd"): Outcome("right"),
        Cell("mlp", "full", "torch", "adamw"): Outcome("right"),
        Cell("mlp", "full", "openvino", "sgd"): Outcome("right"),
        Cell("mlp", "full", "openvino", "adamw"): Outcome("refused", "no | rule"),
        Cell("unet", "full", "openvino", "sgd"): Outcome("refused", "no | rule"),
        Cell("unet", "full", "torch", "sgd"): Outcome("wrong", "off by 2"),
    }
    text = coverage.table(found, " --quick")
    assert "| model | openvino<br>full | torch<br>full |" in text
    assert "| mlp | 1 | ✓ |" in text
    assert "| unet | 1 | ✗ 2 |" in text
    assert "| resnet | – | – |" in text
    assert "1. no \\| rule\n2. **Wrong**: off by 2" in text
    assert "6 cells were run: 3 right, 2 refused with a reason, 1 wrong." in text
    assert "make coverage ARGS=--quick" in text
    assert "take turns" in text
