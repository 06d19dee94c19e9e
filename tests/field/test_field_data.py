"""Data as people have it: loaders, streams without an end, lists, frames, files mapped into memory."""

from __future__ import annotations

import itertools
import multiprocessing
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from users import batches, cross_entropy, mlp, summed, task

import pockgraph as pg
from pockgraph.contribution.data import Data, with_validation
from pockgraph.errors import TaskError

ROWS = batches(64, 12)[0]
X, Y = ROWS["x"].numpy(), ROWS["y"].numpy()


def batch(number: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(number)
    return {"x": torch.randn(8, 12, generator=g), "y": torch.full((8,), number % 5)}


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a) and list(a) == list(b)


def take(task: pg.Task, count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(task.forever(seed), count))


def pairs_task(loader: Any, **how: Any) -> pg.Task:
    """For batches that are tuples."""
    return task(
        mlp(),
        loader,
        lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]),
        lambda m, b: m(b[0]).sum(1),
        **how,
    )


# ---------------------------------------------------------------- streams


class Endless(IterableDataset):  # pyright: ignore
    """Counts what was made of it."""

    made = 0

    def __iter__(self) -> Iterator[Any]:
        for number in itertools.count():
            self.made = max(self.made, number + 1)
            yield batch(number)


def endless() -> Iterator[Any]:
    return map(batch, itertools.count())


class Again:
    """Iterable again and again, and no end is known."""

    def __iter__(self) -> Iterator[Any]:
        return endless()


ENDLESS: dict[str, Callable[[], Any]] = {
    "an IterableDataset": Endless,
    "a loader of an IterableDataset": lambda: DataLoader(Endless(), batch_size=None),
    "a function that makes a generator": lambda: endless,
    "an object without a length": Again,
}


@pytest.mark.parametrize("form", ENDLESS)
def test_data_without_an_end_trains_a_batch_at_a_time_in_its_own_order(form: str) -> None:
    made = pg.Task("t", mlp(), cross_entropy, summed, ENDLESS[form](), batches(8, 12))
    assert all(same(got, batch(n)) for n, got in enumerate(take(made, 12)))
    assert same(take(made, 1)[0], batch(0)), "it begins anew"


def test_no_more_of_a_stream_is_read_than_is_trained_on(target: str, tmp_path: Path) -> None:
    data = Endless()
    made = pg.Task("t", mlp(), cross_entropy, summed, data, batches(8, 12))
    trainer = pg.compile(pg.build(made, pg.SGD(lr=0.1)), target=target, out=tmp_path / "out").trainer()
    for _, given in zip(range(5), made.forever(seed=0)):
        trainer.step(given)
    assert data.made == 5


