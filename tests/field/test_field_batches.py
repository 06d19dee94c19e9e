"""Labels, token ids and indices that the model has no row for; data in other dtypes than the step's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import batches, mlp, task

import pockgraph as pg
from pockgraph.errors import BatchError
from pockgraph.runtime import Trainer

DATA = batches(8, 12)


def trainer_of(net: nn.Module, target: str, out: Path, data: Any = DATA, **how: Any) -> Trainer:
    graph = pg.build(task(net, data, **how), pg.SGD(lr=0.05))
    return pg.compile(graph, target=target, out=out, parity=False).trainer(threads=1)


def assert_refused(trainer: Trainer, batch: dict[str, Any], words: str) -> None:
    before = trainer._runner.read_state()
    with pytest.raises(BatchError, match=words):
        trainer.step(batch)
    after = trainer._runner.read_state()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert trainer.steps == 0


def test_a_label_beyond_the_classes(target: str, tmp_path: Path) -> None:
    trainer = trainer_of(mlp(), target, tmp_path / "o")
    for value, kind in ((-1, "int64"), (5, "int64"), (2**40, "int64"), (2**62, "int64"), (255, "uint8")):
        y = DATA[0]["y"].numpy().astype(kind)
        y[3] = value
        words = rf"'y' of task 'field' holds {value} at \[3\], but these are class labels of a loss over 5"
        assert_refused(trainer, {"x": DATA[0]["x"], "y": y}, rf"{words} classes: 0 to 4, or -100 to ig")
    ignored = DATA[0]["y"].clone()
    ignored[3] = -100
    assert np.isfinite(trainer.step({"x": DATA[0]["x"], "y": ignored}).loss)


class Language(nn.Module):
    """Next-token prediction over 20 tokens, the loss shifted by one as it is everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def shifted(model: nn.Module, batch: Any) -> Tensor:
    logits = model(batch["ids"])[:, :-1]
    return F.cross_entropy(logits.reshape(-1, 20), batch["labels"][:, 1:].reshape(-1), ignore_index=0)


def test_a_token_id_beyond_the_vocabulary(target: str, tmp_path: Path) -> None:
    ids = torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    data = [{"ids": ids, "labels": ids.clone()}]
    metric = lambda m, b: m(b["ids"]).sum((1, 2))  # noqa: E731
    trainer = trainer_of(Language(), target, tmp_path / "o", data, loss=shifted, metric=metric)
    for value in (-1, 20, 2**40):
        bad = ids.clone()
        bad[1, 4] = value
        words = (
            rf"'ids' of task 'field' holds {value} at \[1, 4\], but these are ids of an embedding of 20 rows"
        )
        assert_refused(trainer, {"ids": bad, "labels": ids}, words)
        words = rf"'labels' of task 'field' holds {value} at \[1, 4\], but these are class labels"
        assert_refused(trainer, {"ids": ids, "labels": bad}, words)
        with pytest.raises(BatchError, match=r"'ids' .* ids of an embedding"):
            trainer.evaluate([{"ids": bad, "labels": ids}])
    first = ids.clone()
    first[:, 0] = -1  # no label is read there
    trainer.evaluate([{"ids": ids, "labels": first}])
    assert np.isfinite(trainer.step({"ids": ids, "labels": first}).loss)


def test_indices_shifted_and_gathered(target: str, tmp_path: Path) -> None:
    """Labels that count from 1; a column picked by a position."""

    def loss(m: nn.Module, b: Any) -> Tensor:
        picked = m(b["x"]).gather(1, b["at"].unsqueeze(1))
        return F.nll_loss(F.log_softmax(m(b["x"]), 1), b["y"] - 1) + picked.mean()

    data = [{"x": b["x"], "y": b["y"] + 1, "at": b["y"].int()} for b in DATA]
    trainer = trainer_of(mlp(), target, tmp_path / "o", data, loss=loss)
    assert_refused(trainer, {**data[0], "y": torch.zeros(8, dtype=torch.int64)}, "'y' .* holds 0 .*: 1 to 5")
    assert_refused(
        trainer, {**data[0], "at": torch.full((8,), 5)}, "'at' .* holds 5 .* indices of 5 places: 0 to 4"
    )
    assert np.isfinite(trainer.step(data[0]).loss)


