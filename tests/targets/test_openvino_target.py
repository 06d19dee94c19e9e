"""The OpenVINO target as a whole: state, names, schedule, files, and what it refuses."""

from __future__ import annotations

import math
import operator
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from openvino_graphs import CONFIG, CORE, check, run_openvino
from operator_contract.comparison import assert_close, graph_of, ints, rand, traced

from pockgraph.errors import PockError, UnsupportedOperators
from pockgraph.ir.graph import Graph, Role, Slot
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.runtime.quiet_openvino import ov
from pockgraph.targets import get_target, target_names
from pockgraph.targets.openvino import RULES, TARGET, lower
from pockgraph.targets.openvino.openvino_rules import TABLE

aten = torch.ops.aten

# ---------------------------------------------------------------- state


def stateful_graph(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Graph:
    """loss of relu(x @ w + b), and an SGD step with momentum on w; b is constant."""

    def step(
        x: torch.Tensor, t: torch.Tensor, lr: torch.Tensor, w: torch.Tensor, b: torch.Tensor, m: torch.Tensor
    ) -> Any:
        leaf = w.detach().requires_grad_()
        loss = F.cross_entropy(torch.relu(x @ leaf + b), t)
        (dw,) = torch.autograd.grad(loss, [leaf])
        m = 0.9 * m + dw
        return loss, w - lr * m, m

    lr, m = torch.tensor(0.1), torch.zeros_like(w)
    slots = (
        Slot(Role.BATCH, "x", tuple(x.shape), "float32"),
        Slot(Role.BATCH, "t", tuple(t.shape), "int64"),
        Slot(Role.LR, "", (), "float32"),
        Slot(Role.PARAM, "w", tuple(w.shape), "float32", trained=True),
        Slot(Role.PARAM, "b", tuple(b.shape), "float32"),
        Slot(Role.OPT_STATE, "w", tuple(w.shape), "float32", key="momentum_buffer"),
    )
    outputs = (
        Slot(Role.LOSS, "", (), "float32"),
        Slot(Role.NEW_PARAM, "w", tuple(w.shape), "float32"),
        Slot(Role.NEW_OPT_STATE, "w", tuple(w.shape), "float32", key="momentum_buffer"),
    )
    fx_graph = traced(step, x, t, lr, w, b, m)
    output = fx_graph.output_node()
    output.args = (tuple(output.args[0]),)
    graph = Graph(fx_graph, slots, outputs, {"trained:w": w, "param:b": b, "opt_state:w:momentum_buffer": m})
    return TARGET.pipeline({}).finish(graph, "train")


def test_state_is_kept_between_steps(tmp_path: Path) -> None:
    x, t, w, b = rand(8, 5), ints(3, 8), rand(5, 3), rand(3)
    graph = stateful_graph(x, t, w, b)
    TARGET.write(graph, tmp_path, "train", {})
    # No state is stored: its initial value is whoever's who runs the step.
    assert (tmp_path / "train.bin").stat().st_size < 200
    request = CORE.compile_model(
        CORE.read_model(tmp_path / "train.xml"), "CPU", CONFIG
    ).create_infer_request()
    states = {s.name: s for s in request.query_state()}
    assert set(states) == {"trained:w", "opt_state:w:momentum_buffer"}
    for name, state in states.items():
        state.state = ov.Tensor(graph.values[name].numpy())

    parameter = torch.nn.Parameter(w.clone())
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    for _ in range(3):
        loss = F.cross_entropy(torch.relu(x @ parameter + b), t)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        got = request.infer({"batch:x": x.numpy(), "batch:t": t.numpy(), "lr": np.float32(0.1)})
        assert_close(torch.from_numpy(np.array(got["loss"])), loss.detach(), "loss")
        assert_close(torch.from_numpy(states["trained:w"].state.data.copy()), parameter.detach(), "w")
    momentum = torch.from_numpy(states["opt_state:w:momentum_buffer"].state.data.copy())
    assert_close(momentum, sgd.state[parameter]["momentum_buffer"], "momentum")


def test_eval_graph_reads_state_that_is_set_from_outside() -> None:
    x, w = rand(4, 5), rand(5, 3)
    slots = (Slot(Role.BATCH, "x", (4, 5), "float32"), Slot(Role.PARAM, "w", (5, 3), "float32", trained=True))
    outputs = (Slot(Role.METRIC, "", (4,), "float32"),)
    fx_graph = traced(lambda x, w: ((x @ w).amax(1),), x, w)
    fx_graph.output_node().args = (tuple(fx_graph.output_node().args[0]),)
    graph = Graph(fx_graph, slots, outputs, {"trained:w": w})
    request = CORE.compile_model(lower(graph), "CPU", CONFIG).create_infer_request()
    for factor in (1, 2):
        (state,) = request.query_state()
        state.state = ov.Tensor((factor * w).numpy())
        for _ in range(2):
            got = request.infer({"batch:x": x.numpy()})["metric"]
            assert_close(torch.from_numpy(np.array(got)), (x @ (factor * w)).amax(1), "metric")


RUN_A_STEP = """
import sys
sys.modules["torch"] = None
sys.modules["openvino.tools.ovc"] = None
import numpy as np, openvino as ov
request = ov.compile_model(sys.argv[1], "CPU").create_infer_request()
for s in request.query_state():
    s.state = ov.Tensor(np.zeros(s.state.shape, np.float32))
batch = {"batch:x": np.zeros((8, 5), np.float32), "batch:t": np.zeros(8, np.int64)}
print(float(request.infer({**batch, "lr": np.float32(1)})["loss"]))
"""


def run_python(code: str, *args: str) -> str:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_step_runs_where_torch_is_absent(tmp_path: Path) -> None:
    graph = stateful_graph(rand(8, 5), ints(3, 8), rand(5, 3), torch.zeros(3))
    TARGET.write(graph, tmp_path, "train", {})
    loss = float(run_python(RUN_A_STEP, str(tmp_path / "train.xml")))
    assert loss == pytest.approx(math.log(3))


def test_nothing_of_openvinos_telemetry_is_imported() -> None:
    code = "import sys, pockgraph.targets.openvino; print([m for m in sys.modules if 'telemetry' in m])"
    assert run_python(code).strip() == "[]"


# ---------------------------------------------------------------- schedule and memory


def in_phases(graph: Graph, **phases: str) -> Graph:
    """`graph` with the phase of the named nodes changed."""
    for node in graph.nodes():
        node.meta["phase"] = phases.get(node.name, node.meta["phase"])
    return graph


def executed(graph: Graph) -> list[str]:
    """Friendly names in the order in which OpenVINO's CPU plugin runs them."""
    compiled = CORE.compile_model(lower(graph), "CPU", {**CONFIG, "PERF_COUNT": "YES"})
    request = compiled.create_infer_request()
    for state in request.query_state():
        state.state = ov.Tensor(np.zeros(tuple(state.state.shape), np.float32))
    request.infer([np.zeros(tuple(p.shape), p.element_type.to_dtype()) for p in compiled.inputs])
    return [info.node_name for info in request.get_profiling_info()]


def test_a_mask_for_the_backward_is_made_in_the_forward() -> None:
    """Else the activation would be kept for it, four times as large."""

    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x @ w)
        outside = y <= 0
        return ((y @ v) @ v.t()).masked_fill(outside, 0.0)

    args = rand(8, 16), rand(16, 32), rand(32, 64)
    graph = in_phases(Canonicalize()(graph_of(function, *args)), masked_fill="backward", mm_2="backward")
    names = executed(graph)
    mask = next(i for i, n in enumerate(names) if "/le" in n)
    assert mask < next(i for i, n in enumerate(names) if "mm_1" in n)
    check(function, *args)