def test_a_long_stream_takes_the_memory_of_a_batch() -> None:
    class Long(IterableDataset):  # pyright: ignore
        def __iter__(self) -> Iterator[Any]:
            return ({"x": np.zeros((8, 12_500), np.float32), "y": np.zeros(8, np.int64)} for _ in range(300))

    net = torch.nn.Linear(12_500, 5)
    made = pg.Task("t", net, cross_entropy, summed, Long(), batches(8, 12_500)[:1])
    tracemalloc.start()
    assert (len(take(made, 300)) and sum(1 for _ in made.epoch(0)) == 300) or True
    tracemalloc.stop()
    tracemalloc.start()
    for _ in made.epoch(0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 8 * 12_500 * 4, "more than a few batches at once"


def test_a_finite_stream_is_read_again_each_epoch() -> None:
    made = pg.Task("t", mlp(), cross_entropy, summed, lambda: map(batch, range(3)), batches(8, 12))
    assert [int(b["y"][0]) for b in take(made, 7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_stream_that_draws_its_own_order_is_told_the_seed() -> None:
    class Seeded(IterableDataset):  # pyright: ignore
        seed = 0

        def set_epoch(self, seed: int) -> None:
            self.seed = seed

        def __iter__(self) -> Iterator[Any]:
            return (batch(int(n)) for n in np.random.default_rng(self.seed).permutation(20))

    made = pg.Task("t", mlp(), cross_entropy, summed, Seeded(), batches(8, 12))
    assert all(map(same, take(made, 30, 1), take(made, 30, 1)))
    assert not all(map(same, take(made, 20, 1), take(made, 20, 2)))


def test_a_study_measures_on_a_stream_that_has_validation_batches(tmp_path: Path) -> None:
    made = task(mlp(), endless, validation=lambda: map(batch, range(100, 103)))  # pyright: ignore
    with pg.Study(tmp_path / "a.db", made) as study:
        study.analyze(steps=2, ratios=(1.0,), lr=0.05, bias_counts=(), target="torch")
        done, planned = study.progress()
    assert done == planned > 0


def test_a_stream_without_validation_batches_asks_for_them(tmp_path: Path) -> None:
    study = pg.Study(tmp_path / "a.db", task(mlp(), endless))  # pyright: ignore
    with study, pytest.raises(TaskError, match=r"`train` is a stream.*Give it validation="):
        study.analyze(steps=2, target="torch")


def test_validation_without_an_end_asks_how_many_batches_to_take() -> None:
    one = batch(0)
    made = task(mlp(), batches(8, 12), validation=lambda: itertools.repeat(one))  # pyright: ignore
    with pytest.raises(TaskError, match=r"more than 10,000 batches.*batches="):
        _ = Data(made, 2).validation_count
    assert Data(made, 2, limit=7).validation_count == 7 == len(list(Data(made, 2, limit=7).validation()))


# ---------------------------------------------------------------- what yields once, or nothing


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a generator": (endless, r"`train` is an iterator, which yields its batches once.*the function"),
    "an empty list": (list, r"`train` has no batches"),
    "a generator of nothing": (lambda: lambda: iter(()), r"`train` has no batches"),
    "a function that fails": (lambda: lambda: 1 / 0, r"`train`: making batch 1 failed at .*test_field_data"),
    "a function of nothing": (lambda: lambda: None, r"making batch 1 failed"),
    "a class": (lambda: Endless, "is the class Endless. Give an instance"),
    "a number": (lambda: 3, "is a int, which gives no batches"),
    "arrays": (lambda: {"x": X, "y": Y}, r"gives a str.*whole arrays: pockgraph\.Batches"),
    "an array": (lambda: X, r"whole arrays: pockgraph\.Batches"),
    "a Dataset of samples": (
        lambda: Samples(),
        r"'y' is of type int.*single samples: wrap it in a DataLoader",
    ),
    "an empty batch": (lambda: [{"x": X[:0], "y": Y[:0]}], "its first batch has no samples"),
    "texts": (lambda: [{"x": np.array(["a", "b"])}], "'x' is an array of <U1. Encode it as numbers"),
    "too few samples": (
        lambda: pg.Batches(ROWS, 100),
        r"has 64 samples, and a batch takes 100.*smaller batch_size",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_gives_no_batches_is_refused_with_what_to_pass(case: str) -> None:
    make, words = WRONG[case]
    with pytest.raises(TaskError, match=rf"(?s)Task 'field'.*{words}"):
        task(mlp(), make())


def test_data_that_yields_once_is_noticed_at_the_second_epoch() -> None:
    class Once(IterableDataset):  # pyright: ignore
        def __init__(self) -> None:
            self.kept = iter([batch(n) for n in range(3)])

        def __iter__(self) -> Iterator[Any]:
            yield from self.kept

    made = pg.Task("t", mlp(), cross_entropy, summed, Once(), batches(8, 12))
    with pytest.raises(TaskError, match=r"gave no batches this time.*begin anew"):
        take(made, 5)


# ---------------------------------------------------------------- odd batches


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"x": X[:3], "y": Y[:3]}, r"in batch 3 of `train`, 'x' is \(3, 12\).*drop_last=True"),
        ({"x": X[:0], "y": Y[:0]}, r"in batch 3 of `train`, 'x' is \(0, 12\)"),
        ({"x": X[:8, :5], "y": Y[:8]}, r"in batch 3 of `train`, 'x' is \(8, 5\).*Drop or pad the odd one"),
        ({"x": X[:8]}, "in batch 3 of `train`, 'y' is missing"),
        ({"x": X[:8], "y": Y[:8].astype(np.float32)}, "in batch 3 of `train`, 'y' is .* torch.float32"),
    ],
)  # fmt: skip
def test_an_odd_batch_in_the_middle_is_named_by_its_number(odd: Any, words: str) -> None:
    made = pg.Task("t", mlp(), cross_entropy, summed, lambda: iter([batch(0), batch(1), odd]), batches(8, 12))
    with pytest.raises(TaskError, match=words):
        take(made, 4)


def test_a_loader_that_keeps_its_ragged_last_batch_is_told_to_drop_it() -> None:
    loader = DataLoader(TensorDataset(torch.as_tensor(X), torch.as_tensor(Y)), batch_size=10)
    with pytest.raises(TaskError, match=r"'0' is \(4, 12\).*drop_last=True in a DataLoader"):
        take(pairs_task(loader), 7)


def test_an_odd_validation_batch_is_named(tmp_path: Path) -> None:
    wide = {"x": torch.zeros(8, 13), "y": torch.zeros(8, dtype=torch.int64)}
    made = task(mlp(), batches(8, 12), validation=[batch(0), wide])
    with pytest.raises(TaskError, match=r"in batch 2 of `validation`, 'x' is \(8, 13\)"):
        list(Data(made, 2).validation())


