"""The ONNX target as a whole: the standard, state, names, files, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from models import ZOO
from onnx_graphs import run_onnx
from operator_contract.comparison import assert_close, graph_of, ints, rand
from operator_contract.convolution import CONVOLUTIONS, conv_args
from oracle import PLANS, built
from test_openvino_target import in_phases, stateful_graph

import pockgraph as pg
from pockgraph import passes
from pockgraph.errors import PockError, UnsupportedOperators
from pockgraph.ir.graph import Graph, Role, Slot
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.targets.onnx import RULES, TARGET, lower
from pockgraph.targets.onnx import convolution as conv
from pockgraph.targets.onnx.model import EMBEDDED_BYTES, build_model
from pockgraph.targets.onnx.op import OPSET
from pockgraph.targets.onnx.value import Value, parameter
from pockgraph.targets.shared.geometry import Geometry

aten = torch.ops.aten


def session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------- the standard


@pytest.mark.parametrize("plan", ["full", "eighth"])
@pytest.mark.parametrize("name", ZOO)
def test_every_model_keeps_to_the_standard(name: str, plan: str, tmp_path: Path) -> None:
    """Train and eval pass the full check, with operators of the plain domain and shapes without a gap."""
    graph = built(name).prune(PLANS[plan](built(name)))
    for stem, each in {"train": graph, "eval": graph.evaluation()}.items():
        TARGET.write(passes.run(each, TARGET.pipeline({}).all), tmp_path, stem, {})
        path = tmp_path / f"{stem}.onnx"
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert not {n.domain for n in model.graph.node} - {""}
        assert not model.functions
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
        made = {o for n in model.graph.node for o in n.output if o} - {o.name for o in model.graph.output}
        assert made <= set(shapes)
        expected = {s.name for s in each.inputs if s.is_state or s.role in (Role.BATCH, Role.LR)}
        assert {i.name for i in model.graph.input} == expected
        assert {o.name for o in model.graph.output} == {s.name for s in each.outputs}


# ---------------------------------------------------------------- state and files


def test_state_goes_in_and_out(tmp_path: Path) -> None:
    x, t, w, b = rand(8, 5), ints(3, 8), rand(5, 3), rand(3)
    TARGET.write(stateful_graph(x, t, w, b), tmp_path, "train", {})
    step = session(tmp_path / "train.onnx")
    state = {"trained:w": w.numpy(), "opt_state:w:momentum_buffer": np.zeros((5, 3), np.float32)}
    names = ["loss", "new_param:w", "new_opt_state:w:momentum_buffer"]

    leaf = torch.nn.Parameter(w.clone())
    sgd = torch.optim.SGD([leaf], lr=0.1, momentum=0.9)
    for _ in range(3):
        loss = F.cross_entropy(torch.relu(x @ leaf + b), t)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        feeds = {"batch:x": x.numpy(), "batch:t": t.numpy(), "lr": np.array(0.1, np.float32), **state}
        got = step.run(names, feeds)
        assert_close(torch.from_numpy(got[0]), loss.detach(), "loss")
        assert_close(torch.from_numpy(got[1]), leaf.detach(), "w")
        state = dict(zip(state, got[1:]))


def test_large_constants_have_a_file_of_their_own(tmp_path: Path) -> None:
    w = rand(200, 100)
    graph = graph_of(lambda x, w: x @ w, rand(2, 200), w)
    slots = graph.inputs[0], Slot(Role.PARAM, "a1", (200, 100), "float32")
    for _ in range(2):  # written again, the file is not longer
        TARGET.write(Graph(graph.fx, slots, graph.outputs, {"param:a1": w}), tmp_path, "train", {})
        assert w.nbytes > EMBEDDED_BYTES
        assert (tmp_path / "train.onnx").stat().st_size < EMBEDDED_BYTES
        assert w.nbytes <= (tmp_path / "train.onnx.bin").stat().st_size < 2 * w.nbytes + 65536
    (got,) = session(tmp_path / "train.onnx").run(None, {"batch:a0": rand(2, 200).numpy()})
    assert_close(torch.from_numpy(got), rand(2, 200) @ w)
    small = graph_of(torch.neg, rand(3))
    TARGET.write(small, tmp_path, "eval", {})
    assert not (tmp_path / "eval.onnx.bin").exists()


def test_outputs_that_are_inputs_or_each_other() -> None:
    """ONNX has one name for a tensor; a calling convention may have several."""
    graph = graph_of(lambda x, y: (x, x * y, x, torch.ones(2)), rand(2), rand(2, seed=1))
    values = list(graph.fx.output_node().args[0])
    graph.fx.output_node().args = ((*values[:2], values[1], *values[2:]),)
    slots = tuple(Slot(Role.GRAD, f"out{i}", (2,), "float32") for i in range(5))
    x, y = rand(2), rand(2, seed=1)
    got = run_onnx(Graph(graph.fx, graph.inputs, slots, {}), x, y)
    for a, b in zip(got, (x, x * y, x * y, x, torch.ones(2)), strict=True):
        assert torch.equal(a, b)


def test_nodes_are_named_after_phase_layer_and_node() -> None:
    model = lower(graph_of(lambda x, w: F.conv2d(x, w).relu(), rand(1, 3, 5, 5), rand(4, 3, 1, 1)))
    assert [n.name for n in model.graph.node] == ["forward/tested/convolution", "forward/tested/relu"]
    assert [n.output[0] for n in model.graph.node] == ["forward/tested/convolution", "grad:out0"]


def test_onnx_runtime_updates_each_layer_as_soon_as_its_gradient_is_there(tmp_path: Path) -> None:
    """Its order is its own, and with gradients kept to the end a step would need twice the memory."""
    net = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(6)))
    batch = {"x": torch.zeros(2, 16)}
    task = pg.Task(
        "deep", net, lambda m, b: m(b["x"]).relu().sum(), lambda m, b: m(b["x"])[:, 0], [batch], [batch]
    )
    TARGET.write(
        TARGET.pipeline({}).finish(pg.build(task, pg.SGD(lr=0.1, momentum=0.9)), "train"),
        tmp_path,
        "train",
        {},
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    running = ort.InferenceSession(tmp_path / "train.onnx", options, providers=["CPUExecutionProvider"])
    running.run(None, {x.name: np.zeros(x.shape, np.float32) for x in running.get_inputs()})
    events = json.loads(Path(running.end_profiling()).read_text())
    suffix = "_kernel_time"
    timed = sorted((e["ts"], e["name"]) for e in events if e["name"].endswith(suffix))
    order = [name.removesuffix(suffix).split("/")[:2] for _, name in timed]
    updated = [max(i for i, at in enumerate(order) if at == ["update", str(layer)]) for layer in range(6)]
    assert updated == sorted(updated, reverse=True)
    assert updated[5] < max(i for i, (phase, _) in enumerate(order) if phase == "backward")


def test_no_runtime_is_needed_to_lower() -> None:
    absent = "import sys; sys.modules['openvino'] = sys.modules['onnxruntime'] = None"
    code = f"{absent}; import pockgraph.targets.onnx"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ---------------------------------------------------------------- convolutions


STRATEGIES = {
    conv.by_matmuls: lambda x, dy, g: g.groups == 1,
    conv.by_im2col: lambda x, dy, g: g.groups == 1,
    conv.by_groups: lambda x, dy, g: g.groups > 1,
    conv.by_products: lambda x, dy, g: g.groups == x.shape[1] == dy.shape[1],
    conv.by_samples: lambda x, dy, g: g.groups == x.shape[1] == dy.shape[1],
    conv.by_rows: lambda x, dy, g: (
        g.groups == x.shape[1] == dy.shape[1] and x.ndim == 4 and {*g.stride} == {1}
    ),
}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_strategies_of_the_weight_gradient(name: str, strategy: Any) -> None:
    size, n, i, o, k, stride, padding, dilation, groups = CONVOLUTIONS[name]
    x, w = conv_args(size, n, i, o, k, groups)
    g = Geometry.of(
        w.shape[2:], *((v,) if isinstance(v, int) else v for v in (stride, padding, dilation)), groups
    )
    function = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    dy = rand(*function(x, w, None, stride, padding, dilation, groups).shape, seed=8)
    if not STRATEGIES[strategy](x, dy, g):
        pytest.skip("not for this shape")
    arguments = dy, x, w, None, g.stride, g.before, g.dilation, False, [0] * len(size), groups
    expected = aten.convolution_backward(*arguments, [False, True, False])[1]
    inputs = [parameter("x", tuple(x.shape), x.dtype), parameter("dy", tuple(dy.shape), dy.dtype)]
    made: Value = strategy(*inputs, g)
    got = session(build_model(inputs, {"dw": made})).run(None, {"x": x.numpy(), "dy": dy.numpy()})[0]
    assert_close(torch.from_numpy(got), expected, strategy.__name__)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("size", "stride"), [(8, 2), (9, 2), (7, 1)])
def test_padding_becomes_part_of_the_convolution(size: int, stride: int, groups: int) -> None:
    pad, w = (0, 1, 1, 2), rand(4, 4 // groups, 3, 3)

    def forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, pad), w, None, stride, 1, groups=groups)

    x = rand(2, 4, size, size)
    graph = graph_of(forward, x, w)
    assert "Pad" not in {n.op_type for n in lower(graph).graph.node}
    assert_close(run_onnx(graph, x, w)[0], forward(x, w))


@pytest.mark.parametrize("frozen_bias", [True, False])
def test_a_trained_bias_stands_apart_from_a_frozen_kernel(frozen_bias: bool) -> None:
    args = {"a0": rand(2, 4, 5, 5), "a1": rand(4, 1, 3, 3), "a2": rand(4)}
    graph = graph_of(lambda x, w, b: F.conv2d(x, w, b, groups=4), *args.values())
    frozen = {"a1", "a2"} if frozen_bias else {"a1"}
    slots = tuple(replace(s, role=Role.PARAM) if s.fqn in frozen else s for s in graph.inputs)
    model = lower(Graph(graph.fx, slots, graph.outputs, {f"param:{n}": args[n] for n in frozen}))
    assert [n.op_type for n in model.graph.node] == (["Conv"] if frozen_bias else ["Conv", "Reshape", "Add"])
    feeds = {f"batch:{n}": a.numpy() for n, a in args.items() if n not in frozen}
    (got,) = session(model).run(None, feeds)
    assert_close(torch.from_numpy(got), F.conv2d(*args.values(), groups=4))


# ---------------------------------------------------------------- the update, and masks


def test_updates_of_kernels_are_done_on_vectors() -> None:
    def function(w: torch.Tensor, g: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return w - lr * (g * 0.9 + w * w)

    args = rand(6, 4, 1, 1), rand(6, 4, 1, 1, seed=1), torch.tensor(0.1)
    graph = graph_of(function, *args)
    graph = TARGET.pipeline({}).finish(in_phases(graph, **{n.name: "update" for n in graph.nodes()}), "train")
    inferred = onnx.shape_inference.infer_shapes(lower(graph)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    arithmetic = [n.output[0] for n in inferred.node if n.op_type in ("Mul", "Add", "Sub")]
    assert len(arithmetic) == 5
    assert all(shapes[name] == [24] for name in arithmetic)
    assert_close(run_onnx(graph, *args)[0], function(*args), "updated")


@pytest.mark.parametrize(
    ("gradient", "select"),
    {
        "of a product": (lambda w, dz: dz @ w.mT, False),
        "of a product, scaled": (lambda w, dz: (dz @ w.mT) * w[:, 0], False),
        "of a sum with something else": (lambda w, dz: dz @ w.mT + dz.exp(), True),
        "of a product, divided": (lambda w, dz: dz @ w.mT / dz, True),
        "of a root": (lambda w, dz: dz.sqrt(), True),
    }.values(),
)  # fmt: skip
def test_only_gradients_of_products_are_multiplied_with_masks(gradient: Any, select: bool) -> None:
    """Elsewhere a mask drops what is not finite, too: here NaN."""

    def function(x: torch.Tensor, w: torch.Tensor, dz: torch.Tensor) -> Any:
        dy = gradient(w, dz)
        clamped = aten.hardtanh_backward(dy, x, 0.0, 6.0)
        return aten.threshold_backward(dy, x, 0), clamped, dy.masked_fill(x > 0, 0.0)

    args = rand(5, 4), rand(4, 4), rand(5, 4, seed=1)
    graph = Canonicalize()(graph_of(function, *args))
    graph = in_phases(graph, **{n.name: "backward" for n in graph.nodes()})
    kinds = [n.op_type for n in lower(graph).graph.node]
    assert kinds.count("Where") == (3 if select else 0)
    for got, expected in zip(run_onnx(graph, *args), function(*args), strict=True):
        assert_close(got, expected)


# ---------------------------------------------------------------- many threads


def test_gradients_of_embedding_rows_that_occur_often_add_up_exactly() -> None:
    """ONNX Runtime adds in parallel in some operators: a gradient of an embedding must not depend on it."""
    index, dy = ints(3, 4000), rand(4000, 8)
    graph = graph_of(lambda dy, i: aten.embedding_dense_backward(dy, i, 5, -1, False), dy, index)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 4
    model = lower(TARGET.pipeline({}).finish(graph, "tested")).SerializeToString()
    run = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"batch:a0": dy.numpy(), "batch:a1": index.numpy()}
    results = [run.run(None, feeds)[0] for _ in range(20)]
    assert all(np.array_equal(results[0], r) for r in results)
    assert_close(torch.from_numpy(results[0]), aten.embedding_dense_backward(dy, index, 5, -1, False))


# ---------------------------------------------------------------- what is not supported


def test_every_unsupported_operator_is_listed_with_its_reason(tmp_path: Path) -> None:
    graph = graph_of(
        lambda x, m: (
            torch.linalg.inv(x),
            x.bfloat16().float(),
            (x.double() * 2).float(),
            F.max_pool2d(x[None], 2, return_indices=True)[1],
        ),
        rand(4, 4),
        ints(2, 4, 4).bool(),
    )
    missing = {u.op: u for u in TARGET.unsupported(graph)}
    assert missing["aten.linalg_inv_ex.default"].layer == "tested"
    assert missing["aten.linalg_inv_ex.default"].source == "test.py:1"
    assert "bfloat16" in missing["aten._to_copy.default"].reason
    assert "float32, int64 or int32, not in torch.float64" in missing["aten.mul.Tensor"].reason
    assert "aten.max_pool2d_with_indices.default" not in missing  # it stands for gathers
    with pytest.raises(UnsupportedOperators, match=r"linalg_inv_ex[\s\S]*compile for another target"):
        TARGET.write(graph, tmp_path / "never made", "train", {})
    assert not (tmp_path / "never made").exists()


def test_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PockError, match=r"'onnx' has no option 'precision'"):
        TARGET.write(graph_of(torch.neg, rand(2)), tmp_path, "train", {"precision": "bf16"})


def test_every_rule_is_of_an_operator() -> None:
    assert all(isinstance(o, torch._ops.OpOverload) for o in RULES)
