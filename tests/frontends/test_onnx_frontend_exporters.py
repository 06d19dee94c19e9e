"""Models of other frameworks, as their own exporters write them, train like their PyTorch transcription.

Needs `jax2onnx` and `flax`, or `keras` with `tensorflow` and `tf2onnx`; without them a test is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import assert_equal, rand, run_module, run_onnxruntime
from oracle import assert_equal_steps, assert_frozen_unchanged, lrs_for
from test_onnx_frontend_training import batches, correct, cross_entropy, train_on_openvino
from truth import Truth

import pockgraph as pg
from pockgraph.frontends.onnx import OnnxModule, export_onnx, load

pytestmark = pytest.mark.slow
OPTIMIZER = pg.SGD(lr=0.05, momentum=0.9)
BATCH, SIDE, CLASSES = 4, 12, 3


def flax_network(path: Path) -> None:
    """Convolutions in JAX's order of dimensions, layer norm, attention-free mixing, a classifier."""
    jax2onnx = pytest.importorskip("jax2onnx")
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs) -> None:
            self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.up = nnx.Linear(8, 16, rngs=rngs)
            self.down = nnx.Linear(16, 8, rngs=rngs)
            self.head = nnx.Linear(8, CLASSES, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.stem(x))
            x = x + self.down(nnx.gelu(self.up(self.norm(x))))
            return self.head(x.mean((1, 2)))

    model = jax2onnx.to_onnx(Network(nnx.Rngs(0)), inputs=[(BATCH, SIDE, SIDE, 3)])
    onnx.save(model, path)


def keras_network(path: Path) -> None:
    """A small MobileNet-like network with batch norm and a depthwise convolution."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential([
        layers.Input((SIDE, SIDE, 3), batch_size=BATCH),
        layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False), layers.BatchNormalization(),
        layers.ReLU(max_value=6.0),
        layers.DepthwiseConv2D(3, padding="same"), layers.BatchNormalization(), layers.Activation("swish"),
        layers.Conv2D(8, 1), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES),
    ])  # fmt: skip
    model(np.zeros((BATCH, SIDE, SIDE, 3), np.float32))  # an export needs one call
    model.export(path, format="onnx", verbose=False)


@pytest.mark.parametrize("network", [flax_network, keras_network])
def test_an_exported_network_trains_and_is_written_back(
    network: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    network(path)
    data = batches(CLASSES, *(rand(BATCH, SIDE, SIDE, 3, seed=i) for i in range(3)))
    task = pg.Task.from_onnx(
        path, name="exported", loss=cross_entropy, metric=correct, train=data, eval=data
    )  # fmt: skip
    graph = pg.build(task, OPTIMIZER)
    lrs = lrs_for(OPTIMIZER)
    for kind, plan in {"full": pg.Plan.full(graph), "preset": pg.Plan.preset(graph)}.items():
        small = graph.prune(plan)
        artifact, trainer, got = train_on_openvino(small, data, lrs, tmp_path / kind)
        assert_equal_steps(got, Truth(task, plan, OPTIMIZER, data, lrs), small)
        assert_frozen_unchanged(got, small)
    model = task.model
    assert isinstance(model, OnnxModule)
    artifact.merge_into(model, trainer)
    written = export_onnx(model, tmp_path / "trained.onnx")
    (name,) = (i.name for i in onnx.load(written).graph.input)
    x = {name: data[0]["x"].numpy()}
    assert_equal(run_module(load(written), x), run_onnxruntime(written, x))
    (after,), (before,) = (run_onnxruntime(p, x).values() for p in (written, path))
    assert not np.allclose(after, before)
