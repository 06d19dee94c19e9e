"""Batches as tokenizers, datasets and graph libraries give them."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import CLASSES, assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import CaptureError, TaskError

DATA = batches(4, 12)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Encoded(UserDict):
    """As a tokenizer of transformers gives it: a dict whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self.data[name]


@pytest.mark.parametrize("form", [Pair, Encoded])
def test_batches_with_attributes_train(form: Callable[..., Any], tmp_path: Path) -> None:
    made = task(
        mlp(), [form(**b) for b in DATA],
        lambda m, b: F.cross_entropy(m(b.x), b.y), lambda m, b: m(b.x).sum(1),
        predict=lambda m, b: m(b.x).softmax(1),
    )  # fmt: skip
    trainer = pg.compile(pg.build(made, pg.SGD(lr=0.1)), target="torch", out=tmp_path / "out").trainer()
    expected = float(F.cross_entropy(made.model(DATA[0]["x"]), DATA[0]["y"]).detach())
    assert trainer.step(form(**DATA[0])).loss == pytest.approx(expected, rel=1e-5)


A = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
NESTED = torch.nested.nested_tensor([torch.zeros(3, 2), torch.zeros(1, 2)], layout=torch.jagged)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (A.to_sparse(), r"'A' is sparse\. Pass its \.to_dense\(\), or its indices"),
        (NESTED, r"'A' is a nested tensor\. Pad it, and pass the lengths"),
        (A.to("meta"), r"'A' is on meta\. .* pass its \.cpu\(\)"),
        ({"of": A}, r"'A' is of type dict\. Make its tensors entries of their own"),
        (4, r"'A' is of type int\. Convert it, or leave it out"),
    ],
    ids=["sparse", "nested", "without data", "dict", "int"],
)
def test_an_entry_that_is_no_dense_tensor_is_refused(value: Any, words: str) -> None:
    with pytest.raises(TaskError, match=rf"`train`: A batch must hold .*{words}"):
        task(mlp(), [{**b, "A": value} for b in DATA])


class Neighbours(nn.Module):
    def __init__(self, adjacency: Tensor, is_buffer: bool = False) -> None:
        super().__init__()
        self.out = nn.Linear(12, CLASSES)
        if is_buffer:
            self.register_buffer("adjacency", adjacency)
        else:
            self.adjacency = adjacency

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.adjacency @ x)


def test_a_sparse_matrix_in_the_model_is_refused_with_what_to_take() -> None:
    with pytest.raises(TaskError, match=r"'adjacency' is sparse, .*Take \.to_dense\(\)"):
        pg.build(task(Neighbours(A.to_sparse(), is_buffer=True), DATA))
    with pytest.raises(
        CaptureError, match=r"batch_forms\.py:\d+: it computes with a sparse tensor.*index_add"
    ):
        pg.build(task(Neighbours(A.to_sparse()), DATA))


def test_rows_that_are_gathered_and_added_are_that_matrix() -> None:
    rows, columns = A.nonzero().unbind(1)

    def loss(m: Any, b: Any) -> Tensor:
        x, values = b["x"], A[rows, columns]
        h = x.new_zeros(4, 12).index_add(0, rows, values.to(x.dtype)[:, None] * x[columns])
        return F.cross_entropy(m.out(h), b["y"])

    made = task(Neighbours(A), DATA, loss, lambda m, b: m.out(b["x"]).sum(1))
    assert float(loss(made.model, DATA[0]).detach()) == pytest.approx(
        float(F.cross_entropy(made.model(DATA[0]["x"]), DATA[0]["y"]).detach())
    )
    assert_as_eager(made, "onnx")
