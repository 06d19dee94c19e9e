"""Losses, data and models that cannot be trained: one paragraph says what is wrong, where, and what to do."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from refusals import refused, task_of
from torch import nn

import pockgraph as pg
from pockgraph.errors import BudgetError, CaptureError, PlanError, PockError, TaskError
from pockgraph.task.batch import Batch

# ---------------------------------------------------------------- losses and metrics


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda net, b: F.cross_entropy(net(b["x"]), b["y"], reduction="none"), ["shape (4,)", "mean"]),
        (lambda net, b: net(b["x"]), ["shape (4, 4)"]),
        (lambda net, b: net(b["x"]).argmax(), ["torch.int64"]),
    ],
)
def test_a_loss_that_is_no_number(loss: Any, says: list[str]) -> None:
    refused(TaskError, lambda: pg.build(task_of(loss=loss)), "'bad'", "one floating-point number", *says)


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda net, b: (net(b["x"]).sum(), b["y"]), "tuple"),
        (lambda net, b: {"loss": net(b["x"]).sum()}, "dict"),
        (lambda net, b: 1.0, "Python number"),
        (lambda net, b: None, "NoneType"),
    ],
)
def test_a_loss_that_is_no_tensor(loss: Any, got: str) -> None:
    refused(
        TaskError,
        lambda: pg.build(task_of(loss=loss)),
        "'bad'",
        "one floating-point number",
        f"gives a {got}",
    )
    refused(
        TaskError, lambda: pg.build(task_of(metric=loss)), "'bad'", "one value per sample", f"gives a {got}"
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda net, b: b["x"].mean(),
        lambda net, b: net(b["x"]).detach().mean(),
        lambda net, b: torch.zeros(()),
    ],
)
def test_a_loss_without_parameters(loss: Any) -> None:
    refused(TaskError, lambda: pg.build(task_of(loss=loss)), "'bad'", "depends on no parameter")


def test_a_loss_under_no_grad() -> None:
    def loss(net: nn.Module, b: Batch) -> torch.Tensor:
        with torch.no_grad():
            return F.cross_entropy(net(b["x"]), b["y"])

    refused(TaskError, lambda: pg.build(task_of(loss=loss)), "'bad'", "depends on no parameter")


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (lambda net, b: (net(b["x"]).argmax(1) == b["y"]).float().mean(), ["shape ()", "[4]"]),
        (lambda net, b: net(b["x"]), ["shape (4, 4)"]),
        (lambda net, b: net(b["x"])[0], ["per sample"]),
        (lambda net, b: net(b["x"])[:2, 0], ["shape (2,)"]),
    ],
)
def test_a_metric_that_is_not_one_value_a_sample(metric: Any, says: list[str]) -> None:
    if says == ["per sample"]:
        batches = [{k: v[:3] for k, v in b.items()} for b in models.vectors()]  # 3 samples, 4 classes
        refused(
            TaskError, lambda: pg.build(task_of(metric=metric, train=batches, eval=batches)), "metric", *says
        )
        return
    refused(TaskError, lambda: pg.build(task_of(metric=metric)), "'bad'", "one value per sample", *says)


# ---------------------------------------------------------------- data


def test_data_that_yields_once() -> None:
    refused(TaskError, lambda: task_of(train=iter(models.vectors())), "`train`", "once", "DataLoader")

    def generator() -> Iterator[Batch]:
        yield from models.vectors()

    refused(TaskError, lambda: task_of(eval=generator()), "`eval`", "once")


@pytest.mark.parametrize("which", ["train", "eval", "validation"])
def test_no_data(which: str) -> None:
    refused(TaskError, lambda: task_of(**{which: []}), f"`{which}`", "no batches")
    nothing = pg.Batches({"x": torch.zeros(3, 12), "y": torch.zeros(3)}, batch_size=4)
    refused(TaskError, lambda: task_of(**{which: nothing}), f"`{which}` has 3 samples", "a batch takes 4")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("a caption", "'note' is of type str"),
        ([1, 2], "'note' is of type list"),
        (3, "'note' is of type int"),
        (None, "'note' is of type NoneType"),
    ],
)
def test_a_batch_entry_that_is_no_tensor(entry: Any, says: str) -> None:
    batches = [{**b, "note": entry} for b in models.vectors()]
    refused(TaskError, lambda: pg.build(task_of(train=batches)), says, "leave it out")


def test_a_batch_that_is_a_bare_tensor() -> None:
    batches = [b["x"] for b in models.vectors()]
    refused(TaskError, lambda: pg.build(task_of(train=batches, eval=batches)), "batch", "dict or tuple")


def test_a_mistyped_fresh_glob() -> None:
    refused(
        TaskError,
        lambda: task_of(fresh=("layer.4.weight",)),
        "'layer.4.weight'",
        "matches no parameter",
        "Did you mean",
    )


# ---------------------------------------------------------------- models


def test_control_flow_that_depends_on_data() -> None:
    """The message names the user's own line."""
    message = refused(
        CaptureError,
        lambda: pg.build(models.branching()),
        "'branching'",
        "models.py:",
        "control flow",
        "torch.where",
    )
    line = int(re.findall(r"models\.py:(\d+)", message)[0])
    assert "# the branch" in linecache.getline(models.__file__, line)


