"""What a task says of its prediction: refused where it cannot be one, when it is made or built."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tiny_task import OPTIMIZERS, logits, make_task, named_logits
from torch import Tensor, nn

from pockgraph.errors import CaptureError, TaskError
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.builder import build
from pockgraph.train_graph.predictions import trace_predictions

IMAGES = {"image": torch.randn(2, 3, 6, 6)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"predict": 3}, ["`predict` is a int", "predict(model, batch)"]),
        ({"predict_batch": IMAGES}, ["`predict_batch` is given, but no `predict`"]),
        ({"predict_sizes": (1,)}, ["`predict_sizes` is given, but no `predict`"]),
        ({"predict": logits, "predict_sizes": 4}, ["predict_sizes=4", "(1, 8)"]),
        ({"predict": logits, "predict_sizes": ()}, ["empty"]),
        ({"predict": logits, "predict_sizes": (1, 0)}, ["'0' is no batch size"]),
        ({"predict": logits, "predict_sizes": (True,)}, ["'True' is no batch size"]),
        ({"predict": logits, "predict_batch": torch.zeros(3)}, ["`predict_batch`", "dict or tuple"]),
        ({"predict": logits, "predict_batch": {"x": torch.zeros(0, 3)}}, ["no samples"]),
    ],
)
def test_what_cannot_be_a_prediction_is_refused(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TaskError) as e:
        dataclasses.replace(make_task(), **given)
    for word in ("Task 'tiny'", *words):
        assert word in str(e.value)


def squeezed(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["x"])[:, :1].squeeze()


def branching(model: nn.Module, batch: Any) -> Tensor:
    found = model(batch["x"])
    return found if found.sum() > 0 else -found


@pytest.mark.parametrize(
    ("given", "refusal", "words"),
    [
        ({"predict": lambda m, b: [m(b["x"])]}, TaskError, ["gives a list", "dict of named tensors"]),
        ({"predict": lambda m, b: {}}, TaskError, ["empty dict"]),
        ({"predict": lambda m, b: {"n": 3}}, TaskError, ["'n' as a int"]),
        ({"predict": lambda m, b: {1: m(b["x"])}}, TaskError, ["the name '1'"]),
        ({"predict": lambda m, b: m.head.weight * 2}, TaskError, ["reads nothing of the batch"]),
        ({"predict": lambda m, b: m(b["image"])}, CaptureError, ["prediction", "image"]),
        ({"predict": squeezed}, TaskError, ["a tensor [8]", "[] for one of 1", "predict_sizes=(8,)"]),
        ({"predict": lambda m, b: m(b["x"]).mean(), "predict_sizes": (4,)}, TaskError, ["no row for each"]),
        ({"predict": branching}, CaptureError, ["the prediction cannot be turned into one static graph"]),
        ({"predict": lambda m, b: torch.fft.fft(m(b["x"]))}, TaskError, ["complex"]),
    ],
)  # fmt: skip
def test_what_is_no_prediction_is_refused_when_it_is_built(
    given: dict[str, Any], refusal: type[Exception], words: list[str]
) -> None:
    with pytest.raises(refusal) as e:
        trace_predictions(dataclasses.replace(make_task(), **given))
    for word in ("'tiny'", *words):
        assert word in str(e.value)


def test_sizes_and_entries() -> None:
    def sizes_and_entries(**given: Any) -> tuple[list[int | None], list[str]]:
        found = trace_predictions(dataclasses.replace(make_task(), **given))
        return [p.samples for p in found], [s.fqn for s in found[0].graph.inputs if s.role == "batch"]

    assert not trace_predictions(make_task())
    assert sizes_and_entries(predict=logits) == ([1, 8], ["x"])
    assert sizes_and_entries(predict=logits, predict_sizes=[16, 2, 16]) == ([2, 16], ["x"])
    images = {**IMAGES, "unread": torch.zeros(2)}
    assert sizes_and_entries(predict=named_logits, predict_batch=images) == ([1, 2], ["image", "unread"])
    assert sizes_and_entries(predict=lambda m, b: m(b["x"]).mean()) == ([None], ["x"])


def test_the_model_predicts_in_evaluation_mode_and_is_left_alone() -> None:
    task = dataclasses.replace(make_task(), predict=logits, batch_norm="batch", dropout=True)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    graph = build(task, OPTIMIZERS["sgd"])
    assert isinstance(graph, TrainGraph)
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    for prediction in graph.prediction_graphs():
        read = {s.name for s in prediction.graph.inputs if s.is_state}
        assert {"buffer:norm.running_mean", "buffer:norm.running_var", "trained:head.weight"} <= read
    assert not graph.without_predictions().prediction_graphs()
