"""What is predicted with the weights that were learnt, by a Trainer and by a Predictor."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import zoo
from oracle import TOLERANCE
from tiny_task import SAMPLES, Compile, Net, batches, samples

import pockgraph as pg
from pockgraph.errors import ArtifactError
from pockgraph.runtime import Predictor, Trainer

from .base import RunnerTests, eager

STEP_FILES = ("train.xml", "train.onnx", "train.graph.json", "train.pte", "eval.xml", "eval.onnx")


def assert_equals_eager(got: np.ndarray, expected: torch.Tensor) -> None:
    right = expected.detach().numpy()
    assert got.shape == right.shape
    assert np.abs(got - right).max() <= TOLERANCE[torch.float32].loss_ratio * np.abs(right).max()


class Predictions(RunnerTests):
    @pytest.fixture
    def trained(self, compiled: Compile) -> Iterator[Trainer]:
        """After three steps; it predicts a dict of batches without labels, compiled for 1 and 4 samples."""
        with self.load(compiled(self.target, predict="named").path) as trainer:
            for batch in batches(3):
                trainer.step(batch)
            yield trainer

    @pytest.mark.parametrize("count", [1, 3, 4, 5, SAMPLES])
    def test_what_was_learnt_predicts_batches_of_any_size(self, trained: Trainer, count: int) -> None:
        _, net = eager("sparse", "sgd", 3)
        x = samples()["x"][:count]
        found = trained.predict({"image": x.numpy()})
        assert isinstance(found, dict)
        assert list(found) == ["logits", "label"]
        assert_equals_eager(found["logits"], net(x))
        assert found["label"].dtype == np.int64
        assert np.array_equal(found["label"], net(x).argmax(1).numpy())

    def test_one_tensor_of_a_training_batch_by_averaged_weights(self, compiled: Compile) -> None:
        trainer = self.load(compiled(self.target, optimizer="accumulate", predict="one").path)
        assert [p.samples for p in trainer.manifest.predict] == [1, 8]
        for batch in batches(4):
            trainer.step(batch)
        net = Net()
        averages = {k: torch.from_numpy(v) for k, v in trainer.state(averaged=True).items()}
        net.load_state_dict(averages, strict=False)
        batch = batches(1)[0]
        found = trainer.predict(batch)  # with labels
        assert isinstance(found, np.ndarray)
        assert_equals_eager(found, net(torch.from_numpy(batch["x"])))
        assert np.array_equal(found, trainer.predict({"x": batch["x"]}))
        kept = found.copy()
        trainer.predict({"x": batch["x"] + 1})
        assert np.array_equal(found, kept)  # it is the caller's own

    def test_a_transformer(self, tmp_path: Path) -> None:
        task = zoo("transformer")
        predict: Any = lambda model, batch: model(batch["ids"]).softmax(-1)  # noqa: E731
        graph = pg.build(dataclasses.replace(task, predict=predict), pg.SGD(lr=0.1))
        artifact = pg.compile(
            graph, pg.Plan.preset(graph), target=self.target, out=tmp_path / "out", parity=False
        )
        trainer = self.load(artifact.path)
        for batch in list(task.train)[:3]:
            trainer.step({k: v.numpy() for k, v in batch.items()})
        net = copy.deepcopy(task.model)
        artifact.merge_into(net, trainer)
        ids = task.example["ids"][:3]
        found = trainer.predict({"ids": ids.numpy()})
        assert isinstance(found, np.ndarray)
        assert_equals_eager(found, predict(net, {"ids": ids}))

    def test_predictions_follow_the_state_and_leave_it_alone(self, trained: Trainer) -> None:
        trained.reset()
        losses = [trained.step(b).loss for b in batches(3)]
        trained.reset()

        def predict() -> np.ndarray:
            found = trained.predict({"image": batches(1)[0]["x"]})
            assert isinstance(found, dict)
            return found["logits"]

        answers, mixed = [predict()], []
        for batch in batches(3):
            mixed.append(trained.step(batch).loss)
            answers.append(predict())
        assert mixed == losses
        assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(answers))
        trained._runner.step(batches(1)[0], 0.1)
        trained._runner.undo()
        assert np.array_equal(predict(), answers[-1])
        trained.reset()
        assert np.array_equal(predict(), answers[0])

    def test_a_predictor_answers_as_the_trainer_did_without_its_step(
        self, trained: Trainer, copied: Callable[..., Path], tmp_path: Path
    ) -> None:
        folder, saved = copied(self.target, predict="named"), trained.save(tmp_path / "saved")
        for name in STEP_FILES:
            (folder / name).unlink(missing_ok=True)
        batch = {"image": samples()["x"][:5].numpy()}
        with Predictor.load(folder, saved, threads=1) as predictor:
            found, right = predictor.predict(batch), trained.predict(batch)
            assert all(np.array_equal(found[name], right[name]) for name in ("logits", "label"))
        trained.reset()
        with Predictor.load(folder, threads=1) as predictor:
            assert np.array_equal(predictor.predict(batch)["logits"], trained.predict(batch)["logits"])
            predictor.load_checkpoint(saved)
            assert np.array_equal(predictor.predict(batch)["logits"], right["logits"])
        with pytest.raises(ArtifactError, match="was closed"):
            predictor.predict(batch)
