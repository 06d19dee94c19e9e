"""What a step computes, and at which learning rate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny_task import CHOICES, OPTIMIZERS, Compile, batches

from pockgraph.errors import BatchError
from pockgraph.runtime import Trainer

from .base import RunnerTests, eager, same


class Steps(RunnerTests):
    @pytest.mark.parametrize(("plan", "optimizer"), list(itertools.product(CHOICES, ["sgd", "adamw"])))
    def test_steps_are_eager_pytorchs(self, compiled: Compile, plan: str, optimizer: str) -> None:
        trainer = self.load(compiled(self.target, plan, optimizer).path)
        losses, net = eager(plan, optimizer, 4)
        got = [trainer.step(b).loss for b in batches(4)]
        np.testing.assert_allclose(got, losses, rtol=1e-5)
        state = trainer.state()
        assert state.keys() == CHOICES[plan].keys()
        for name, tensor in state.items():
            np.testing.assert_allclose(tensor, net.get_parameter(name).detach(), rtol=1e-4, atol=1e-6)

    def test_a_step_says_loss_number_and_time(self, trainer: Trainer) -> None:
        first, second = (trainer.step(b) for b in batches(2))
        assert (first.step, second.step, trainer.steps) == (1, 2, 2)
        assert first.duration_ms > 0
        assert isinstance(first.loss, float)

    def test_the_optimizers_rate_is_the_default(self, trainer: Trainer) -> None:
        trainer.step(batches(1)[0])
        default = trainer.state()
        trainer.reset()
        trainer.step(batches(1)[0], lr=OPTIMIZERS["sgd"].lr)
        assert same(default, trainer.state())
        trainer.reset()
        trainer.step(batches(1)[0], lr=0.2)
        assert not same(default, trainer.state())

    def test_a_rate_of_zero_changes_no_weight(self, trainer: Trainer) -> None:
        before = trainer.state()
        trainer.step(batches(1)[0], lr=0.0)
        assert same(before, trainer.state())

    @pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
    def test_a_rate_must_be_a_number(self, trainer: Trainer, lr: float) -> None:
        with pytest.raises(BatchError, match="is no learning rate"):
            trainer.step(batches(1)[0], lr=lr)
