"""What a trainer keeps beside weights: running statistics, and where it stands in dropout's masks."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
from oracle import PLANS, built
from policies import DROPOUT

import pockgraph as pg
from pockgraph.artifact import Artifact
from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer

assert DROPOUT  # importing it makes the tasks known

BATCHES = [{k: v.numpy() for k, v in b.items()} for b in models.images(5)]


@pytest.fixture(scope="module", params=["torch", "openvino"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Trains the whole of a network with batch statistics and dropout."""
    graph = built("both")
    out = tmp_path_factory.mktemp("policies") / "out"
    return pg.compile(graph, PLANS["full"](graph), target=request.param, out=out)


@pytest.fixture(scope="module")
def trainers(artifact: Artifact) -> tuple[Trainer, Trainer]:
    """Two that tests reset before they train."""
    return artifact.trainer(), artifact.trainer()


def losses(trainer: Trainer, batches: list[dict[str, np.ndarray]]) -> list[float]:
    return [trainer.step(b, lr=0.05).loss for b in batches]


def test_resuming_equals_going_on(
    artifact: Artifact, trainers: tuple[Trainer, Trainer], tmp_path: Path
) -> None:
    (whole, first), second = trainers, artifact.trainer()
    for trainer in trainers:
        trainer.reset(seed=7)
    expected = losses(whole, BATCHES)
    assert losses(first, BATCHES[:2]) == expected[:2]
    path = first.save(tmp_path / "two.ckpt")
    second.load_checkpoint(path)
    assert (second.steps, second.seed) == (2, 7)
    assert losses(second, BATCHES[2:]) == expected[2:]
    for name, value in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], value, err_msg=name)
    assert second.state()["norm.num_batches_tracked"] == 5
    assert second.evaluate(BATCHES[:1]).metric == whole.evaluate(BATCHES[:1]).metric


def test_a_seed_repeats_and_another_differs(artifact: Artifact, trainers: tuple[Trainer, Trainer]) -> None:
    one = losses(artifact.trainer(seed=1), BATCHES[:2])
    trainer = trainers[0]
    trainer.reset(seed=1)
    assert losses(trainer, BATCHES[:2]) == one
    trainer.reset()
    assert losses(trainer, BATCHES[:2]) == one
    trainer.reset(seed=2)
    assert losses(trainer, BATCHES[:2]) != one
    assert trainer.seed == 2


def test_reset_brings_the_running_statistics_back(artifact: Artifact) -> None:
    trainer = artifact.trainer()
    before = trainer.state()
    losses(trainer, BATCHES[:1])
    assert not np.array_equal(trainer.state()["norm.running_mean"], before["norm.running_mean"])
    trainer.reset()
    for name, value in before.items():
        np.testing.assert_array_equal(trainer.state()[name], value, err_msg=name)


def test_running_statistics_can_be_set(trainers: tuple[Trainer, Trainer]) -> None:
    trainer, other = trainers
    for each in trainers:
        each.reset()
    losses(trainer, BATCHES[:2])
    state = trainer.state()
    other.set_state(state)
    assert other.evaluate(BATCHES[:1]).metric == trainer.evaluate(BATCHES[:1]).metric
    with pytest.raises(ArtifactError, match=r"norm.running_mean.*shape is \[8\], not \[3\]"):
        other.set_state({"norm.running_mean": np.zeros(3, np.float32)})


def test_evaluation_drops_nothing(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    one.reset(seed=1)
    other.reset(seed=2)
    np.testing.assert_array_equal(one.evaluate(BATCHES[:1]).values, other.evaluate(BATCHES[:1]).values)


def test_a_seed_is_an_integer(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr("pockgraph.runtime.trainer.open_runner", lambda *given: opened.append(given))
    with pytest.raises(ArtifactError, match=r"seed='x': a seed is an integer"):
        artifact.trainer(seed="x")  # pyright: ignore
    assert not opened, "refused before anything is compiled"