class ReadsOut(models.MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * x.sum().item()  # reads a value out


class PicksRows(models.MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[x[:, 0] > 0])  # a shape that depends on values


class Asks(models.MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (1 if bool((x > 0).any()) else 0)  # a hidden branch


@pytest.mark.parametrize(
    ("net", "says"),
    [(ReadsOut, "a Python number"), (PicksRows, "one fixed graph"), (Asks, "one fixed graph")],
)
def test_other_ways_to_depend_on_data(net: type[models.MLP], says: str) -> None:
    task = task_of(model=models.randomised(net()), loss=lambda net, b: net(b["x"]).sum())
    message = refused(CaptureError, lambda: pg.build(task), "'bad'", "test_bad_input.py:", says)
    line = int(re.findall(r"test_bad_input\.py:(\d+)", message)[0])
    assert "super().forward" in linecache.getline(__file__, line)


def test_build_runs_no_batch_norm_for_real() -> None:
    data = models.images()
    net = models.randomised(models.MobileNet())
    task = models.task_of("norms", net, data, lambda net, b: net(b["x"]))
    net.train()
    pg.build(task)
    assert int(net.get_buffer("stem.1.num_batches_tracked")) == 0


def test_a_model_that_raises() -> None:
    """The user's own mistake keeps its words and its line."""

    def loss(net: nn.Module, b: Batch) -> torch.Tensor:
        return F.cross_entropy(net(b["x"][:, :5]), b["y"])  # a wrong width

    message = refused(CaptureError, lambda: pg.build(task_of(loss=loss)), "'bad'", "the loss")
    assert any(name in message for name in ("models.py:", "test_bad_input.py:"))


def test_an_operator_without_a_derivative() -> None:
    """Found only when the backward pass is traced, which is no reason for a bare traceback."""

    def loss(net: nn.Module, b: Batch) -> torch.Tensor:
        return torch.special.zeta(net(b["x"]).abs() + 2, torch.tensor(2.0)).sum()

    refused(CaptureError, lambda: pg.build(task_of(loss=loss)), "'bad'", "the loss", "zeta")


def test_a_batch_without_the_key_that_the_loss_wants() -> None:
    refused(
        CaptureError,
        lambda: pg.build(task_of(loss=lambda net, b: net(b["image"]).sum())),
        "'bad'",
        "image",
        "test_bad_input.py:",
    )


def test_a_model_without_parameters() -> None:
    task = task_of(
        model=nn.Flatten(), loss=lambda net, b: net(b["x"]).sum(), metric=lambda net, b: net(b["x"])[:, 0]
    )
    refused(TaskError, lambda: pg.build(task), "'bad'", "depends on no parameter")


def test_every_error_is_a_pock_error() -> None:
    for kind in (TaskError, CaptureError, PlanError, BudgetError):
        assert issubclass(kind, PockError)
