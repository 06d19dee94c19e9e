"""The metric, of weights that training leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_task import ROWS, SAMPLES, batches, metric, samples

from pockgraph.errors import BatchError
from pockgraph.runtime import Trainer

from .base import RunnerTests, eager


class Evaluation(RunnerTests):
    def test_evaluation_is_the_metric_of_the_current_weights(self, trainer: Trainer) -> None:
        data = samples()
        ragged = [{k: v[i : i + ROWS].numpy() for k, v in data.items()} for i in range(0, SAMPLES, ROWS)]
        assert [len(b["y"]) for b in ragged] == [8, 8, 4]
        for steps in (0, 2):
            trainer.reset()
            for batch in batches(steps):
                trainer.step(batch)
            _, net = eager("sparse", "sgd", steps)
            expected = metric(net, data).detach().numpy()
            for _ in range(2):
                result = trainer.evaluate(iter(ragged))
                np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-6)
                assert result.samples == SAMPLES
                assert result.metric == pytest.approx(expected.mean(), rel=1e-4)

    def test_evaluation_leaves_training_alone(self, trainer: Trainer) -> None:
        plain = [trainer.step(b).loss for b in batches(3)]
        trainer.reset()
        mixed = []
        for batch in batches(3):
            trainer.evaluate([batch])
            mixed.append(trainer.step(batch).loss)
        assert mixed == plain

    def test_values_of_two_evaluations_are_apart(self, trainer: Trainer) -> None:
        one, other = (trainer.evaluate([b]).values for b in batches(2))
        assert not np.array_equal(one, other)

    def test_there_must_be_something_to_evaluate(self, trainer: Trainer) -> None:
        with pytest.raises(BatchError, match="empty"):
            trainer.evaluate([])
        with pytest.raises(BatchError, match=r"pass \[batch\]"):
            trainer.evaluate(batches(1)[0])
        x, y = samples()["x"].numpy(), samples()["y"].numpy()
        with pytest.raises(BatchError, match="20 samples"):
            trainer.evaluate([{"x": x, "y": y}])
        with pytest.raises(BatchError, match="0 samples"):
            trainer.evaluate([{"x": x[:0], "y": y[:0]}])
        with pytest.raises(BatchError, match="differ in their number of samples"):
            trainer.evaluate([{"x": x[:3], "y": y[:4]}])
