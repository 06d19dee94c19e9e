"""Plans of another model, mistyped, out of range or damaged: a paragraph says what, where, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
from oracle import built
from refusals import refused, task_of

import pockgraph as pg
from pockgraph.errors import PlanError
from pockgraph.plan import Plan, Trained

WIDE = "blocks.2.project.weight"  # 12 channels along dim 1


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
        "Make a plan for this model",
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


def test_a_tensor_whose_name_is_like_no_other() -> None:
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
        (lambda d: d["tensors"][WIDE].update(channels=[True]), [f"{WIDE}.channels.0", "a whole number"]),
        (lambda d: d["tensors"][WIDE].update(channels=[1.0]), [f"{WIDE}.channels.0", "a whole number"]),
        (lambda d: d["tensors"][WIDE].update(dim="1"), [f"{WIDE}.dim", "a whole number"]),
        (lambda d: d["model"][WIDE].__setitem__(0, "6"), [f"model.{WIDE}.0", "a whole number"]),
        (lambda d: d["batch"]["x"]["shape"].__setitem__(0, True), ["batch.x.shape.0", "a whole number"]),
        (lambda d: d.update(dropout="yes"), ["dropout"]),
        (lambda d: d["tensors"][WIDE].update(channels=None), ["together, or neither"]),
        (lambda d: d["tensors"][WIDE].update(dim=7), ["dim 7"]),
        (
            lambda d: d["tensors"].update({"blocks.2.projct.weight": {}}),
            ["is not in the plan's model (did you mean 'blocks.2.project.weight'", "?)."],
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