def test_one_hot_labels(target: str, tmp_path: Path) -> None:
    loss = lambda m, b: -(F.log_softmax(m(b["x"]), 1) * F.one_hot(b["y"], 5)).sum(1).mean()  # noqa: E731
    trainer = trainer_of(mlp(), target, tmp_path / "o", loss=loss)
    for value in (-1, 5):
        bad = {**DATA[0], "y": torch.full((8,), value)}
        assert_refused(trainer, bad, rf"'y' .* holds {value} at \[0\] .* one_hot with 5 classes: 0 to 4")


def test_an_analysis_refuses_such_a_label(tmp_path: Path) -> None:
    data = batches(8, 12, count=8)
    data[4]["y"][1] = 9
    with pytest.raises(BatchError, match=r"In batch \d .* of `train`: .*'y' .* holds 9 at \[1\]"):
        pg.Study(tmp_path / "study.db", task(mlp(), data)).analyze()
    data[0]["y"][2] = -1  # where the gradients are compared with PyTorch's first
    for mode in ("measured", "probe"):
        with pytest.raises(BatchError, match=r"^Batch entry 'y' .* holds -1 at \[2\]"):
            pg.Study(tmp_path / f"{mode}.db", task(mlp(), data)).analyze(mode=mode)


def test_an_analysis_names_the_batch_that_holds_nan(tmp_path: Path) -> None:
    data, held_out = batches(8, 12, count=6), batches(8, 12, count=3)
    held_out[2]["x"][5, 7] = float("nan")
    with pytest.raises(BatchError, match=r"In batch 3 of `validation`: .*'x' .* holds nan at \[5, 7\]"):
        pg.Study(tmp_path / "study.db", task(mlp(), data, validation=held_out)).analyze()
    data[4]["x"][0, 1] = float("inf")
    with pytest.raises(BatchError, match=r"In batch \d that seed 0 draws of .*holds inf at \[0, 1\]"):
        pg.Study(tmp_path / "other.db", task(mlp(), data)).analyze()


def test_masks_of_booleans_and_numbers_of_other_widths_are_cast(target: str, tmp_path: Path) -> None:
    data = [{**b, "keep": torch.ones(8, dtype=torch.int64), "drop": b["y"] > 2} for b in DATA]
    loss = lambda m, b: (  # noqa: E731
        (F.cross_entropy(m(b["x"]), b["y"], reduction="none") * b["keep"]).masked_fill(b["drop"], 0.0).mean()
    )
    trainer = trainer_of(mlp(), target, tmp_path / "o", data, loss=loss)
    plain = trainer.step(data[0], lr=0.0).loss
    x, y = data[0]["x"].numpy(), data[0]["y"].numpy()
    other = {"x": x.astype(np.float64).tolist(), "y": y.astype(np.int32), "keep": np.ones(8, bool)}
    other["drop"] = y > 2
    assert trainer.step(other, lr=0.0).loss == plain
    assert trainer.step({**other, "drop": (y > 2).astype(np.uint8)}, lr=0.0).loss == plain
    with pytest.raises(BatchError, match="'drop' holds int64 instead of bool"):
        trainer.step({**other, "drop": y})


def test_the_first_batch_is_checked_when_it_is_compiled(tmp_path: Path) -> None:
    data = [{**b, "y": b["y"] + 1} for b in DATA]
    data[0]["y"][2] = 7
    with pytest.raises(BatchError, match=r"'y' of task 'field' holds 7 at \[2\]"):
        pg.compile(pg.build(task(mlp(), data)), target="onnx", out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_an_artefact_of_an_older_version_opens(tmp_path: Path) -> None:
    import json

    folder = trainer_of(mlp(), "onnx", tmp_path / "o").folder
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("train_limits", "eval_limits", "nonfinite_entries", "telling_state"):
        del manifest[key]
    path.write_text(json.dumps(manifest))
    trainer = Trainer.load(folder)
    assert np.isfinite(trainer.step(DATA[0]).loss)
    with pytest.raises(BatchError, match="holds nan"):
        trainer.step({**DATA[0], "x": DATA[0]["x"] * float("nan")})