# ---------------------------------------------------------------- loaders


class Samples(Dataset):  # pyright: ignore
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        if i >= len(X):
            raise IndexError(i)
        return {"x": X[i], "y": int(Y[i])}


class Spoilt(Samples):
    def __getitem__(self, i: int) -> Any:
        if i == 40:
            raise KeyError("no such picture")
        return super().__getitem__(i)


def loader(dataset: Any = None, **how: Any) -> DataLoader[Any]:
    return DataLoader(Samples() if dataset is None else dataset, batch_size=8, drop_last=True, **how)


def loader_task(data: Any) -> pg.Task:
    return pg.Task("t", mlp(), cross_entropy, summed, data, batches(8, 12))


def test_batches_of_a_loader_are_permuted_by_the_seed_as_a_list_of_them_is() -> None:
    for seed in range(3):
        assert all(map(same, loader_task(loader()).epoch(seed), loader_task(list(loader())).epoch(seed)))
    split, listed = with_validation(loader_task(loader())), with_validation(loader_task(list(loader())))
    assert all(map(same, split.validation or (), listed.validation or ()))
    assert all(map(same, split.epoch(4), listed.epoch(4)))
    assert len(list(split.epoch(4))) == len(list(listed.epoch(4)))


def test_a_loaders_own_shuffling_is_kept_and_drawn_from_the_seed() -> None:
    made = loader_task(loader(shuffle=True))
    state = torch.random.get_rng_state()
    first, again, other = take(made, 20, 1), take(made, 20, 1), take(made, 20, 2)
    assert torch.equal(torch.random.get_rng_state(), state), "the user's generator was drawn from"
    assert all(map(same, first, again))
    assert not all(map(same, first, other))
    mixed = {tuple(sorted(b["x"][:, 0].tolist())) for b in first}
    assert len(mixed) == len(first), "samples meet others in the next epoch"
    assert sorted(torch.cat([b["x"][:, 0] for b in first[:8]]).tolist()) == sorted(X[:, 0].tolist())


def test_held_back_samples_of_a_shuffled_loader_are_not_trained_on() -> None:
    split = with_validation(loader_task(loader(shuffle=True)))
    held = {v for b in split.validation or () for v in b["x"][:, 0].tolist()}
    trained = {v for b in take(split, 30) for v in b["x"][:, 0].tolist()}
    assert len(held) == 16
    assert not held & trained
    assert len({tuple(sorted(b["x"][:, 0].tolist())) for b in take(split, 12)}) == 12, "shuffled no more"


@pytest.mark.parametrize("kind", ["weighted", "batch sampler", "no batching"])
def test_other_samplers_decide(kind: str) -> None:
    if kind == "weighted":
        weights = (Y == 3).astype(float)
        made = loader_task(loader(sampler=WeightedRandomSampler(weights.tolist(), 16)))
        assert all((b["y"] == 3).all() for b in take(made, 4))
        with pytest.raises(TaskError, match=r"draws samples more than once.*validation="):
            with_validation(made)
        return
    if kind == "batch sampler":
        data = DataLoader(Samples(), batch_sampler=BatchSampler(RandomSampler(Samples()), 8, False))
    else:
        data = DataLoader([batch(n) for n in range(6)], batch_size=None, shuffle=True)  # pyright: ignore
    made = loader_task(data)
    assert all(map(same, take(made, 9, 1), take(made, 9, 1)))
    assert not all(map(same, take(made, 9, 1), take(made, 9, 2)))


def test_workers_end_with_the_pass_and_do_not_change_the_batches() -> None:
    made, plain = loader_task(loader(num_workers=1)), loader_task(loader())
    running = made.forever(0)
    got = [next(running) for _ in range(10)]  # into the second epoch
    assert multiprocessing.active_children()
    del running
    assert not multiprocessing.active_children()
    assert all(map(same, got, plain.forever(0)))


def test_what_a_dataset_raises_is_told_with_its_line_and_the_batch() -> None:
    for workers in (0, 1):
        made = loader_task(loader(Spoilt(), num_workers=workers))
        with pytest.raises(TaskError, match=r"batch \d failed at .*test_field_data.py:\d+: `raise KeyError"):
            take(made, 8)
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------- Batches of anything


