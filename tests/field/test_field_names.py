"""Modules, batches and tasks of odd names: they train as any other, or are refused before a file is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner
from users import CLASSES, MOMENTUM, assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import BatchError, TaskError
from pockgraph.runtime.batch import named_arrays
from pockgraph.train_graph import TrainGraph
from pockui.cli import app

ODD = [
    "it's", 'say "hi"', "two  words", "é‑β_模", "lambda", "1st", "__dunder__", "a/b:c\\d", "two\nlines",
    "%s {0} $x", "[/]", ":x:", "<b>&amp;", "None", "self", "lr", "loss", " ", "x" * 200,
]  # fmt: skip
UNWRITABLE = ["\x00", "a\x1bb", "\ud800"]


class Odd(nn.Module):
    """`[N, 12]` to logits `[N, CLASSES]`, through a layer of each name."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.ModuleDict({name: nn.Linear(12, 12) for name in names})
        for name in names:
            self.register_buffer(f"scale {name}", torch.tensor(1.0))
        self.add_module(f"{names[0]} head", nn.Linear(12, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.body.items():
            x = torch.relu(layer(x)) * self.get_buffer(f"scale {name}")
        return next(m for name, m in self.named_children() if name.endswith(" head"))(x)


def classified(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def whole_and_in_part(graph: TrainGraph) -> pg.Plan:
    part = {f"body.{name}.weight": pg.Trained(dim=1, channels=(0, 2, 5)) for name in ODD[::2]}
    return pg.Plan.of(graph, {row.fqn: 1.0 for row in graph.tensors} | part)


def test_modules_of_odd_names_train_as_in_eager_pytorch(target: str) -> None:
    assert_as_eager(task(Odd(*ODD), batches(4, 12)), target, plan=whole_and_in_part)


@pytest.mark.parametrize("key", ["it's", "self", "lambda", "two\nlines", "1st", "[/]", "trained:0.weight"])
def test_batch_entries_of_odd_names_train_as_in_eager_pytorch(target: str, key: str) -> None:
    data = [{key: b["x"], "y": b["y"]} for b in batches(4, 12, count=3)]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[key]), batch["y"])

    def metric(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[key]).sum(1)

    assert_as_eager(pg.Task(key, mlp(), loss, metric, data, data), target)


def test_a_checkpoint_keeps_odd_names(target: str, tmp_path: Path) -> None:
    graph = pg.build(task(Odd(*ODD[1::3]), batches(4, 12)), MOMENTUM)
    data = batches(4, 12)
    artifact = pg.compile(graph, target=target, out=tmp_path / "out", parity=False)
    with artifact.trainer() as trained, artifact.trainer() as other:
        trained.step(data[0])
        trained.save(tmp_path / "state")
        other.load_checkpoint(tmp_path / "state")
        assert other.step(data[1]).loss == trained.step(data[1]).loss


def test_a_study_measures_modules_of_odd_names(tmp_path: Path) -> None:
    data, names = batches(4, 12), [f"body.{name}.weight" for name in ODD[::3]]
    study = pg.Study(tmp_path / "s.db", task(Odd(*ODD[::3]), data, metric=classified), MOMENTUM)
    found = study.analyze(steps=1, tensors=names, ratios=[0.5], lr=0.1)
    assert sorted(found.weights) == sorted(names)
    assert study.search(pg.Budget()).tensors


@pytest.mark.parametrize("name", ["[/]", ":x:", "a=b"])
def test_the_command_line_shows_odd_names_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich would read them as its markup, or as an emoji."""
    monkeypatch.chdir(tmp_path)
    data = batches(4, 12)
    made = task(Odd(name), data, metric=classified)
    study = pg.Study("s.db", made, MOMENTUM)
    study.analyze(steps=1, tensors=[f"body.{name}.weight"], ratios=[1.0], lr=0.1)
    assert study.profile  # made by the first one who asks, and needs the task
    plan = pg.Plan.of(study.graph, {f"body.{name}.weight": 1.0})
    study.save_plan(name, plan)
    pg.compile(study.graph.prune(plan), target="openvino", out="out", parity=False)
    shown = CliRunner().invoke(app, ["study", "show", "s.db"])
    assert shown.exit_code == 0
    assert f"body.{name}.weight" in shown.output
    locked = CliRunner().invoke(
        app, ["search", "s.db", "--peak-mb", "1", "--lock", f"body.{name}.weight=1", "--out", "plan.json"]
    )
    assert locked.exit_code == 0, locked.output
    assert f"body.{name}.weight" in json.loads(Path("plan.json").read_text())["tensors"]
    assert CliRunner().invoke(app, ["show", "out"]).exit_code == 0


def test_globs_take_a_name_with_brackets_as_it_is() -> None:
    model = Odd("[0]", "0")
    made = task(model, batches(4, 12), fresh=("body.[0].*", "body.[0].weight"))
    assert made.fresh_fqns() == ["body.[0].weight", "body.0.weight", "body.0.bias"]


@pytest.mark.parametrize("name", UNWRITABLE)
def test_names_that_no_file_can_hold_are_refused_at_once(name: str) -> None:
    data = batches(4, 12)
    with pytest.raises(TaskError, match=r"cannot be written to a file. Give the module another name"):
        task(Odd(name), data)
    with pytest.raises(TaskError, match=rf"{re.escape(repr(name))} holds the character .* another key"):
        task(mlp(), [{name: b["x"], "y": b["y"]} for b in data])
    with pytest.raises(TaskError, match=r"cannot be written to a file. Take another"):
        pg.Task(name, mlp(), classified, classified, data, data)


def test_a_batch_entry_without_a_name_is_refused() -> None:
    with pytest.raises(TaskError, match=r"a batch entry has an empty name. Give it a key"):
        task(mlp(), [{"": b["x"], "y": b["y"]} for b in batches(4, 12)])


def test_batch_entries_whose_names_are_the_same_as_text_are_refused() -> None:
    both = {1: torch.zeros(4, 12), "1": torch.ones(4, 12)}
    words = "two entries called '1': as text, its keys 1 and '1' are the same. Rename one"
    with pytest.raises(TaskError, match=words):
        pg.build(task(mlp(), [{**batches(1, 12)[0], **both}]), MOMENTUM)
    with pytest.raises(TaskError, match=words):
        pg.Batches(both, 2)
    with pytest.raises(BatchError, match=words):
        named_arrays(both)
