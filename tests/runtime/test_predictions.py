"""Batches that a prediction does not take, and artefacts that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_task import Compile, Net, batches, samples

from pockgraph.errors import ArtifactError, BatchError, NonFiniteBatch
from pockgraph.runtime import Predictor, Trainer


@pytest.fixture
def trained(compiled: Compile) -> Trainer:
    return Trainer.load(compiled("openvino", predict="named").path, threads=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None}, ["'image' is missing", "prediction", "'tiny'"]),
        ({"image": None, "imag": np.zeros((3, 3, 6, 6))}, ["'image' is missing", "'imag' is unexpected"]),
        ({"image": np.zeros((3, 3, 6, 7), np.float32)}, ["shape [3, 3, 6, 7] instead of [3, 3, 6, 6]"]),
        ({"image": np.zeros((3, 3, 6, 6), np.uint8)}, ["'image' holds uint8 instead of float32"]),
        ({"image": np.zeros((0, 3, 6, 6), np.float32)}, ["no samples"]),
        ({"image": np.full((3, 3, 6, 6), np.nan, np.float32)}, ["'image'", "holds nan"]),
    ],
)
def test_a_wrong_batch_is_refused(trained: Trainer, change: dict[str, Any], words: list[str]) -> None:
    batch = {k: v for k, v in change.items() if v is not None}
    with pytest.raises(NonFiniteBatch if "holds nan" in words else BatchError) as e:
        trained.predict(batch)
    for word in words:
        assert word in str(e.value)
    assert "\n" not in str(e.value)


def test_an_artefact_without_a_prediction_says_how_to_get_one(compiled: Compile) -> None:
    trainer = Trainer.load(compiled("openvino").path, threads=1)
    with pytest.raises(ArtifactError, match=r"Task\(…, predict=lambda model, batch"):
        trainer.predict(batches(1)[0])
    with pytest.raises(ArtifactError, match="compile it again"):
        Predictor.load(trainer.folder)


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_weights_that_are_compiled_in_answer_the_same_but_for_rounding(
    target: str, compiled: Compile, tmp_path: Path
) -> None:
    trained = Trainer.load(compiled(target, predict="named").path, threads=1)
    batch = {"image": samples()["x"][:5].numpy()}
    right = [trained.predict(batch)]
    saved = [trained.save(tmp_path / "0")]
    trained.step(batches(1)[0])
    right.append(trained.predict(batch))
    saved.append(trained.save(tmp_path / "1"))
    predictor = Predictor.load(trained.folder, saved[0], threads=1, constant_weights=True)
    for checkpoint, expected in (*zip(saved, right), (saved[0], right[0])):
        predictor.load_checkpoint(checkpoint)
        np.testing.assert_allclose(
            predictor.predict(batch)["logits"], expected["logits"], rtol=1e-5, atol=1e-6
        )
    runner: Any = predictor._runner
    if target == "openvino":
        assert runner._forward._requests["predict-4"].states == {}
    else:
        bound = runner._forward._opened["predict-4"]._bound[0]
        assert [node.name for node in bound._session.get_inputs()] == ["batch:image"]


def test_a_target_that_compiles_no_weights_in_says_so(compiled: Compile) -> None:
    with pytest.raises(ArtifactError, match="'torch', which does not compile trained weights in"):
        Predictor.load(compiled("torch", predict="named").path, constant_weights=True)


def test_rows_that_depend_on_others_are_neither_padded_nor_split(compiled: Compile) -> None:
    trainer = Trainer.load(compiled("torch", predict="centred", plan="head").path, threads=1)
    x = samples()["x"]
    net = Net()(x[:8])
    right = (net - net.mean(0)).detach().numpy()
    np.testing.assert_allclose(np.asarray(trainer.predict({"x": x[:8].numpy()})), right, atol=1e-6)
    for count in (5, 16):
        with pytest.raises(BatchError, match=f"{count} samples.*1, 8 samples.*predict_sizes=\\({count},\\)"):
            trainer.predict({"x": x[:count].numpy()})