def as_frame(values: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(values, index=range(100, 100 + len(values)))


def on_disk(values: np.ndarray, folder: Path, mode: str) -> np.ndarray:
    np.save(folder / "x.npy", values)
    return np.load(folder / "x.npy", mmap_mode=mode)  # pyright: ignore


def frozen(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


FORMS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "numpy": lambda x, _: x,
    "torch": lambda x, _: torch.as_tensor(x),
    "negative strides": lambda x, _: x[::-1].copy()[::-1],
    "every other column": lambda x, _: np.repeat(x, 2, 1)[:, ::2],
    "read-only": lambda x, _: frozen(x),
    "mapped into memory": lambda x, folder: on_disk(x, folder, "r"),
    "mapped, changes kept": lambda x, folder: on_disk(x, folder, "r+"),
    "another byte order": lambda x, _: x.astype(x.dtype.newbyteorder(">")),
    "a list of lists": lambda x, _: x.tolist(),
    "a list of rows": lambda x, _: list(x),
    "a list of tensors": lambda x, _: list(torch.as_tensor(x)),
    "a tuple": lambda x, _: tuple(map(tuple, x.tolist())),
    "a data frame": lambda x, _: as_frame(x),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_batches_whatever_the_samples_are_kept_in(form: str, shuffle: bool, tmp_path: Path) -> None:
    plain = pg.Batches({"x": X, "y": Y}, 8, shuffle=shuffle, seed=3)
    other = pg.Batches({"x": FORMS[form](X, tmp_path), "y": Y.tolist()}, 8, shuffle=shuffle, seed=3)
    assert all(map(same, other, plain))
    assert sum(1 for _ in other) == 8


def test_columns_of_a_frame_and_of_series() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "n": [1, 2, 3, 4]}, index=[9, 7, 5, 3])
    first = next(iter(pg.Batches(frame, 2)))  # pyright: ignore
    assert same(first, {"a": torch.tensor([1.5, 2.5], dtype=torch.float64), "n": torch.tensor([1, 2])})
    assert next(iter(pg.Batches({"y": frame["n"]}, 2)))["y"].tolist() == [1, 2]
    frame["word"] = list("abcd")
    with pytest.raises(TaskError, match=r"'word' \(Series\).*Encode it as numbers"):
        pg.Batches(frame, 2)  # pyright: ignore


def test_a_tuple_of_arrays_or_a_tensor_dataset_gives_tuples(tmp_path: Path) -> None:
    for arrays in ((X, Y), TensorDataset(torch.as_tensor(X), torch.as_tensor(Y))):
        made = pairs_task(pg.Batches(arrays, 8))  # pyright: ignore
        assert list(made.example) == ["0", "1"]
        trainer = pg.compile(pg.build(made, pg.SGD(lr=0.1)), target="torch", out=tmp_path / "out").trainer()
        assert np.isfinite(trainer.step(next(made.forever(0))).loss)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.array(["a", "b"])}, "'x' .*holds <U1"),
        ({"x": [[1.0], [2.0, 3.0]]}, "'x' .*cannot become an array"),
        ({"x": np.array([{}, {}])}, "'x' .*holds object"),
        ({"x": 3.0}, "'x' is a single number"),
        ({"x": np.array(["2020-01-01"], "datetime64[s]")}, "'x' .*holds datetime64"),
        ({}, "has no arrays"),
        (X, "takes arrays by name"),
        (Samples(), r"not a Samples\. For a Dataset, give the task a DataLoader"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(arrays: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        pg.Batches(arrays, 1)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_a_batch_size_that_is_no_positive_integer_is_refused(size: Any) -> None:
    with pytest.raises(TaskError, match="batch_size must be a number of samples"):
        pg.Batches(ROWS, size)


def test_holding_back_samples_of_a_mapped_array_does_not_read_it(tmp_path: Path) -> None:
    data = pg.Batches({"x": on_disk(X, tmp_path, "r"), "y": Y}, 8, shuffle=True)
    split = with_validation(task(mlp(), data))
    assert isinstance(split.train.arrays["x"], np.memmap)  # pyright: ignore
    in_memory = with_validation(task(mlp(), pg.Batches(ROWS, 8, shuffle=True)))
    assert all(map(same, split.validation or (), in_memory.validation or ()))
    assert all(map(same, split.epoch(2), in_memory.epoch(2)))


def test_a_transform_may_change_its_batch_in_place() -> None:
    x = X.copy()

    def double(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        given["x"].mul_(2)
        return given

    data = pg.Batches({"x": x, "y": Y}, 8, transform=double)
    assert all(map(same, data, list(data)))
    assert np.array_equal(x, X)


def test_what_a_transform_raises_is_told_with_its_line() -> None:
    def wrong(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": given["image"]}

    with pytest.raises(
        TaskError,
        match=r"`train`: making batch 1 failed at .*test_field_data.py:\d+: `return .*KeyError: 'image'",
    ):
        task(mlp(), pg.Batches(ROWS, 8, transform=wrong))
