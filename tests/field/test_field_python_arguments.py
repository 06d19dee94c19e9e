"""What users pass in Python by mistake: an error of this project says what was wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pockgraph as pg
from pockgraph.errors import BatchError, PockError
from pockgraph.profile import Profile
from pockgraph.runtime import Trainer


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3))


def _task(**changes: Any) -> pg.Task:
    batch = {"x": torch.ones(8, 4), "y": torch.zeros(8, dtype=torch.int64)}
    parts: dict[str, Any] = {
        "name": "t",
        "model": _net(),
        "loss": lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
        "metric": lambda m, b: (m(b["x"]).argmax(1) == b["y"]).float(),
        "train": [batch],
        "eval": [batch],
    }
    return pg.Task(**(parts | changes))


IN_PYTHON: dict[str, tuple[Callable[[Any], object], str]] = {
    "a torch optimizer": (lambda g: pg.build(_task(), torch.optim.SGD(_net().parameters())), "pockgraph.SGD"),
    "a model to build": (lambda g: pg.build(_net()), "pockgraph.Task"),
    "a task to compile": (lambda g: pg.compile(_task()), "pockgraph.build"),
    "a plan by name": (lambda g: pg.compile(g, "full"), "Plan.preset"),
    "no target": (lambda g: pg.compile(g, target=None), "'openvino'"),
    "options as text": (lambda g: pg.compile(g, options="precision=f32"), "by name"),
    "a list of tensors": (lambda g: pg.Plan.of(g, ["0.weight"]), "ratios by name"),
    "a ratio in words": (lambda g: pg.Plan.of(g, {"0.weight": "half"}), "0.weight"),
    "a number as a name": (lambda g: pg.Plan.of(g, {3: 1.0}), "3"),
    "scores in words": (lambda g: pg.Plan.of(g, {"0.weight": 0.5}, channels={"0.weight": "abc"}), "scores"),
    "a plan of bytes": (lambda g: pg.Plan.from_json(b"{}"), "text of a plan"),
    "a plan that is empty": (lambda g: pg.Plan.from_json(""), "not JSON"),
    "a plan without all": (lambda g: pg.Plan.from_json('{"schema": "pockui.plan/1"}'), "task: it is missing"),
    "a profile that is none": (lambda g: Profile.from_json("[]"), "no profile"),
    "a budget in words": (lambda g: pg.Budget(peak_bytes="40 MB"), "'40 MB'"),
    "an artefact of a name without end": (lambda g: pg.Artifact.load("a" * 300), "name too long"),
    "a trainer of a null byte": (lambda g: Trainer.load("a\0b"), "cannot be used"),
    "a study of a task's name": (lambda g: pg.Study("none.db", "digits"), "pockgraph.Task"),
    "fresh tensors as text": (lambda g: _task(fresh="0.*"), "('0.*',)"),
}


@pytest.mark.parametrize("case", IN_PYTHON)
def test_a_mistake_in_python_is_an_error_of_this_project(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    act, words = IN_PYTHON[case]
    with pytest.raises(PockError) as caught:
        act(pg.build(_task()))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lr", ["fast", [0.1], 10**400, float("nan"), -1])
def test_a_learning_rate_that_is_no_finite_number_takes_no_step(lr: Any, built: Path) -> None:
    with Trainer.load(built / "out") as trainer:
        with pytest.raises(BatchError, match="no learning rate"):
            trainer.step({"x": np.ones((8, 4), np.float32), "y": np.zeros(8, np.int64)}, lr=lr)
        assert trainer.steps == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"budget": "40"}, "Pass a Budget"),
        ({"budget": pg.Budget(peak_bytes=10**9), "locked": ["fc.weight"]}, "by name"),
        ({"budget": pg.Budget(peak_bytes=10**9), "locked": {"fc.weight": "half"}}, "ratio between"),
    ],
)
def test_a_search_for_what_is_no_budget(asked: dict[str, Any], words: str, project: Path) -> None:
    with pytest.raises(PockError, match=words):
        pg.Study(project / "study.db").search(**asked)


def test_a_study_whose_schema_has_a_flipped_bit(project: Path) -> None:
    whole = (project / "study.db").read_bytes()
    at = whole.index(b"CREATE TABLE")
    for offset in range(-3, 60):
        damaged = bytearray(whole)
        damaged[at + offset] ^= 0x80
        (project / "damaged.db").write_bytes(damaged)
        with suppress(PockError):
            pg.Study(project / "damaged.db").contribution  # noqa: B018
