"""Reading and setting weights, starting anew, accumulated gradients and averages of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_task import CHOICES, OPTIMIZERS, Compile, Net, batches, metric

from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer

from .base import RunnerTests, same


class State(RunnerTests):
    def test_state_is_whole_and_frozen_channels_stay(self, trainer: Trainer) -> None:
        before = trainer.state()
        for batch in batches(3):
            trainer.step(batch)
        after = trainer.state()
        initial = dict(Net().named_parameters())
        for name, tensor in before.items():
            assert np.array_equal(tensor, initial[name].detach().numpy())
            assert tensor.shape == after[name].shape
        changed = (before["conv2.weight"] != after["conv2.weight"]).any(axis=(0, 2, 3))
        assert changed.nonzero()[0].tolist() == CHOICES["sparse"]["conv2.weight"]

    def test_state_is_a_copy(self, trainer: Trainer) -> None:
        for tensor in trainer.state().values():
            tensor[:] = 7.0
        assert not any((t == 7.0).any() for t in trainer.state().values())

    def test_tensors_can_be_set(self, trainer: Trainer) -> None:
        before = trainer.state()
        head = np.full_like(before["head.weight"], 0.25)
        trainer.set_state({"head.weight": head, "conv2.weight": before["conv2.weight"]})
        assert same(trainer.state(), before | {"head.weight": head})
        assert trainer.changed

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("head.wieght", np.zeros((4, 6)), "no tensor of this model. Did you mean 'head.weight'"),
            ("conv1.weight", np.zeros((8, 3, 3, 3)), "is frozen in this plan"),
            ("head.weight", np.zeros((6, 4)), r"its shape is \[4, 6\], not \[6, 4\]"),
            ("head.weight", np.full((4, 6), np.nan), "NaN"),
            ("conv2.weight", np.zeros((6, 8, 1, 1)), "differ from the compiled ones"),
        ],
    )
    def test_what_cannot_be_set(self, trainer: Trainer, name: str, value: np.ndarray, words: str) -> None:
        before = trainer.state()
        with pytest.raises(ArtifactError, match=words):
            trainer.set_state({"head.bias": np.ones(4), name: value})
        assert same(trainer.state(), before)

    @pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
    def test_reset_starts_anew(self, compiled: Compile, optimizer: str) -> None:
        trainer = self.load(compiled(self.target, optimizer=optimizer).path)
        initial = trainer.state()
        first = [trainer.step(b).loss for b in batches(3)]
        trainer.reset()
        assert same(trainer.state(), initial)
        assert trainer.steps == 0
        assert [trainer.step(b).loss for b in batches(3)] == first

    def test_reset_may_set_a_new_head(self, trainer: Trainer) -> None:
        first = trainer.step(batches(1)[0]).loss
        head = {"head.weight": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}
        trainer.reset(head)
        assert np.array_equal(trainer.state()["head.weight"], head["head.weight"])
        losses = [trainer.step(b).loss for b in batches(2)]
        trainer.reset(head)
        assert [trainer.step(b).loss for b in batches(2)] == losses
        assert losses[0] != first

    def test_micro_steps_leave_all_but_the_sum_alone(self, compiled: Compile) -> None:
        """Bit for bit, on the device; every third step updates."""
        trainer = self.load(compiled(self.target, optimizer="accumulate").path)
        before = trainer._runner.read_state()
        for step, batch in enumerate(batches(6), start=1):
            trainer.step(batch)
            after = trainer._runner.read_state()
            moved = {n for n in after if not np.array_equal(after[n], before[n])}
            if step % 3:
                assert all(n.endswith((":accumulated", ":micro_step")) for n in moved)
                assert len(moved) == 1 + len(CHOICES["sparse"])
            else:
                assert {n for n in moved if n.startswith("trained:")} == {
                    f"trained:{fqn}" for fqn in CHOICES["sparse"]
                }
            before = after

    def test_evaluation_and_export_read_the_average(self, compiled: Compile, tmp_path: Path) -> None:
        artifact = compiled(self.target, optimizer="accumulate")
        trainer = self.load(artifact.path)
        initial = trainer.state()
        assert same(trainer.state(averaged=True), initial)
        for batch in batches(3):
            trainer.step(batch)
        live, average = trainer.state(), trainer.state(averaged=True)
        for name, tensor in average.items():
            np.testing.assert_allclose(tensor, (initial[name] + live[name]) / 2, rtol=1e-5, atol=1e-7)
        assert not same(live, average)
        net = Net()
        artifact.merge_into(net, trainer)
        assert same({n: net.get_parameter(n).detach().numpy() for n in average}, average)
        batch = batches(1)[0]
        with torch.no_grad():
            expected = metric(net, {k: torch.from_numpy(v) for k, v in batch.items()}).numpy()
        np.testing.assert_allclose(trainer.evaluate([batch]).values, expected, rtol=1e-5, atol=1e-6)
        assert same(load_file(trainer.export(tmp_path / "weights")), average)
        trainer.save(tmp_path / "checkpoint")
        fresh = Net()
        artifact.merge_into(fresh, tmp_path / "checkpoint")
        assert same({n: fresh.get_parameter(n).detach().numpy() for n in average}, average)
        trainer.reset({"head.bias": np.ones(4, np.float32)})
        assert np.array_equal(trainer.state(averaged=True)["head.bias"], np.ones(4, np.float32))

    def test_averages_that_are_not_kept_are_not_given(self, trainer: Trainer) -> None:
        with pytest.raises(ArtifactError, match=r"keeps no average.*ema_decay"):
            trainer.state(averaged=True)