UPDATE = (aten.mul.Tensor, aten.sub.Tensor)


def test_updates_run_as_soon_as_their_gradients_are_there() -> None:
    """Whatever the order of the outputs is; a gradient is then freed before the next one is made."""

    def step(x: torch.Tensor, lr: torch.Tensor, *weights: torch.Tensor) -> Any:
        leaves = [w.detach().requires_grad_() for w in weights]
        y = x
        for w in leaves:
            y = torch.tanh(y @ w)
        gradients = torch.autograd.grad(y.sum(), leaves)
        return tuple(w - lr * g for w, g in zip(weights, gradients))

    weights = [rand(16, 16, seed=i) for i in range(4)]
    x, lr = rand(4, 16), torch.tensor(0.1)
    fx_graph = traced(step, x, lr, *weights)
    fx_graph.output_node().args = (tuple(fx_graph.output_node().args[0]),)
    own = [Slot(Role.PARAM, f"w{i}", (16, 16), "float32", trained=True) for i in range(4)]
    new = tuple(Slot(Role.NEW_PARAM, f"w{i}", (16, 16), "float32") for i in range(4))
    inputs = (Slot(Role.BATCH, "x", (4, 16), "float32"), Slot(Role.LR, "", (), "float32"), *own)
    graph = Graph(fx_graph, inputs, new, {f"trained:w{i}": w for i, w in enumerate(weights)})
    graph = Canonicalize()(graph)
    graph = in_phases(graph, **{n.name: "update" for n in graph.nodes() if n.target in UPDATE})
    graph = TARGET.pipeline({}).finish(graph, "tested")
    variables = [sink.get_variable_id() for sink in lower(graph).get_sinks()]
    assert variables == ["trained:w0", "trained:w1", "trained:w2", "trained:w3"]  # the last one first
    names = [n for n in executed(graph) if n.endswith(("/sub", "/sub_1", "/sub_2", "/sub_3"))]
    assert [n.split("/")[-1] for n in names] == ["sub_3", "sub_2", "sub_1", "sub"]


