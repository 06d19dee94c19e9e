"""Task: batches come again, in repeatable orders, under names."""

from __future__ import annotations

import itertools

import models
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import zoo
from torch.utils.data import DataLoader, TensorDataset

import pockgraph as pg
from pockgraph.errors import TaskError
from pockgraph.task.batch import Batch, as_named, check_batch


def rows(batches: list[Batch]) -> list[int]:
    return torch.cat([b["x"][:, 0] for b in batches]).long().tolist()


def numbered(n: int, size: int, **options: object) -> pg.Batches:
    """Samples whose first value is their number."""
    x = np.arange(n, dtype=np.float32)[:, None].repeat(2, 1)
    return pg.Batches({"x": x, "y": np.arange(n)}, size, **options)  # pyright: ignore


# ---------------------------------------------------------------- Batches


@given(st.integers(1, 20), st.integers(1, 7), st.booleans(), st.integers(0, 3))
def test_batches_have_one_shape_and_no_sample_twice(n: int, size: int, shuffle: bool, seed: int) -> None:
    batches = list(numbered(n, size, shuffle=shuffle, seed=seed))
    assert len(batches) == len(numbered(n, size)) == n // size
    assert all(b["x"].shape == (size, 2) and b["y"].shape == (size,) for b in batches)
    if batches:
        seen = rows(batches)
        assert len(set(seen)) == len(seen) == n // size * size
        assert shuffle or seen == [*range(len(seen))]
        assert all(torch.equal(b["x"][:, 0].long(), b["y"]) for b in batches), "x and y parted"


def test_batches_come_again_in_the_same_order() -> None:
    data = numbered(10, 3, shuffle=True, seed=4)
    assert rows(list(data)) == rows(list(data)) == rows(list(numbered(10, 3).shuffled(4)))
    assert rows(list(data)) != rows(list(data.shuffled(5)))


def test_limits_and_transforms_survive_shuffling() -> None:
    data = numbered(12, 3, transform=lambda b: {**b, "x": b["x"] + 100}).limit(2)
    for epoch in (data, data.shuffled(1)):
        assert len(epoch) == len(list(epoch)) == 2
        assert min(rows(list(epoch))) >= 100
    assert len(numbered(4, 3).limit(5)) == 1


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(TaskError, match=r"share their first dimension.*'x': 3.*'y': 2"):
        pg.Batches({"x": np.zeros(3), "y": np.zeros(2)}, 1)


# ---------------------------------------------------------------- orders


def test_an_epoch_is_every_batch_once_in_a_seeds_order() -> None:
    task = zoo("mlp")
    first = [b["x"][0, 0].item() for b in task.train]
    orders = [[b["x"][0, 0].item() for b in task.epoch(seed)] for seed in range(6)]
    assert all(sorted(o) == sorted(first) for o in orders)
    assert len({tuple(o) for o in orders}) > 1
    assert [b["x"][0, 0].item() for b in task.epoch(3)] == orders[3]


def test_training_data_never_ends_and_repeats_for_the_same_seed() -> None:
    task = zoo("mlp")
    take = lambda seed: [b["x"][0, 0].item() for b in itertools.islice(task.forever(seed), 10)]  # noqa: E731
    assert take(0) == take(0)
    assert take(0) != take(1)
    epochs = [tuple(take(0)[i : i + 3]) for i in (0, 3, 6)]
    assert len(set(epochs)) > 1, "every epoch has the same order"
    assert all(sorted(e) == sorted(epochs[0]) for e in epochs)


def test_samples_are_mixed_anew_each_epoch_where_the_data_can() -> None:
    data = numbered(8, 2)
    task = pg.Task(
        "t", models.MLP(2), lambda m, b: m(b["x"]).sum(), lambda m, b: m(b["x"]).sum(1), data, data
    )
    pairs = {tuple(sorted(rows([b]))) for b in itertools.islice(task.forever(0), 16)}
    assert len(pairs) > 4, "the same samples always meet"


def test_a_dataloader_is_data() -> None:
    data = TensorDataset(torch.arange(8.0)[:, None].repeat(1, 12), torch.arange(8) % 4)
    loader = DataLoader(data, batch_size=4)
    net = models.randomised(models.MLP())
    task = pg.Task(
        "loader",
        net,
        lambda net, b: torch.nn.functional.cross_entropy(net(b[0]), b[1]),
        lambda net, b: (net(b[0]).argmax(1) == b[1]).float(),
        loader,
        loader,
    )
    assert list(task.example) == ["0", "1"]
    graph = pg.build(task)
    assert [s.shape for s in graph.batch_slots] == [(4, 12), (4,)]
    assert len(list(task.epoch(0))) == 2


# ---------------------------------------------------------------- names and shapes


def test_batches_are_rebuilt_in_the_form_that_the_loss_takes() -> None:
    named = {"0": torch.zeros(1), "1": torch.ones(1)}
    pairs = [(torch.zeros(1), torch.ones(1))]
    task = pg.Task("t", models.MLP(), lambda m, b: b[0], lambda m, b: b[0], pairs, pairs)
    assert isinstance(task.rebuild(named), tuple)
    assert zoo("mlp").rebuild(named) is named


def test_numpy_arrays_become_tensors_of_the_same_type() -> None:
    named = as_named(
        {"x": np.zeros((2, 3), np.float32), "y": np.zeros(2, np.int64), "flag": np.zeros(2, bool)}
    )
    assert {k: v.dtype for k, v in named.items()} == {
        "x": torch.float32,
        "y": torch.int64,
        "flag": torch.bool,
    }


def test_a_wrong_batch_is_refused_with_every_difference() -> None:
    example = {"x": torch.zeros(2, 3), "y": torch.zeros(2, dtype=torch.int64), "z": torch.zeros(2)}
    wrong = {"x": torch.zeros(1, 3), "y": torch.zeros(2), "w": torch.zeros(2)}
    with pytest.raises(TaskError) as caught:
        check_batch(wrong, example)
    for part in ("'z' is missing", "'w' is unexpected", "'x' is (1, 3)", "'y' is (2,) torch.float32"):
        assert part in str(caught.value)
    check_batch(example, example)


def test_a_task_puts_its_model_into_evaluation_mode() -> None:
    net = models.MobileNet().train()
    models.task_of("eval", net, models.images(), lambda net, b: net(b["x"]))
    assert not any(m.training for m in net.modules())


def test_fresh_tensors_are_found_by_glob() -> None:
    data = models.vectors()
    task = pg.Task(
        "t", models.MLP(), lambda m, b: b["x"], lambda m, b: b["x"], data, data, fresh=("layers.4.*",)
    )
    assert task.fresh_fqns() == ["layers.4.weight", "layers.4.bias"]
