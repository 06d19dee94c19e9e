"""Losses and weights that are not finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_task import OPTIMIZERS, Compile, batches

from pockgraph.errors import BatchError, NonFiniteLoss
from pockgraph.runtime import Trainer

from .base import RunnerTests, same


class Divergence(RunnerTests):
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_divergence_stops_at_the_last_good_state(
        self, compiled: Compile, tmp_path: Path, optimizer: str
    ) -> None:
        trainer = self.load(compiled(self.target, optimizer=optimizer).path)
        batch = batches(1)[0]
        trainer.step(batch)
        before = trainer._runner.read_state()
        with pytest.raises(NonFiniteLoss, match=r"In step \d .*before: .*was undone") as e:  # noqa: PT012
            for _ in range(8):
                before = trainer._runner.read_state()
                trainer.step(batch, lr=3e38)
        assert "lower lr" in str(e.value)
        assert same(before, trainer._runner.read_state())
        steps = trainer.steps
        assert trainer.step(batch, lr=3e38, on_nonfinite="skip").skipped
        assert (trainer.steps, trainer.skipped) == (steps + 1, 1)
        assert same(before, trainer._runner.read_state())
        trainer.save(tmp_path / "good")
        trainer.export(tmp_path / "tensors")
        trainer.load_checkpoint(tmp_path / "good")
        assert same(before, trainer._runner.read_state())

    def test_after_an_undone_step_training_goes_on_as_without_it(self, trainer: Trainer) -> None:
        whole = [trainer.step(b).loss for b in batches(4)]
        end = trainer._runner.read_state()
        nan = {k: v.copy() for k, v in batches(1)[0].items()}
        nan["x"][0, 0, 0, 0] = np.nan
        for place in range(4):
            trainer.reset()
            losses = []
            for i, batch in enumerate(batches(4)):
                if i == place:
                    with pytest.raises(BatchError, match=r"'x' of task 'tiny' holds nan at \[0, 0, 0, 0\]"):
                        trainer.step(nan)
                    trainer._runner.step(nan, 0.1)  # without a look at the batch
                    trainer._runner.undo()
                    assert np.isfinite(trainer.evaluate([batch]).metric)
                losses.append(trainer.step(batch).loss)
            assert losses == whole
            assert same(end, trainer._runner.read_state())

    def test_nan_in_any_state_slot_is_noticed(self, compiled: Compile) -> None:
        """Whichever slot a step leaves NaN in, it is noticed."""
        for optimizer in OPTIMIZERS:
            trainer = self.load(compiled(self.target, optimizer=optimizer).path)
            good = trainer._runner.read_state()
            for slot in trainer.manifest.changing_state:
                if good[slot.name].ndim == 0 or slot.key in ("accumulated", "ema"):  # emptied; follows
                    continue
                spoilt = np.full_like(good[slot.name], np.nan)
                trainer._runner.write_state({**good, slot.name: spoilt})
                results = [trainer.step(b, on_nonfinite="skip") for b in batches(3)]
                assert any(r.skipped for r in results), (optimizer, slot.name)

    def test_a_policy_must_be_known(self, trainer: Trainer) -> None:
        with pytest.raises(
            BatchError, match=r"on_nonfinite='skp' is none of 'error', 'skip'\. Did you mean 'skip'"
        ):
            trainer.step(batches(1)[0], on_nonfinite="skp")  # pyright: ignore

    def test_weights_that_are_not_finite_are_not_saved(self, trainer: Trainer, tmp_path: Path) -> None:
        while all(np.isfinite(t).all() for t in trainer.state().values()):
            trainer._runner.step(batches(1)[0], 1e38)  # without a look at the result
        with pytest.raises(NonFiniteLoss, match=r"trained:.* hold NaN"):
            trainer.save(tmp_path / "bad")
        assert not (tmp_path / "bad").exists()
