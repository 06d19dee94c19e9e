"""Models made trainable, trained on OpenVINO, and written back."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from onnx_models import assert_equal, constant, ints, rand, run_module, run_onnxruntime, write_model
from oracle import assert_equal_steps, assert_frozen_unchanged, lrs_for
from truth import Steps, Truth

import pockgraph as pg
from pockgraph.errors import CaptureError
from pockgraph.frontends.onnx import OnnxModule, export_onnx, load, writing
from pockgraph.task.batch import Batch

node = helper.make_node


def cross_entropy(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def correct(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def batches(classes: int, *x: np.ndarray) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [{"x": torch.from_numpy(v), "y": torch.randint(classes, (len(v),), generator=draw)} for v in x]


def convolutional(path: Path) -> Path:
    """Two inverted bottlenecks as exporters write them: Constant nodes, hard-swish in pieces, a flatten."""
    tensors: dict[str, np.ndarray] = {
        "three": np.array(3.0, np.float32),
        "six": np.array([6.0], np.float32),
        "none": np.array(0.0, np.float32),
        "top": np.array(6.0, np.float32),
    }
    nodes = []

    def conv(name: str, x: str, cin: int, cout: int, k: int, group: int = 1, stride: int = 1) -> str:
        weight = rand(cout, cin // group, k, k, seed=len(nodes)) / np.float32(np.sqrt(cin // group * k * k))
        nodes.append(constant(f"{name}_weights", weight))
        nodes.append(
            node("Conv", [x, f"{name}_weights"], [f"{name}_c"], group=group, strides=[stride] * 2,
                 pads=[k // 2] * 4)
        )  # fmt: skip
        for part, value in zip(("scale", "offset", "mean", "variance"), (1, 0, 0, 1)):
            noise = rand(cout, seed=len(nodes) + len(part)) / 8
            tensors[f"{name}_bn_{part}"] = np.float32(value) + (np.abs(noise) if value else noise)
        parts = [f"{name}_bn_{part}" for part in ("scale", "offset", "mean", "variance")]
        nodes.append(node("BatchNormalization", [f"{name}_c", *parts], [f"{name}_y"]))
        return f"{name}_y"

    def hard_swish(x: str) -> str:
        nodes.append(node("Add", [x, "three"], [f"{x}_a"]))
        nodes.append(node("Clip", [f"{x}_a", "none", "top"], [f"{x}_k"]))
        nodes.append(node("Mul", [x, f"{x}_k"], [f"{x}_m"]))
        nodes.append(node("Div", [f"{x}_m", "six"], [f"{x}_h"]))
        return f"{x}_h"

    x = hard_swish(conv("conv1", "x", 3, 4, 3, stride=2))
    for i in (2, 3):
        y = hard_swish(conv(f"conv{i}_expand", x, 4, 8, 1))
        y = conv(f"conv{i}_depthwise", y, 8, 8, 3, group=8)
        nodes.append(node("Relu", [y], [f"{y}_r"]))
        y = conv(f"conv{i}_linear", f"{y}_r", 8, 4, 1)
        nodes.append(node("Add", [x, y], [f"sum{i}"]))
        x = f"sum{i}"
    tensors |= {
        "fc_0.w_0": rand(4, 3),
        "fc_0.b_0": rand(3),
        "rest": ints(-1),
        "zero": ints(0),
        "one": ints(1),
    }
    nodes += [
        node("GlobalAveragePool", [x], ["pooled"]),
        node("Shape", ["pooled"], ["shape"]),
        node("Slice", ["shape", "zero", "one"], ["count"]),
        node("Concat", ["count", "rest"], ["target"], axis=0),
        node("Reshape", ["pooled", "target"], ["flat"]),
        node("MatMul", ["flat", "fc_0.w_0"], ["product"]),
        node("Add", ["product", "fc_0.b_0"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"]),
    ]
    return write_model(
        path, nodes, {"x": rand(4, 3, 12, 12)}, tensors, {"probabilities": ["batch", 3]}, 13, open_batch=True
    )


def transformer(path: Path) -> Path:
    """Token and position tables, one attention block in pieces, a head on the mean."""
    tensors = {"tokens.weight": rand(11, 8), "positions.weight": rand(6, 8)}
    nodes = [node("Gather", ["tokens.weight", "x"], ["e"]), node("Add", ["e", "positions.weight"], ["h"])]
    for part in "qkv":
        tensors |= {
            f"layer.0.attn.{part}.weight": rand(8, 8, seed=ord(part)),
            f"layer.0.attn.{part}.bias": rand(8),
        }
        nodes += [
            node("MatMul", ["h", f"layer.0.attn.{part}.weight"], [f"{part}_m"]),
            node("Add", [f"{part}_m", f"layer.0.attn.{part}.bias"], [f"{part}_b"]),
            node("Reshape", [f"{part}_b", "split"], [f"{part}_s"]),
            node("Transpose", [f"{part}_s"], [part], perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]),
        ]
    tensors |= {
        "split": ints(0, 6, 2, 4), "join": ints(0, 0, 8), "scale": np.array(2.0, np.float32),
        "layer.0.norm.weight": rand(8, low=0.5), "layer.0.norm.bias": rand(8), "fc.weight": rand(3, 8),
        "fc.bias": rand(3), "layer.0.ffn.weight": rand(8, 8), "layer.0.ffn.bias": rand(8),
    }  # fmt: skip
    nodes += [
        node("MatMul", ["q", "k"], ["scores"]),
        node("Div", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["p"]),
        node("MatMul", ["p", "v"], ["o"]),
        node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        node("Reshape", ["ot", "join"], ["oj"]),
        node("Add", ["oj", "h"], ["res"]),
        node("LayerNormalization", ["res", "layer.0.norm.weight", "layer.0.norm.bias"], ["n"]),
        node("MatMul", ["n", "layer.0.ffn.weight"], ["f0"]),
        node("Add", ["layer.0.ffn.bias", "f0"], ["f1"]),
        node("Gelu", ["f1"], ["f2"]),
        node("ReduceMean", ["f2", "middle"], ["m"], keepdims=0),
        node("Gemm", ["m", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    tensors["middle"] = ints(1)
    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    return write_model(path, nodes, {"x": ids}, tensors, ["logits"], 20, open_batch=True)


def task_of(kind: str, folder: Path) -> pg.Task:
    if kind == "convolutional":
        data = batches(3, *(rand(4, 3, 12, 12, seed=i) for i in range(3)))
        path = convolutional(folder / "cnn.onnx")
    else:
        data = batches(3, *(np.random.default_rng(i).integers(0, 11, (4, 6)) for i in range(3)))
        path = transformer(folder / "transformer.onnx")
    return pg.Task.from_onnx(
        path, name=kind, outputs=["logits"], loss=cross_entropy, metric=correct, train=data, eval=data
    )


def train_on_openvino(graph: pg.TrainGraph, data: list[Batch], lrs: list[float], folder: Path) -> Any:
    artifact = pg.compile(graph, target="openvino", out=folder)
    trainer = artifact.trainer()
    losses = [trainer.step(batch, lr=lr).loss for batch, lr in zip(data, lrs, strict=True)]
    metric = torch.from_numpy(np.asarray(trainer.evaluate(data[:1]).values))
    weights = {fqn: torch.from_numpy(v) for fqn, v in trainer.state().items()}
    return artifact, trainer, Steps(losses, weights, metric)


OPTIMIZER = pg.SGD(lr=0.05, momentum=0.9)
PLANS = {
    "full": pg.Plan.full,
    "preset": pg.Plan.preset,
    "half": lambda g: pg.Plan.of(g, {r.fqn: 0.5 for r in g.tensors if r.channel_dim is not None}),
}


@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("convolutional", "half"),
        ("transformer", "full"),
        *(
            pytest.param(kind, plan, marks=pytest.mark.slow)
            for kind, plan in (
                ("convolutional", "full"),
                ("convolutional", "preset"),
                ("transformer", "preset"),
            )
        ),
    ],
)
def test_three_steps_on_openvino_equal_eager_pytorch(kind: str, plan: str, tmp_path: Path) -> None:
    task = task_of(kind, tmp_path)
    graph = pg.build(task, OPTIMIZER)
    small = graph.prune(PLANS[plan](graph))
    lrs, data = lrs_for(OPTIMIZER), list(task.train)
    *_, got = train_on_openvino(small, data, lrs, tmp_path / "artifact")
    assert_equal_steps(got, Truth(task, small.plan, OPTIMIZER, data, lrs), small)
    assert_frozen_unchanged(got, small)


def test_rows_have_the_names_layers_and_blocks_that_presets_need(tmp_path: Path) -> None:
    graph = pg.build(task_of("convolutional", tmp_path), OPTIMIZER)
    rows = {r.fqn: r for r in graph.tensors}
    assert rows["conv.3.expand.weight"].block == "conv.3"
    assert rows["conv.3.expand.weight"].kind == "weight"
    assert rows["conv.3.expand.weight"].channel_dim == 1
    assert rows["conv.3.depthwise.weight"].channel_dim == 0
    assert rows["conv.3.depthwise_bn.weight"].kind == "norm"
    assert rows["conv.3.depthwise_bn.bias"].kind == "bias"
    assert {*pg.Plan.head(graph).tensors} == {"fc.0.weight", "fc.0.bias"}
    preset = {*pg.Plan.preset(graph).tensors}
    assert "conv.3.expand.weight" in preset
    assert "conv.3.depthwise.weight" not in preset
    layers = {n.meta["layer"] for n in graph.nodes("forward")}
    assert {"conv.3.depthwise", "fc.0"} <= layers


# ---------------------------------------------------------------- what PyTorch's exporter adds and merges


class UNetBlock(torch.nn.Module):
    """Norms with and without weights of their own, fresh: their scales and biases are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm1, self.norm2 = torch.nn.GroupNorm(2, 8), torch.nn.GroupNorm(4, 8)
        self.middle = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.plain, self.own = torch.nn.InstanceNorm2d(8), torch.nn.InstanceNorm2d(8, affine=True)
        self.up = torch.nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = torch.nn.Linear(8 + 3, 5)
        self.no_bias = torch.nn.LayerNorm(11, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.down(x)))
        y = y + torch.relu(self.norm2(self.middle(y)))
        y = torch.cat([self.own(self.plain(self.up(y))), x * torch.tensor([[[1.0]], [[2.0]], [[3.0]]])], 1)
        return self.head(self.no_bias(y.square().mean((2, 3))))


