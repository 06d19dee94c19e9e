"""Which batches a step takes, and that they are the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import batches

from pockgraph.errors import BatchError
from pockgraph.runtime import Trainer

from .base import RunnerTests, same


class Batches(RunnerTests):
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"x": None}, ["'x' is missing", "x float32 [8, 3, 6, 6] and y int64 [8]"]),
            ({"x": None, "X": np.zeros(3)}, ["'x' is missing", "'X' is unexpected"]),
            ({"z": np.zeros(3)}, ["'z' is unexpected"]),
            ({"x": np.zeros((8, 3, 6, 7), np.float32)}, ["shape [8, 3, 6, 7] instead of [8, 3, 6, 6]"]),
            ({"x": np.zeros((8, 3, 6, 6), np.uint8)}, ["'x' holds uint8 instead of float32"]),
            ({"y": np.zeros(8, np.float32)}, ["'y' holds float32 instead of int64"]),
            ({"y": np.full(8, 2**63, np.uint64)}, ["'y' holds uint64 instead of int64"]),
            ({"y": np.array(["a"] * 8)}, ["not a number"]),
            ({"y": [[1], [1, 2]]}, ["'y'", "numpy"]),
        ],
    )
    def test_a_wrong_batch_is_refused(
        self, trainer: Trainer, change: dict[str, Any], words: list[str]
    ) -> None:
        before = trainer.state()
        batch = {k: v for k, v in (batches(1)[0] | change).items() if v is not None}
        with pytest.raises(BatchError) as e:
            trainer.step(batch)
        for word in words:
            assert word in str(e.value)
        assert "\n" not in str(e.value)
        assert trainer.steps == 0
        assert same(before, trainer.state())

    def test_numbers_of_one_kind_are_cast(self, trainer: Trainer) -> None:
        batch = batches(1)[0]
        plain = trainer.step(batch).loss
        trainer.reset()
        assert (
            trainer.step({"x": batch["x"].astype(np.float64), "y": batch["y"].astype(np.uint8)}).loss == plain
        )
        trainer.reset()
        assert trainer.step({k: torch.from_numpy(v) for k, v in batch.items()}).loss == plain

    def test_arrays_may_be_strided_or_read_only(self, trainer: Trainer) -> None:
        batch = batches(1)[0]
        plain = trainer.step(batch).loss
        strided = {"x": np.asfortranarray(batch["x"]), "y": np.repeat(batch["y"], 2)[::2]}
        for array in strided.values():
            array.setflags(write=False)
        trainer.reset()
        assert trainer.step(strided).loss == pytest.approx(plain, rel=1e-6)

    def test_a_batch_is_not_changed_nor_kept(self, trainer: Trainer) -> None:
        batch = {k: v.copy() for k, v in batches(1)[0].items()}
        first = trainer.step(batch).loss
        assert same(batch, batches(1)[0])
        batch["x"][:] = np.nan
        trainer.reset()
        assert trainer.step(batches(1)[0]).loss == first