def test_updates_of_kernels_are_done_on_vectors() -> None:
    def function(w: torch.Tensor, g: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return w - lr * (g * 0.9 + w * w)

    args = rand(6, 4, 3, 3), rand(6, 4, 3, 3, seed=1), torch.tensor(0.1)
    graph = graph_of(function, *args)
    graph = TARGET.pipeline({}).finish(in_phases(graph, **{n.name: "update" for n in graph.nodes()}), "train")
    shapes = {tuple(n.shape) for n in lower(graph).get_ops() if n.get_type_name() in ("Subtract", "Multiply")}
    assert shapes == {(216,)}
    expected = function(*args)
    assert_close(run_openvino(graph, *args)[0], expected, "updated")


# ---------------------------------------------------------------- names, and what is not supported


def test_nodes_are_named_after_phase_layer_and_node() -> None:
    model = lower(graph_of(lambda x, w: F.conv2d(x, w).relu(), rand(1, 3, 5, 5), rand(4, 3, 1, 1)))
    names = {n.get_friendly_name() for n in model.get_ops()}
    assert {"forward/tested/convolution", "forward/tested/relu", "batch:a0", "grad:out0"} <= names


def test_every_unsupported_operator_is_listed_with_its_reason(tmp_path: Path) -> None:
    graph = graph_of(
        lambda x, m: (
            torch.linalg.inv(x),
            x.bfloat16().float(),
            F.max_pool2d(x[None], 2, return_indices=True)[1],
            torch.fft.fft(x).real,
        ),
        rand(4, 4),
        ints(2, 4, 4).bool(),
    )
    missing = {u.op: u for u in TARGET.unsupported(graph)}
    assert {"aten.linalg_inv_ex.default", "aten._to_copy.default"} <= set(missing)
    assert missing["aten.linalg_inv_ex.default"].layer == "tested"
    assert missing["aten.linalg_inv_ex.default"].source == "test.py:1"
    assert "bfloat16" in missing["aten._to_copy.default"].reason
    assert "aten.max_pool2d_with_indices.default" not in missing  # it stands for gathers
    with pytest.raises(UnsupportedOperators, match=r"linalg_inv_ex[\s\S]*compile for another target"):
        TARGET.write(graph, tmp_path, "train", {})


def test_arguments_that_a_rule_cannot_take_are_expanded() -> None:
    graph = graph_of(lambda x: F.max_pool2d(x, 2, return_indices=True), rand(1, 2, 4, 4))
    node = next(iter(graph.nodes()))
    assert "indices of max pooling" in TABLE.refusal(node)
    assert not TARGET.unsupported(graph)


def test_unknown_targets_and_options(tmp_path: Path) -> None:
    assert set(target_names()) == {"openvino", "onnx", "torch"}
    with pytest.raises(PockError, match=r"Did you mean 'openvino'"):
        get_target("openvno")
    with pytest.raises(PockError, match=r"has no option 'precison'. Did you mean 'precision'"):
        TARGET.write(graph_of(torch.neg, rand(2)), tmp_path, "train", {"precison": "bf16"})


def test_every_rule_is_of_an_operator() -> None:
    assert all(isinstance(o, torch._ops.OpOverload) for o in RULES)
    assert operator.getitem not in RULES
