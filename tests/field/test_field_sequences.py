"""Users with sequences: LSTM, GRU and RNN in every form, trained whole and in part, long ones too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from users import CLASSES, assert_as_eager, batches, in_turn, task

import pockgraph as pg
from pockgraph.errors import UnsupportedOperators
from pockgraph.frontends.onnx import load
from pockgraph.recurrent.operators import BACKWARD, FORWARD
from pockgraph.targets import target_names
from pockgraph.train_graph import TrainGraph

FEATURES, UNITS = 6, 4


class Recurrent(nn.Module):
    """`[N, T, FEATURES]` to logits, of all outputs and of every last state."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, **options: object) -> None:
        super().__init__()
        self.net = kind(FEATURES, UNITS, layers, batch_first=True, **options)  # pyright: ignore
        self.out = nn.LazyLinear(CLASSES)
        with torch.no_grad():
            self(torch.zeros(2, 3, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.net(x)
        states = state if isinstance(state, tuple) else (state,)
        return self.out(torch.cat([outputs.mean(1), *(s for each in states for s in each)], 1))


class Stateful(nn.Module):
    """A learned first state, as in encoders that go on from where others stopped."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.net = kind(FEATURES, UNITS, bidirectional=True)  # pyright: ignore
        self.start = nn.Parameter(torch.linspace(-1, 1, UNITS))
        self.out = nn.Linear(2 * UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        start = self.start.expand(2, len(x), UNITS)
        state = (start, start * 2) if isinstance(self.net, nn.LSTM) else start
        return self.out(self.net(x.transpose(0, 1), state)[0].mean(0))  # pyright: ignore


def graph_of(net: nn.Module, steps: int = 7, **how: Any) -> TrainGraph:
    return pg.build(task(net, batches(4, steps, FEATURES), **how), pg.SGD(lr=0.05, momentum=0.9))


def loops(graph: pg.graph.Graph, which: tuple[object, ...] = (*FORWARD, *BACKWARD)) -> list[str]:
    """The layers of the loops in a graph."""
    return [n.meta["layer"] for n in graph.nodes() if n.target in which]


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "bilstm": lambda: Recurrent(nn.LSTM, 2, bidirectional=True),
    "bigru": lambda: Recurrent(nn.GRU, bidirectional=True),
    "lstm_projected": lambda: Recurrent(nn.LSTM, proj_size=3, bias=False),
    "rnn_relu": lambda: Recurrent(nn.RNN, 2, nonlinearity="relu"),
}


@pytest.mark.parametrize(("net", "target"), in_turn(CLASSIFIERS))
def test_a_recurrent_classifier_trains_as_in_eager_pytorch(net: str, target: str) -> None:
    assert_as_eager(task(CLASSIFIERS[net](), batches(4, 6, FEATURES)), target)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_learned_first_state_learns(kind: type[nn.RNNBase], target: str) -> None:
    assert_as_eager(task(Stateful(kind), batches(4, 5, FEATURES)), target)


@pytest.mark.parametrize("steps", [1, 37])
def test_one_step_and_a_prime_number_of_steps(steps: int, target: str) -> None:
    assert_as_eager(task(Recurrent(nn.LSTM), batches(3, steps, FEATURES)), target)


def test_some_columns_of_recurrent_weights_learn_and_the_rest_stays(target: str) -> None:
    def plan(graph: TrainGraph) -> pg.Plan:
        return pg.Plan.of(graph, {"net.weight_hh_l0": [0, 2], "net.weight_ih_l0_reverse": [1, 5]})

    net = Recurrent(nn.LSTM, bidirectional=True)
    assert_as_eager(task(net, batches(4, 6, FEATURES)), target, plan=plan)


def test_some_columns_keep_only_their_share_of_the_states() -> None:
    graph = graph_of(Recurrent(nn.GRU, 2), steps=50)
    saved = [
        graph.prune(pg.Plan.of(graph, {"net.weight_ih_l1": [*range(n)]})).timeline.saved_bytes
        for n in (1, 2, 3)
    ]
    assert saved[1] - saved[0] == saved[2] - saved[1] == 4 * 50 * 4


def test_a_frozen_layer_below_is_only_run_forward() -> None:
    graph = graph_of(Recurrent(nn.LSTM, 2))
    assert len(loops(graph, BACKWARD)) == 2
    top = {r.fqn: 1.0 for r in graph.tensors if "_l1" in r.fqn}
    assert len(loops(graph.prune(pg.Plan.of(graph, top)), BACKWARD)) == 1
    head = graph.prune(pg.Plan.of(graph, {"out.weight": 1.0, "out.bias": 1.0}))
    assert not loops(head, BACKWARD)
    assert not loops(head.evaluation(), BACKWARD)
    assert_as_eager(
        task(Recurrent(nn.LSTM, 2), batches(4, 6, FEATURES)), "onnx", plan=lambda g: pg.Plan.of(g, top)
    )


def test_a_longer_sequence_makes_no_larger_graph() -> None:
    net = Recurrent(nn.GRU, 2, bidirectional=True)
    sizes = {len(list(graph_of(net, steps).nodes())) for steps in (3, 200)}
    assert len(sizes) == 1


def test_a_long_sequence_trains(target: str) -> None:
    """A second of audio at 512 frames, which was an operator a step."""
    assert_as_eager(task(Recurrent(nn.LSTM), batches(2, 512, FEATURES)), target)


def test_dropout_between_layers_is_left_out_unless_asked_for() -> None:
    assert_as_eager(task(Recurrent(nn.LSTM, 2, dropout=0.5), batches(4, 6, FEATURES)), "torch")


def test_dropout_between_layers_drops(target: str, tmp_path: Path) -> None:
    graph = graph_of(Recurrent(nn.GRU, 2, dropout=0.5), dropout=True)
    batch = batches(4, 7, FEATURES)[0]
    trainer = pg.compile(graph, target=target, out=tmp_path / "out").trainer(seed=1)
    losses = {trainer.step(batch, lr=0.0).loss for _ in range(4)}
    assert len(losses) > 1, "every step drew the same mask"


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
def test_a_cell_in_the_users_own_loop_trains(kind: type[nn.RNNCellBase], target: str) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = kind(FEATURES, UNITS), nn.Linear(UNITS, CLASSES)  # pyright: ignore

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.out(state[0] if isinstance(state, tuple) else state)

    assert_as_eager(task(Loop(), batches(4, 3, FEATURES)), target)


# ---------------------------------------------------------------- from ONNX


def onnx_model(
    path: Path, kind: str, gates: int, lengths: bool = False, steps: int = 5, **attributes: Any
) -> Path:
    """`[T, N, FEATURES]` through one layer in both directions to logits of the last states."""
    g = np.random.default_rng(0)
    draw = lambda *size: g.uniform(-0.5, 0.5, size).astype(np.float32)  # noqa: E731
    rows = gates * UNITS
    tensors = {
        "w": draw(2, rows, FEATURES), "r": draw(2, rows, UNITS), "b": draw(2, 2 * rows),
        "head": draw(2 * UNITS, CLASSES), "flat": np.array([0, -1]),
    }  # fmt: skip
    nodes = [
        helper.make_node(kind, ["x", "w", "r", "b", "n" if lengths else ""], ["", "h"], hidden_size=UNITS,
                         direction="bidirectional", **attributes),
        helper.make_node("Transpose", ["h"], ["by_sample"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["by_sample", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["logits"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, 4, FEATURES])]
        + [helper.make_tensor_value_info("n", TensorProto.INT32, [4])] * lengths,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4, CLASSES])],
        [numpy_helper.from_array(v, n) for n, v in tensors.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def sequences() -> list[dict[str, Tensor]]:
    return [{**b, "x": b["x"].transpose(0, 1).contiguous()} for b in batches(4, 5, FEATURES)]


# What the front end makes of a node is every target's own: each goes to one runtime, LSTM to all.
ON_ALL = [("LSTM", 4, {}, t) for t in target_names()]
RESETS_FIRST, RESETS_LAST = ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1})
KINDS = ("kind", "gates", "attributes", "target")


@pytest.mark.parametrize(
    KINDS, [*ON_ALL, (*RESETS_LAST, "onnx"), (*RESETS_FIRST, "openvino"), ("RNN", 1, {}, "onnx")]
)
def test_a_recurrent_onnx_model_trains(
    kind: str, gates: int, attributes: dict[str, Any], target: str, tmp_path: Path
) -> None:
    net = load(onnx_model(tmp_path / "model.onnx", kind, gates, **attributes))
    assert {p.shape[0] for n, p in net.named_parameters() if "head" not in n} == {2}
    assert_as_eager(task(net, sequences()), target)


@pytest.mark.parametrize(KINDS, [*ON_ALL, (*RESETS_LAST, "openvino"), (*RESETS_FIRST, "onnx")])
def test_a_recurrent_onnx_model_trains_on_sequences_of_several_lengths(
    kind: str, gates: int, attributes: dict[str, Any], target: str, tmp_path: Path
) -> None:
    net = load(onnx_model(tmp_path / "model.onnx", kind, gates, lengths=True, **attributes))
    data = [{**b, "n": torch.tensor([2, 5, 1, 3], dtype=torch.int32)} for b in sequences()]
    with_lengths = task(
        net, data,
        loss=lambda m, b: nn.functional.cross_entropy(m(b["x"], b["n"]), b["y"]),
        metric=lambda m, b: m(b["x"], b["n"]).sum(1),
    )  # fmt: skip
    assert_as_eager(with_lengths, target)


def test_a_longer_onnx_model_that_resets_first_makes_no_larger_graph(tmp_path: Path) -> None:
    sizes = set()
    for steps in (5, 100):
        net = load(onnx_model(tmp_path / "model.onnx", "GRU", 3, steps=steps))
        data = [{**b, "x": b["x"].transpose(0, 1)} for b in batches(4, steps, FEATURES)]
        graph = pg.build(task(net, data), pg.SGD(lr=0.05, momentum=0.9))
        assert len(loops(graph)) == 4
        sizes.add(len(list(graph.nodes())))
    assert len(sizes) == 1


def test_what_a_recurrent_onnx_node_cannot_do_is_said_at_once(tmp_path: Path) -> None:
    for attributes, reason in (
        ({"clip": 1.0}, "its attribute 'clip' is not supported"),
        ({"activations": ["Sigmoid", "Relu", "Tanh"] * 2}, "only .*Sigmoid.* in each direction"),
        ({"input_forget": 1}, "input_forget=1 is not supported"),
    ):
        path = onnx_model(tmp_path / "model.onnx", "LSTM", 4, **attributes)
        with pytest.raises(UnsupportedOperators, match=reason):
            load(path)
