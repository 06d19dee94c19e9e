"""Bad input gets one paragraph that says what is wrong, where, and what to do; files stay whole."""

from __future__ import annotations

import json
import linecache
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from oracle import built
from torch import nn

import pockgraph as pg
from pockgraph.errors import BudgetError, CaptureError, PlanError, PockError, TaskError
from pockgraph.plan import Plan, Trained
from pockgraph.task.batch import Batch

WIDE = "blocks.2.project.weight"  # 12 channels along dim 1


def refused(kind: type[PockError], act: Callable[[], object], *says: str) -> str:
    """The message of the error that `act` raises: one paragraph, with everything in `says`."""
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message.strip(), "one paragraph"
    assert 40 <= len(message) <= 700, message
    assert message.rstrip()[-1] in ".?", message
    for part in says:
        assert part in message, f"{part!r} is not in: {message}"
    return message


def task_of(**changes: Any) -> pg.Task:
    """A good task, but for `changes`."""
    good: dict[str, Any] = {
        "name": "bad",
        "model": models.randomised(models.MLP()),
        "loss": lambda net, b: F.cross_entropy(net(b["x"]), b["y"]),
        "metric": lambda net, b: (net(b["x"]).argmax(1) == b["y"]).float(),
        "train": models.vectors(),
        "eval": models.vectors(),
    }
    return pg.Task(**(good | changes))


# ---------------------------------------------------------------- plans for another model


def test_a_plan_for_another_model() -> None:
    plan = Plan.head(built("mlp"))
    message = refused(
        PlanError,
        lambda: built("mobilenet").prune(plan),
        "another model",
        "'mlp'",
        "layers.0.weight",
        "which the model lacks",
        "stem.0.weight",
        "Plan.of",
    )
    assert "more" in message, "a long list is cut"


def test_a_plan_for_the_same_names_with_other_shapes() -> None:
    data = models.vectors(width=10)
    wider = pg.build(task_of(model=models.randomised(models.MLP(10)), train=data, eval=data))
    refused(
        PlanError,
        lambda: wider.prune(Plan.head(built("mlp"))),
        "shapes differ",
        "layers.0.weight (8, 12) -> (8, 10)",
    )


def test_a_plan_file_for_another_model(tmp_path: Path) -> None:
    Plan.head(built("mlp")).save(tmp_path / "plan.json")
    refused(
        PlanError,
        lambda: Plan.load(tmp_path / "plan.json", built("bert")),
        "another model",
        "layers.4.weight",
    )


# ---------------------------------------------------------------- plans that name the wrong thing


def test_a_mistyped_tensor() -> None:
    refused(
        PlanError,
        lambda: Plan.of(built("mobilenet"), {"blocks.2.projct.weight": 1.0}),
        "'blocks.2.projct.weight'",
        "Did you mean 'blocks.2.project.weight'",
    )


def test_a_tensor_that_is_nothing_like_any() -> None:
    refused(PlanError, lambda: Plan.of(built("mobilenet"), {"zzz": 1.0}), "'zzz'")


def test_an_unused_parameter() -> None:
    refused(
        PlanError,
        lambda: Plan.of(built("unused"), {"spare.weight": 1.0}),
        "spare.weight",
        "does not depend",
        "Leave",
    )


def test_another_name_of_a_tied_tensor() -> None:
    refused(
        PlanError,
        lambda: Plan.of(built("tied"), {"decoder.weight": 1.0}),
        "'decoder.weight'",
        "tied",
        "Plan 'embedding.weight'",
    )


@pytest.mark.parametrize("ratio", [-0.1, 1.5, 2, float("nan"), float("inf")])
def test_a_ratio_out_of_range(ratio: float) -> None:
    refused(
        PlanError, lambda: Plan.of(built("mobilenet"), {WIDE: ratio}), WIDE, "between 0 and 1", str(ratio)
    )


@pytest.mark.parametrize("channels", [[12], [-1], [0, 5, 99]])
def test_channels_out_of_range(channels: list[int]) -> None:
    refused(
        PlanError,
        lambda: Plan.of(built("mobilenet"), {WIDE: channels}),
        WIDE,
        "0 to 11",
        "dim 1",
        str(next(c for c in channels if not 0 <= c < 12)),
    )


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Trained(dim=4, channels=(0,)), ["no dim 4", "(6, 12, 1, 1)"]),
        (Trained(dim=0, channels=(0, 6)), ["0 to 5", "dim 0", "[6]"]),
    ],
)
def test_channels_of_a_dimension_that_is_not_there(part: Trained, says: list[str]) -> None:
    refused(PlanError, lambda: Plan.of(built("mobilenet"), {WIDE: part}), WIDE, *says)


