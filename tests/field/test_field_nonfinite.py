"""NaN and infinite values: in a batch, a loss, a gradient or an update. None reaches the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import batches, cross_entropy, mlp, task

import pockgraph as pg
from pockgraph.errors import BatchError, NonFiniteBatch, NonFiniteLoss, ParityError
from pockgraph.optimizer import Optimizer
from pockgraph.runtime import Trainer

HUGE = 1e30  # its square is infinite
X, Y = (batches(8, 12)[0][k] for k in "xy")
SGD = pg.SGD(lr=0.05, momentum=0.9)


def squared(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model, batch) + model(batch["x"]).square().mean()


def trainer_of(net: nn.Module, target: str, out: Path, optimizer: Optimizer = SGD, **how: Any) -> Trainer:
    data = how.pop("data", batches(8, 12))
    graph = pg.build(task(net, data, **how), optimizer)
    return pg.compile(graph, target=target, out=out, parity=False).trainer(threads=1)


def assert_untouched(trainer: Trainer, batch: dict[str, Any], error: type[Exception], words: str) -> None:
    """A step on `batch` is refused, and neither state nor the steps that follow know of it."""
    good = {"x": X, "y": Y}
    for _ in range(3):
        trainer.step(good)
    before = trainer._runner.read_state()
    steps, skipped = trainer.steps, trainer.skipped
    with pytest.raises(error, match=words):
        trainer.step(batch)
    after = trainer._runner.read_state()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert trainer.steps == steps
    assert trainer.step(batch, on_nonfinite="skip").skipped
    after = trainer._runner.read_state()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert (trainer.steps, trainer.skipped) == (steps + 1, skipped + 1)
    assert np.isfinite(trainer.step(good).loss)


def test_one_pixel_is_not_finite(target: str, tmp_path: Path) -> None:
    trainer = trainer_of(mlp(), target, tmp_path / "o")
    for value in (float("nan"), float("inf"), -float("inf")):
        x = X.clone()
        x[3, 7] = value
        words = rf"'x' of task 'field' holds {value} at \[3, 7\]"
        assert_untouched(trainer, {"x": x, "y": Y}, NonFiniteBatch, words)
    double = X.double().numpy()
    double[1, 2] = 1e300
    words = r"'x' .* holds 1e\+300, which is beyond float32 and would become inf at \[1, 2\]"
    assert_untouched(trainer, {"x": double, "y": Y}, NonFiniteBatch, words)


def test_nan_in_the_first_batch_is_told_with_its_entry(target: str, tmp_path: Path) -> None:
    data = batches(4, 12)
    data[0]["x"][1, 2] = torch.nan
    graph = pg.build(task(mlp(), data))
    with pytest.raises(ParityError, match=r"the loss is not finite.* NaN or infinite values stand in 'x'"):
        pg.compile(graph, target=target, out=tmp_path / "out")


def test_values_so_large_that_the_loss_overflows(target: str, tmp_path: Path) -> None:
    batch = {"x": X * HUGE, "y": Y}
    trainer = trainer_of(mlp(), target, tmp_path / "o", loss=squared)
    assert_untouched(trainer, batch, NonFiniteLoss, "step was undone")


BETWEEN_UPDATES = pg.Adam(lr=0.01, accumulate=5, clip_norm=1.0, ema_decay=0.9)


@pytest.mark.parametrize("optimizer", [SGD, pg.Lion(lr=0.01), BETWEEN_UPDATES])
def test_a_gradient_is_infinite_though_the_loss_is_finite(
    target: str, tmp_path: Path, optimizer: Optimizer
) -> None:
    """sqrt at 0: a distance of a point from itself. Only the layers below it get the gradient."""

    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.head = nn.Linear(12, 6, bias=False), nn.Linear(1, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.below(x).square().sum(1, keepdim=True).sqrt())

    trainer = trainer_of(Distance(), target, tmp_path / "o", optimizer)
    assert_untouched(trainer, {"x": torch.zeros_like(X), "y": Y}, NonFiniteLoss, "below.weight")


@pytest.mark.parametrize(
    ("loss", "spoil"),
    [
        (lambda m, b: -(m(b["x"]).softmax(1) * b["w"]).sum().log(), 0.0),  # log(0)
        (lambda m, b: (m(b["x"]) * b["w"]).sum() / b["w"].sum(), 0.0),  # 0/0
        (lambda m, b: F.cross_entropy(m(b["x"]), b["y"]) + (b["w"] ** 40).mean(), 10.0),
    ],
)
def test_a_loss_is_not_finite(
    target: str, tmp_path: Path, loss: Callable[[nn.Module, Any], Tensor], spoil: float
) -> None:
    data = [{**b, "w": torch.ones(8, 1)} for b in batches(8, 12)]
    trainer = trainer_of(mlp(), target, tmp_path / "o", data=data, loss=loss)
    trainer.step(data[0])
    before = trainer._runner.read_state()
    with pytest.raises(NonFiniteLoss, match="step was undone"):
        trainer.step({**data[0], "w": torch.full((8, 1), spoil)})
    after = trainer._runner.read_state()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    trainer.step(data[1])


def test_squares_overflow_in_adam_where_the_gradient_does_not(target: str, tmp_path: Path) -> None:
    """Weights stay finite in that step, but the second moment would be infinite for ever."""
    loss = lambda m, b: m(b["x"]).mean()  # noqa: E731
    trainer = trainer_of(nn.Linear(12, 5), target, tmp_path / "o", pg.Adam(lr=0.01), loss=loss)
    assert_untouched(trainer, {"x": X * 1e22, "y": Y}, NonFiniteLoss, "exp_avg_sq")


def test_running_statistics_are_not_spoilt(target: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
    trainer = trainer_of(net, target, tmp_path / "o", batch_norm="batch")
    assert_untouched(trainer, {"x": X * HUGE, "y": Y}, NonFiniteLoss, "undone")
    assert np.isfinite(trainer.state()["1.running_var"]).all()


def test_a_micro_batch_is_skipped_and_the_next_takes_its_place(target: str, tmp_path: Path) -> None:
    optimizer = pg.AdamW(lr=0.01, accumulate=3, ema_decay=0.9, clip_norm=1.0)
    trainer = trainer_of(mlp(), target, tmp_path / "o", optimizer, loss=squared)
    good = batches(8, 12, count=4)
    for batch in good:
        trainer.step(batch)
    wanted = trainer._runner.read_state()
    trainer.reset()
    trainer.on_nonfinite = "skip"
    nan = {"x": X * float("nan"), "y": Y}
    results = [trainer.step(b) for b in (good[0], nan, good[1], {"x": X * HUGE, "y": Y}, *good[2:])]
    assert [r.skipped for r in results] == [False, True, False, True, False, False]
    got = trainer._runner.read_state()
    assert all(np.array_equal(wanted[k], got[k]) for k in wanted)
    path = trainer.save(tmp_path / "checkpoint")
    trainer.load_checkpoint(path)
    assert trainer.steps == 6


def test_an_additive_mask_of_minus_infinity_is_taken(target: str, tmp_path: Path) -> None:
    data = batches(8, 12)
    for batch in data:
        batch["mask"] = torch.zeros(8, 5)
        batch["mask"][:, 4] = -float("inf")
        batch["y"] = batch["y"] % 4
    loss = lambda m, b: -(m(b["x"]) + b["mask"]).softmax(1)[:, :4].log().mean()  # noqa: E731
    trainer = trainer_of(mlp(), target, tmp_path / "o", loss=loss, data=data)
    assert trainer.manifest.nonfinite_entries == ("mask",)
    assert np.isfinite([trainer.step(b).loss for b in data]).all()
    with pytest.raises(NonFiniteBatch, match="'x'"):
        trainer.step({**data[0], "x": X * float("inf")})


def test_evaluation_refuses_nan_and_stays_good_after_an_undone_step(target: str, tmp_path: Path) -> None:
    trainer = trainer_of(mlp(), target, tmp_path / "o", loss=squared)
    good = trainer.evaluate([{"x": X, "y": Y}]).metric
    with pytest.raises(NonFiniteLoss):
        trainer.step({"x": X * HUGE, "y": Y})
    assert trainer.evaluate([{"x": X, "y": Y}]).metric == good
    with pytest.raises(BatchError, match="'x' of task 'field' holds nan"):
        trainer.evaluate([{"x": X * float("nan"), "y": Y}])


def test_device_program_skips_or_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pockgraph.runtime.command import main

    folder = trainer_of(mlp(), "onnx", tmp_path / "o", loss=cross_entropy).folder
    x = np.tile(X.numpy(), (3, 1))
    x[9] = np.nan
    np.savez(tmp_path / "data.npz", x=x, y=np.tile(Y.numpy(), 3))
    command = [str(folder), "--data", str(tmp_path / "data.npz"), "--steps", "6", "--every", "1"]
    saved = tmp_path / "last.ckpt"
    assert main([*command, "--save", str(saved)]) == 2
    said = capsys.readouterr().err
    assert "'x' of task 'field' holds nan" in said
    assert f"The state of step 1 was saved to {saved}; --resume goes on from it." in said
    resumed = Trainer.load(folder)
    resumed.load_checkpoint(saved)
    assert resumed.steps == 1
    assert main([*command, "--on-nonfinite", "skip"]) == 0
    out = capsys.readouterr().out
    assert "done: 6 steps (2 skipped)" in out
    assert out.count("no finite loss") == 2


def test_pockui_train_skips_or_stops_and_keeps_what_it_reached(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pockui.cli import app

    folder = trainer_of(mlp(), "onnx", tmp_path / "o", loss=cross_entropy).folder
    x = np.tile(X.numpy(), (3, 1))
    x[9] = np.nan
    np.savez(tmp_path / "data.npz", x=x, y=np.tile(Y.numpy(), 3))
    saved = tmp_path / "last.ckpt"
    command = [
        "train",
        str(folder),
        "--data",
        str(tmp_path / "data.npz"),
        "--steps",
        "6",
        "--save",
        str(saved),
    ]
    stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code != 0
    assert saved.is_file()
    assert "The state of step 1 was saved to" in " ".join(f"{stopped.output}{stopped.exception}".split())
    skipped = CliRunner().invoke(app, [*command, "--on-nonfinite", "skip", "--json"])
    assert skipped.exit_code == 0
    assert '"skipped": 2' in skipped.output
