"""Indices that a model or a loss computes from the batch.

What is always legal trains as in eager PyTorch; where PyTorch would raise an IndexError, nothing is trained,
and nothing out of bounds is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import CLASSES, MOMENTUM, assert_as_eager, batches, in_turn, task

import pockgraph as pg
from pockgraph.errors import BatchError, NonFiniteLoss, TaskError
from pockgraph.runtime.result_marks import failed_check
from pockgraph.train_graph import TrainGraph

ROWS = 10
Loss = Callable[[nn.Module, Any], Tensor]


class Tables(nn.Module):
    """Features `[N, 12]`, and a table of ROWS rows that ids of any shape are looked up in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.table = nn.Linear(12, CLASSES), nn.Embedding(ROWS, 12)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        looked_up = self.table(ids)
        return self.head(torch.tanh(x + (looked_up.mean(1) if looked_up.ndim > 2 else looked_up)))


def looking_up(ids: Callable[[Any], Tensor]) -> Loss:
    return lambda m, b: F.cross_entropy(m(b["x"], ids(b)), b["y"])


def data(**entries: Tensor) -> list[dict[str, Tensor]]:
    return [{**batch, **entries} for batch in batches(4, 12)]


IDS = torch.tensor([3, 0, 9, 4])
MASK = torch.tensor([True, False, True, True])
TOKENS = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 0, 0]])