@pytest.mark.parametrize("what", [0.5, [0, 1]])
@pytest.mark.parametrize(
    ("name", "fqn"),
    [("transformer", "position"), ("tied", "embedding.weight")],
)
def test_a_part_of_a_tensor_without_channels(name: str, fqn: str, what: Any) -> None:
    refused(PlanError, lambda: Plan.of(built(name), {fqn: what}), fqn, "whole or not at all", "Use 1.0")


@pytest.mark.parametrize("what", ["0.5", None, [0.5], {"ratio": 1}, True])
def test_a_choice_that_is_neither_ratio_nor_channels(what: Any) -> None:
    refused(PlanError, lambda: Plan.of(built("mobilenet"), {WIDE: what}), WIDE, repr(what))


def test_an_unknown_way_to_pick_channels() -> None:
    refused(
        PlanError, lambda: Plan.of(built("mobilenet"), {WIDE: 0.5}, channels="best"), "'best'", "magnitude"
    )  # pyright: ignore


def test_a_plan_that_trains_nothing() -> None:
    refused(
        PlanError, lambda: built("mlp").prune(Plan.of(built("mlp"), {})), "trains nothing", "Plan.head(graph)"
    )


# ---------------------------------------------------------------- plan files


def plan_data() -> dict[str, Any]:
    return json.loads(Plan.of(built("mobilenet"), {WIDE: 0.25, "classifier.bias": 1.0}).to_json())


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], str]:
    def make(_: Path) -> str:
        data = plan_data()
        change(data)
        return json.dumps(data)

    return make


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["tensors"][WIDE].update(channels=[0, 12]), ["channel 12", "dim 1"]),
        (lambda d: d["tensors"][WIDE].update(channels=[1, 0]), ["sorted and distinct"]),
        (lambda d: d["tensors"][WIDE].update(channels=[3, 3]), ["sorted and distinct"]),
        (lambda d: d["tensors"][WIDE].update(channels=[-1, 2]), ["start at 0"]),
        (lambda d: d["tensors"][WIDE].update(channels=[]), ["leave a frozen tensor out"]),
        (lambda d: d["tensors"][WIDE].update(channels=["a"]), [f"tensors.{WIDE}.channels.0"]),
        (lambda d: d["tensors"][WIDE].update(channels=None), ["together, or neither"]),
        (lambda d: d["tensors"][WIDE].update(dim=7), ["dim 7"]),
        (
            lambda d: d["tensors"].update({"blocks.2.projct.weight": {}}),
            ["not in the plan's model", "Did you mean"],
        ),
        (lambda d: d.update(tensor={}), ["tensor: there is no such entry"]),
        (lambda d: d.pop("model"), ["model: it is missing"]),
        (lambda d: d["model"].update({WIDE: "wide"}), [f"model.{WIDE}"]),
    ],
)
def test_an_edited_plan_file(
    change: Callable[[dict[str, Any]], object], says: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    data = plan_data()
    change(data)
    file.write_text(json.dumps(data))
    refused(PlanError, lambda: Plan.load(file), str(file), *says)
    assert json.loads(file.read_text()) == data, "reading damaged the file"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ["not JSON", "line 1"]),
        ("trained: all", ["not JSON"]),
        ("[]", ["not a valid plan"]),
        ("null", ["not a valid plan"]),
        ('{"schema": "pockui.plan/2"}', ["'pockui.plan/2'", "'pockui.plan/1'"]),
        ("{}", ["None", "'pockui.plan/1'"]),
    ],
)
def test_a_file_that_is_no_plan(text: str, says: list[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    refused(PlanError, lambda: Plan.load(file), str(file), *says)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_plan_file(keep: float, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    text = Plan.full(built("mobilenet")).to_json()
    file.write_text(text[: int(keep * len(text))])
    refused(PlanError, lambda: Plan.load(file), str(file), "not JSON", "line")


def test_a_plan_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    refused(PlanError, lambda: Plan.load(tmp_path / "absent.json"), "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    refused(PlanError, lambda: Plan.load(tmp_path / "binary.json"), "binary.json")
    refused(PlanError, lambda: Plan.load(tmp_path), str(tmp_path))


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
    refused(TaskError, lambda: task_of(**{which: nothing}), f"`{which}`", "no batches")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("a caption", "'note' is a str"),
        ([1, 2], "'note' is a list"),
        (3, "'note' is a int"),
        (None, "'note' is a NoneType"),
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