def test_an_exported_block_trains_the_parameters_of_the_original_and_no_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original, path = UNetBlock().eval(), tmp_path / "block.onnx"
    data = batches(5, *(rand(2, 3, 8, 8, seed=i) for i in range(3)))
    torch.onnx.export(original, (data[0]["x"],), path, dynamo=False, opset_version=17, input_names=["x"])
    with pytest.warns(UserWarning, match=r"/plain/Constant_output_0.* will not be trained.*parameters="):
        task = pg.Task.from_onnx(
            path, name="block", loss=cross_entropy, metric=correct, train=data, eval=data
        )
    sizes = sorted(tuple(p.squeeze().shape) for p in original.parameters())
    assert sorted(tuple(p.squeeze().shape) for p in task.model.parameters()) == sizes
    lrs = lrs_for(OPTIMIZER)
    _, _, steps = train_on_openvino(pg.build(task, OPTIMIZER), data, lrs, tmp_path / "artifact")
    eager = torch.optim.SGD(original.parameters(), momentum=0.9)
    expected = []
    for batch, lr in zip(data, lrs, strict=True):
        eager.param_groups[0]["lr"] = lr
        loss = cross_entropy(original, batch)
        eager.zero_grad()
        loss.backward()
        eager.step()
        expected.append(loss.item())
    assert steps.losses == pytest.approx(expected, rel=1e-5)
    model = task.model
    assert isinstance(model, OnnxModule)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) / 8)
    x = {"x": data[0]["x"].numpy()}
    assert_equal(run_module(model, x), run_onnxruntime(export_onnx(model, tmp_path / "trained.onnx"), x))