# What the loss does -> the loss, a good batch's entries, and entries for which PyTorch raises an IndexError.
REFUSED: dict[str, tuple[Loss, dict[str, Tensor], dict[str, Tensor]]] = {
    "clamps one end": (
        looking_up(lambda b: b["ids"].clamp(max=ROWS - 1)),
        {"ids": IDS}, {"ids": torch.tensor([3, -1, 50, 4])},
    ),
    "chooses": (
        looking_up(lambda b: torch.where(b["mask"], b["ids"], 0)),
        {"ids": torch.tensor([3, 99, 9, 4]), "mask": MASK}, {"ids": torch.tensor([3, 99, 10, 4])},
    ),
    "counts": (
        looking_up(lambda b: b["seen"].cumsum(1) + 4), {"seen": TOKENS}, {"seen": 2 * TOKENS}
    ),
    "adds entries": (
        looking_up(lambda b: b["row"] * 5 + b["column"]),
        {"row": torch.tensor([0, 1, 1, 0]), "column": torch.tensor([4, 0, 4, 1])},
        {"column": torch.tensor([4, 0, 5, 1])},
    ),
    "joins entries": (
        looking_up(lambda b: torch.cat([b["first"], b["second"]], 1)),
        {"first": TOKENS, "second": TOKENS + 2}, {"second": TOKENS + 9},
    ),
    "rounds": (
        looking_up(lambda b: (b["x"].abs() * 0 + b["at"][:, None]).mean(1).long()),
        {"at": torch.tensor([0.5, 9.9, 3.0, 1.0])}, {"at": torch.tensor([0.5, 10.1, 3.0, 1.0])},
    ),
    "casts": (
        looking_up(lambda b: b["at"].long()),
        {"at": torch.tensor([-0.5, 9.9, 3.0, 1.0])}, {"at": torch.tensor([0.5, 10.0, 3.0, 1.0])},
    ),
    "searches": (
        looking_up(lambda b: torch.bucketize(b["at"], torch.arange(12.0))),
        {"at": torch.tensor([0.5, 8.9, 3.0, 1.0])}, {"at": torch.tensor([0.5, 10.1, 3.0, 1.0])},
    ),
    "masks labels": (
        lambda m, b: F.cross_entropy(m(b["x"], b["ids"]), torch.where(b["mask"], b["label"], -100)),
        {"ids": IDS, "mask": MASK, "label": torch.tensor([1, 77, 4, 0])},
        {"label": torch.tensor([1, 77, 5, 0])},
    ),
    "picks": (
        lambda m, b: -m(b["x"], b["ids"]).log_softmax(1)[torch.arange(4), b["y"] - b["shift"]].mean(),
        {"ids": IDS, "shift": torch.tensor([0, 1, 0, 2])}, {"shift": torch.tensor([0, 1, 0, -9])},
    ),
    "gathers": (
        lambda m, b: -m(b["x"], b["ids"]).log_softmax(1).gather(1, (b["a"] - b["b"])[:, None]).mean(),
        {"ids": IDS, "a": torch.tensor([4, 3, 2, 4]), "b": torch.tensor([0, 3, 1, 1])},
        {"b": torch.tensor([0, 3, 3, 1])},
    ),
    "encodes": (
        lambda m, b: (F.one_hot(b["a"] // b["b"], CLASSES) * m(b["x"], b["ids"])).mean(),
        {"ids": IDS, "a": torch.tensor([4, 9, 6, 0]), "b": torch.tensor([1, 3, 2, 1])},
        {"a": torch.tensor([5, 9, 6, 0])},
    ),
    "scatters": (
        lambda m, b: m(b["x"], b["ids"]).new_zeros(6).scatter_add(
            0, b["a"] + b["b"], m(b["x"], b["ids"])[:, 0]).square().sum(),
        {"ids": IDS, "a": torch.tensor([4, 0, 2, 0]), "b": torch.tensor([1, 3, 2, 1])},
        {"b": torch.tensor([2, 3, 2, 1])},
    ),
}  # fmt: skip

# Never out of bounds, whatever the batch holds.
LEGAL: dict[str, tuple[Loss, dict[str, Tensor], dict[str, Tensor]]] = {
    "clamps": (looking_up(lambda b: b["ids"].clamp(0, ROWS - 1)), {"ids": IDS}, {"ids": 100 - 60 * IDS}),
    "folds": (looking_up(lambda b: b["ids"] % ROWS), {"ids": IDS}, {"ids": 1003 - 700 * IDS}),
    "compares": (looking_up(lambda b: (b["x"] > 0).long()), {}, {"x": torch.full((4, 12), -3.0)}),
    "takes the largest": (
        looking_up(lambda b: b["x"][:, :ROWS].argmax(1)), {}, {"x": torch.full((4, 12), 2.0)}
    ),
    "folds and adds": (
        looking_up(lambda b: b["ids"] % 4 + torch.where(b["mask"], b["ids"].clamp(0, 5), 0)),
        {"ids": IDS, "mask": MASK}, {"ids": 100 - 60 * IDS},
    ),
}  # fmt: skip


def field(loss: Loss, entries: dict[str, Tensor]) -> pg.Task:
    return task(Tables(), data(**entries), loss=loss, metric=lambda m, b: m.head(b["x"]).sum(1))


@functools.cache
def graph_of(what: str) -> TrainGraph:
    """Built once for all targets."""
    return pg.build(field(*(REFUSED | LEGAL)[what][:2]), MOMENTUM)


def compiled(what: str, target: str, out: Path) -> pg.Trainer:
    return pg.compile(graph_of(what), target=target, out=out, parity=False).trainer()


@pytest.mark.parametrize(("what", "target"), in_turn(REFUSED))
def test_an_index_out_of_bounds_that_the_loss_computes(what: str, target: str, tmp_path: Path) -> None:
    loss, good, bad = REFUSED[what]
    right = data(**good)[0]
    with pytest.raises((IndexError, RuntimeError)):
        loss(Tables(), {**right, **bad})
    trainer = compiled(what, target, tmp_path / "o")
    assert np.isfinite(trainer.step(right).loss)
    before = trainer.state()
    words = r"index that the model computes from the batch is out of bounds: .*test_field_indices\.py"
    with pytest.raises(BatchError, match=words):
        trainer.step({**right, **bad}, on_nonfinite="skip")
    assert all(np.array_equal(before[k], v) for k, v in trainer.state().items())
    assert trainer.steps == 1
    trainer.step(right)


def test_a_first_batch_with_such_an_index_is_not_compiled(tmp_path: Path) -> None:
    loss, good, bad = REFUSED["adds entries"]
    with pytest.raises(
        TaskError, match=r"first training batch of task 'field': IndexError: index out of range"
    ):
        pg.compile(pg.build(field(loss, {**good, **bad}), MOMENTUM), out=tmp_path / "o")


@pytest.mark.parametrize(("what", "target"), in_turn(LEGAL))
def test_an_index_that_is_always_within_bounds(what: str, target: str, tmp_path: Path) -> None:
    loss, good, other = LEGAL[what]
    trainer = compiled(what, target, tmp_path / "o")
    assert not trainer.manifest.train_guards
    batch = {**data(**good)[0], **other}
    with torch.no_grad():
        eager = float(loss(Tables(), batch))
    assert trainer.step(batch).loss == pytest.approx(eager, rel=1e-5)


@pytest.mark.parametrize(("what", "target"), in_turn(["chooses", "counts", "masks labels", "picks"]))
def test_computed_indices_train_as_in_eager_pytorch(what: str, target: str) -> None:
    assert_as_eager(field(*REFUSED[what][:2]), target)


def test_an_evaluation_that_computes_an_index_out_of_bounds(target: str, tmp_path: Path) -> None:
    right = data(a=IDS, b=torch.zeros(4, dtype=torch.int64))
    metric = lambda m, b: m.table(b["a"] + b["b"]).sum(1)  # noqa: E731
    loss = looking_up(lambda b: b["a"] * 0)
    trainer = pg.compile(
        pg.build(task(Tables(), right, loss=loss, metric=metric), MOMENTUM), target=target, out=tmp_path / "o"
    ).trainer()
    assert np.isfinite(trainer.evaluate(right).values).all()
    with pytest.raises(BatchError, match=r"evaluation of a batch an index that the model computes"):
        trainer.evaluate([{**right[0], "b": torch.tensor([0, 0, 1, 0])}])


class Counting(nn.Module):
    """Looks up the number of the step."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(3, 12), nn.Linear(12, CLASSES)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x + self.table(self.steps.clone()))
        self.steps += 1
        return x


def test_a_counter_that_runs_beyond_its_table(target: str, tmp_path: Path) -> None:
    batch = batches(4, 12, count=1)
    graph = pg.build(task(Counting(), batch, metric=lambda m, b: m.head(b["x"]).sum(1)), MOMENTUM)
    trainer = pg.compile(graph, target=target, out=tmp_path / "o").trainer()
    for _ in range(3):
        trainer.step(batch[0])
    with pytest.raises(BatchError, match="ids of an embedding of 3 rows"):
        trainer.step(batch[0])
    assert int(trainer.state()["steps"]) == 3


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64, torch.float16])
def test_a_metric_of_any_dtype_that_computes_an_index(dtype: torch.dtype, tmp_path: Path) -> None:
    right = data(a=IDS, b=torch.zeros(4, dtype=torch.int64))
    metric = lambda m, b: (m.table(b["a"] + b["b"]).sum(1) > 0).to(dtype)  # noqa: E731
    made = task(Tables(), right, loss=looking_up(lambda b: b["a"] * 0), metric=metric)
    trainer = pg.compile(pg.build(made, MOMENTUM), target="torch", out=tmp_path / "o").trainer()
    assert trainer.evaluate(right).metric == metric(made.model, right[0]).float().mean()
    with pytest.raises(BatchError, match=r"evaluation of a batch an index that the model computes"):
        trainer.evaluate([{**right[0], "b": torch.tensor([0, 0, 1, 0])}])


def test_a_loss_of_minus_infinity_beside_a_computed_index_is_no_index_error(
    target: str, tmp_path: Path
) -> None:
    right = data(a=IDS, b=torch.zeros(4, dtype=torch.int64), scale=torch.ones(()))
    ids = lambda b: b["a"] + b["b"]  # noqa: E731
    trainer = pg.compile(
        pg.build(
            task(
                Tables(), right,
                loss=lambda m, b: looking_up(ids)(m, b) + b["scale"].log(),
                metric=lambda m, b: m.table(ids(b)).sum(1) + 0 * b["scale"].log(),
            ),
            MOMENTUM,
        ),
        target=target, out=tmp_path / "o",
    ).trainer()  # fmt: skip
    bad = {**right[0], "scale": torch.zeros(())}
    assert trainer.manifest.train_guards
    with pytest.raises(NonFiniteLoss, match="the loss became -inf"):
        trainer.step(bad)
    assert trainer.step(bad, on_nonfinite="skip").skipped
    assert np.isnan(trainer.evaluate([bad]).values).all()


class Bags(nn.Module):
    """Bags of ids that begin at offsets, with the last offset or without."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag, self.out = nn.EmbeddingBag(9, 6, include_last_offset=last), nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.out(self.bag(ids, offsets))


def bags(last: bool, offsets: list[int], make: Callable[[Tensor], Tensor] = lambda o: o) -> pg.Task:
    entries = {"ids": torch.arange(8), "offsets": torch.tensor(offsets), "y": torch.arange(4) % CLASSES}
    look = lambda m, b: m(b["ids"], make(b["offsets"]))  # noqa: E731
    return task(
        Bags(last), [entries] * 3,
        loss=lambda m, b: F.cross_entropy(look(m, b), b["y"]), metric=lambda m, b: look(m, b).sum(1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("last", "right", "wrong", "words"),
    [
        (False, [0, 2, 4, 4], [1, 2, 4, 4], r"holds 1 at \[0\].* first offsets of .* 8 ids: 0\. Let"),
        (False, [0, 2, 4, 4], [0, 5, 4, 4], "not in ascending order, as offsets of an embedding bag"),
        (False, [0, 2, 4, 8], [0, 2, 4, 9], r"holds 9 at \[3\].* 8 ids: 0 to 8"),
        (True, [0, 2, 4, 4, 8], [0, 2, 4, 4, 7], r"holds 7 at \[4\].* last offsets of .* 8 ids: 8\. Let"),
    ],
)
def test_offsets_of_bags_that_pytorch_refuses(
    last: bool, right: list[int], wrong: list[int], words: str, tmp_path: Path
) -> None:
    made = bags(last, right)
    trainer = pg.compile(pg.build(made, MOMENTUM), target="torch", out=tmp_path / "o").trainer()
    trainer.step(made.example)
    with pytest.raises(BatchError, match=words):
        trainer.step({**made.example, "offsets": torch.tensor(wrong)})


def starts_of(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])


@pytest.mark.parametrize(
    ("make", "right", "wrong"),
    [(starts_of, [2, 2, 2, 2], [2, 2, -1, 2]), (lambda o: o * o, [0, 1, 2, 2], [1, 1, 2, 2])],
)
def test_offsets_of_bags_that_are_computed(
    make: Callable[[Tensor], Tensor], right: list[int], wrong: list[int], target: str, tmp_path: Path
) -> None:
    made = bags(False, right, make)
    assert_as_eager(made, target)
    graph = pg.build(made, MOMENTUM)
    trainer = pg.compile(graph, target=target, out=tmp_path / "o", parity=False).trainer()
    with pytest.raises(BatchError, match=r"index that the model computes.*offsets of an embedding bag"):
        trainer.step({**made.example, "offsets": torch.tensor(wrong)})


class Filled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        x = self.first(x)
        x = x.index_fill(1, where, 0.3).index_fill(-1, torch.tensor([-2, 0]), torch.tensor(0.5))
        return self.last(x.index_fill_(1, -x.detach().argmax(1)[:1] - 1, 0.1))


def test_places_to_fill_that_are_counted_from_the_end(target: str, tmp_path: Path) -> None:
    made = task(
        Filled(), data(where=torch.tensor([-1, 2])),
        loss=lambda m, b: F.cross_entropy(m(b["x"], b["where"]), b["y"]),
        metric=lambda m, b: m(b["x"], b["where"]).sum(1),
    )  # fmt: skip
    assert_as_eager(made, target)
    graph = pg.build(made, MOMENTUM)
    trainer = pg.compile(graph, target=target, out=tmp_path / "o", parity=False).trainer()
    with pytest.raises(BatchError, match=r"'where'.*holds -7 at \[0\].*-6 to 5"):
        trainer.step({**made.example, "where": torch.tensor([-7, 2])})


def test_what_artefacts_of_an_older_version_say_of_an_index_out_of_bounds() -> None:
    what = {"indices": ("ids",), "integers": (), "numbered": False}
    assert "out of bounds: ids" in failed_check(float("-inf"), **what)
    assert "out of bounds: ids" in failed_check(np.full(3, np.nan), **what)
    assert not failed_check(float("nan"), **what)
    assert not failed_check(np.array([np.nan, 1.0]), **what)


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("what", ["adds entries", "encodes"])
def test_an_analysis_of_data_with_such_an_index(what: str, part: str, tmp_path: Path) -> None:
    loss, good, bad = REFUSED[what]
    right = data(**good)
    parts = {"train": right, "validation": right, part: [*right[:2], {**right[2], **bad}]}
    metric = lambda m, b: m.head(b["x"]).sum(1) + loss(m, b)  # noqa: E731
    made = pg.Task("field", Tables(), loss, metric, parts["train"], right, validation=parts["validation"])
    words = rf"In batch \d.*`{part}` an index that the model computes.*out of bounds: .*test_field_indices"
    with pytest.raises(BatchError, match=words):
        pg.Study(tmp_path / "s.db", made).analyze(steps=3, ratios=(1.0,), seeds=(0,), lr=0.01, target="torch")