def norm_named(path: Path, scale: str, value: float, readers: int = 1) -> Path:
    """An instance norm, or several one after the other, with a scale of one number under this name."""
    between = ["x", *(f"y{i}" for i in range(readers))]
    tensors = {scale: np.full(3, value, np.float32), "bias": rand(3, seed=1)}
    nodes = [node("InstanceNormalization", [x, scale, "bias"], [y]) for x, y in itertools.pairwise(between)]
    return write_model(path, nodes, {"x": rand(2, 3, 4, 4)}, tensors, [between[-1]])


@pytest.mark.parametrize(
    ("scale", "value", "trained"),
    [
        ("val_8", 1.0, False), ("/n/Constant_1_output_0", 1.0, False), ("p2o.helper.constant.3", 1.0, False),
        ("val_8", 0.5, True), ("n.weight", 1.0, True), ("param_0", 1.0, True), ("onnx::Mul_57", 1.0, True),
    ],
)  # fmt: skip
def test_only_ones_under_a_name_that_an_exporter_counts_are_no_parameter(
    scale: str, value: float, trained: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    module = load(norm_named(tmp_path / "m.onnx", scale, value))
    assert (len(list(module.parameters())), module.made_by_exporter) == (
        1 + trained,
        () if trained else (scale,),
    )
    assert [scale in str(w.message) for w in recwarn] == [True] * (not trained)
    if not trained:
        forced = load(tmp_path / "m.onnx", parameters=[scale])
        assert len(list(forced.parameters())) == 2


def test_a_fresh_scale_of_several_norms_is_pointed_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"n\.weight is one parameter that 2 operators read.*optimize=False"):
        load(norm_named(tmp_path / "m.onnx", "n.weight", 1.0, readers=2))


# ---------------------------------------------------------------- written back


def test_the_trained_model_is_the_same_model_with_other_weights(tmp_path: Path) -> None:
    task = task_of("convolutional", tmp_path)
    graph = pg.build(task, OPTIMIZER)
    artifact, trainer, _ = train_on_openvino(
        graph.prune(pg.Plan.preset(graph)), list(task.train), lrs_for(OPTIMIZER), tmp_path / "artifact"
    )
    model = task.model
    assert isinstance(model, OnnxModule)
    artifact.merge_into(model, trainer)
    written = export_onnx(model, tmp_path / "trained.onnx")

    original, trained = onnx.load(tmp_path / "cnn.onnx"), onnx.load(written)
    onnx.checker.check_model(trained)
    x = {"x": task.example["x"].numpy()}
    assert_equal(run_module(load(written), x), run_onnxruntime(written, x))
    logits = load(written, outputs=["logits"])
    for fqn, value in model.named_parameters():
        assert torch.equal(logits.get_parameter(fqn), value), fqn
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (original, trained)
    )
    names = {model.tensor_names[fqn] for fqn in graph.prune(pg.Plan.preset(graph)).plan.tensors}
    changed = {n for n, v in before.items() if not np.array_equal(v, after[n])}
    assert changed
    assert changed <= names
    for m in (original, trained):
        del m.graph.initializer[:]
        for n in m.graph.node:
            if n.op_type == "Constant":
                n.attribute[0].t.ClearField("raw_data")
    assert original == trained


def test_writing_refuses_what_would_not_be_the_trained_model(tmp_path: Path) -> None:
    path = convolutional(tmp_path / "m.onnx")
    module = load(path)
    with torch.no_grad():
        module.get_parameter("fc.0.bias")[0] = torch.nan
    with pytest.raises(CaptureError, match=r"fc_0\.b_0 hold NaN"):
        export_onnx(module, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    module = load(path)
    transformer(path)
    with pytest.raises(CaptureError, match="has changed since it was loaded"):
        export_onnx(module, tmp_path / "out.onnx")


def test_a_model_may_replace_itself_and_be_trained_on(tmp_path: Path) -> None:
    path = convolutional(tmp_path / "m.onnx")
    module = load(path)
    with torch.no_grad():
        module.get_parameter("fc.0.bias").add_(1)
    export_onnx(module, path)
    assert torch.equal(load(path).get_parameter("fc.0.bias"), module.get_parameter("fc.0.bias"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_external_data_is_read_and_large_models_are_written_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(transformer(tmp_path / "plain.onnx"))
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=200)
    module = load(path)
    ids = {"x": np.arange(24).reshape(4, 6) % 11}
    expected = run_onnxruntime(path, ids)
    assert_equal(run_module(module, ids), expected)
    assert_equal(run_onnxruntime(export_onnx(module, tmp_path / "inside.onnx"), ids), expected)
    monkeypatch.setattr(writing, "LARGEST_FILE_BYTES", 100)
    monkeypatch.setattr(writing, "SMALLEST_OUTSIDE_BYTES", 200)
    outside = export_onnx(module, tmp_path / "outside.onnx")
    assert len(list(tmp_path.glob("outside.*.data"))) == 1
    assert outside.stat().st_size < (tmp_path / "inside.onnx").stat().st_size
    assert_equal(run_onnxruntime(outside, ids), expected)
    assert_equal(run_module(load(outside), ids), expected)


# ---------------------------------------------------------------- the document, and a real model


def test_the_example_in_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text()
    section = text[text.index("## Train an ONNX model") :]
    example = re.findall(r"```python\n(.*?)```", section, re.S)[0]
    exec(compile(example, "docs/onnx.md", "exec"), {})
    first, last = map(float, re.findall(r"loss ([\d.]+) -> ([\d.]+)", capsys.readouterr().out)[0])
    assert last < first
    onnx.checker.check_model(onnx.load("digits-trained.onnx"))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="rapidocr-onnxruntime is not installed"
)
def test_a_text_direction_classifier_trains_and_is_written_back(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    data = batches(2, *(rand(4, 3, 48, 192, seed=i) for i in range(3)))
    task = pg.Task.from_onnx(
        path, name="direction", outputs=["linear_1.tmp_1"], loss=cross_entropy, metric=correct, train=data,
        eval=data,
    )  # fmt: skip
    graph = pg.build(task, OPTIMIZER)
    small = graph.prune(pg.Plan.preset(graph))
    lrs = lrs_for(OPTIMIZER)
    artifact, trainer, got = train_on_openvino(small, data, lrs, tmp_path / "artifact")
    assert_equal_steps(got, Truth(task, small.plan, OPTIMIZER, data, lrs), small)
    model = task.model
    assert isinstance(model, OnnxModule)
    artifact.merge_into(model, trainer)
    written = export_onnx(model, tmp_path / "trained.onnx")
    x = {"x": data[0]["x"].numpy()}
    assert_equal(run_module(load(written), x), run_onnxruntime(written, x))
