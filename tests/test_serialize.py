"""Graphs as JSON: exact round trips, and nothing that runs somebody's code."""

from __future__ import annotations

import json
import math
import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from pockgraph.errors import ArtifactError
from pockgraph.ir import serialize
from pockgraph.ir.graph import Builder, Graph, Role, Slot, add_placeholder, aten
from pockgraph.ir.serialize import graph_from_json, graph_to_json, op_name
from pockgraph.optimizer import AdamW
from pockgraph.plan import Plan
from pockgraph.task import Task
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.builder import build


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # tokens [N, T]
        x = self.norm(self.embed(tokens))
        x = torch.relu(self.conv(x.transpose(1, 2)))
        return self.head(x.amax(-1))


@pytest.fixture(scope="module")
def train() -> TrainGraph:
    data = [{"tokens": torch.arange(20).reshape(4, 5) % 10, "y": torch.tensor([0, 1, 2, 0])}]

    def loss(model: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(b["tokens"]), b["y"])

    def metric(model: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        return (model(b["tokens"]).argmax(1) == b["y"]).float()

    return build(Task("tokens", Net(), loss, metric, data, data), AdamW())


def assert_same(a: Graph, b: Graph) -> None:
    assert (a.inputs, a.outputs) == (b.inputs, b.outputs)
    assert a.values.keys() == b.values.keys()
    assert len(a.fx.nodes) == len(b.fx.nodes)
    for left, right in zip(a.fx.nodes, b.fx.nodes, strict=True):
        assert (left.op, left.name) == (right.op, right.name)
        assert repr(left.args) == repr(right.args)
        assert repr(left.kwargs) == repr(right.kwargs)
        if left.op == "output":
            continue
        assert left.op == "placeholder" or left.target is right.target
        assert shapes(left.meta["val"]) == shapes(right.meta["val"])
        for key in ("phase", "layer", "source"):
            assert left.meta.get(key) == right.meta.get(key)


def shapes(val: Any) -> Any:
    if isinstance(val, torch.Tensor):
        return val.device.type, tuple(val.shape), val.dtype
    return None if val is None else tuple(shapes(v) for v in val)


def test_a_training_graph_survives(train: TrainGraph) -> None:
    partial = train.prune(Plan.of(train, {"conv.weight": 0.5, "head.weight": 1.0}))
    for graph in (train, partial, train.gradients, partial.evaluation()):
        text = graph_to_json(graph)
        read = graph_from_json(text, graph.values)
        read.validate()
        assert_same(graph, read)
        assert graph_to_json(read) == text


def test_a_read_graph_computes_the_same(train: TrainGraph) -> None:
    read = graph_from_json(graph_to_json(train), train.values)
    batch = {"batch:tokens": torch.arange(20).reshape(4, 5) % 10, "batch:y": torch.tensor([0, 1, 2, 0])}
    inputs = [*({**train.values, **batch, "lr": torch.tensor(0.1)}[s.name] for s in train.inputs)]
    expected, got = (fx.GraphModule(nn.Module(), g.fx)(*inputs) for g in (train, read))
    for slot, a, b in zip(train.outputs, expected, got, strict=True):
        assert torch.equal(a, b), slot.name


# ---------------------------------------------------------------- arguments

data = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16]),
    st.sampled_from([torch.strided, torch.channels_last, torch.contiguous_format, torch.preserve_format]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")]),
)
arguments = st.recursive(
    data, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=8
)


def identical(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b and repr(a) == repr(b)  # repr tells 0.0 from -0.0


@given(arguments)
def test_arguments_survive(value: Any) -> None:
    text = json.dumps(serialize._encode(value), allow_nan=False)
    assert identical(serialize._decoder({})(json.loads(text)), value)


@pytest.mark.parametrize("value", [1j, slice(1), {"a": 1}, object()])
def test_arguments_that_no_file_holds(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        serialize._encode(value)


# ---------------------------------------------------------------- refusals


def doubled(op: Any = aten.add.Tensor) -> Graph:
    new = fx.Graph()
    x = new.placeholder("x")
    x.meta["val"] = torch.empty(3, device="meta")
    y = Builder(new, "forward").call(op, x, x)
    new.output((y,))
    slots = (Slot(Role.BATCH, "x", (3,), "float32"),), (Slot(Role.LOSS, "", (3,), "float32"),)
    return Graph(new, *slots, {})


def edited(**changes: Any) -> str:
    """The JSON of `doubled` with entries of its one operator node changed."""
    file = json.loads(graph_to_json(doubled()))
    file["nodes"][1].update(changes)
    file["results"] = [file["nodes"][1]["name"]]
    return json.dumps(file)


def test_the_file_that_the_next_tests_edit_can_be_read() -> None:
    assert_same(graph_from_json(edited(), {}), doubled())


@pytest.mark.parametrize(
    "op",
    [
        "os.system", "aten.add", "aten.add.Tensor.__call__", "aten.__class__.mro", "aten.add.__globals__",
        "aten.add.nothing", "aten.nothing.default", "prims.add.default", "operator.setitem", "builtins.eval",
        "aten.add_.Tensor", "aten.add.out", "aten.copy_.default", "aten.set_.source_Storage",
        "aten.from_file.default", "aten.item.default", "aten.equal.default", "aten.manual_seed.default", "",
    ],
)  # fmt: skip
def test_operators_that_are_refused(op: str) -> None:
    with pytest.raises(ArtifactError):
        graph_from_json(edited(op=op), {})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "y, *z"},
        {"name": "y=__import__('os').system('touch /tmp/owned')"},
        {"name": "lambda"},
        {"name": "x"},
        {"name": ""},
        {"name": 3},
        {"kwargs": {"alpha=print('owned'), beta": 1}},
        {"args": [{"node": "later"}, {"node": "x"}]},
        {"args": [{"code": "print()"}]},
        {"args": [{"dtype": "load"}]},
        {"args": [{"device": "nowhere"}]},
        {"args": [{"float": "one"}]},
        {"args": [{"node": "x", "tuple": []}]},
        {"val": {"shape": [4], "dtype": "float32"}},
        {"val": {"shape": [-3], "dtype": "float32"}},
        {"val": {"shape": [3], "dtype": "save"}},
        {"val": None},
        {"val": 7},
    ],
)
def test_nodes_that_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"is not a valid graph file.*Compile the artefact again"):
        graph_from_json(edited(**changes), {})


def test_placeholders_that_are_no_plain_names_are_refused() -> None:
    file = graph_to_json(doubled()).replace('"x"', '"x=print()"')
    with pytest.raises(ArtifactError, match="is no name for a node"):
        graph_from_json(file, {})


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"schema": "pockui.graph/9"}', "[" * 100_000])
def test_files_that_are_no_graphs(text: str) -> None:
    with pytest.raises(ArtifactError):
        graph_from_json(text, {}, "train.graph.json")


def test_a_value_that_is_missing_is_named(train: TrainGraph) -> None:
    values = {k: v for k, v in train.values.items() if k != "trained:head.bias"}
    with pytest.raises(ArtifactError, match=r"it lacks 'trained:head\.bias'"):
        graph_from_json(graph_to_json(train), values)


def test_what_cannot_be_written() -> None:
    assert op_name(operator.getitem) == "operator.getitem"
    for target in (torch.add, operator.add, torch.ops.prims.add.default, aten.add_.Tensor, aten.add):
        with pytest.raises(ValueError, match=r"aten|changes"):
            op_name(target)
    graph = doubled()
    graph.fx.find_nodes(op="call_function", target=aten.add.Tensor)[0].kwargs = {"alpha": 1j}
    with pytest.raises(ValueError, match="complex"):
        graph_to_json(graph)


@pytest.mark.parametrize("count", [1, 3])
def test_pivots_that_are_not_one_row_a_matrix_are_refused(count: int) -> None:
    """PyTorch reads pivots for each matrix, whether there are as many or not."""
    new = fx.Graph()
    slots = (
        Slot(Role.CONST, "", (3, 4, 4), "float32", key="lu"),
        Slot(Role.CONST, "", (count, 4), "int32", key="pivots"),
    )
    lu, pivots = (add_placeholder(new, s.key) for s in slots)
    lu.meta["val"] = torch.empty(3, 4, 4, device="meta")
    pivots.meta["val"] = torch.empty(count, 4, dtype=torch.int32, device="meta")
    unpacked = Builder(new, "forward").call(aten.lu_unpack.default, lu, pivots)
    new.output((Builder(new, "forward").call(operator.getitem, unpacked, 2),))
    matrices, places = torch.eye(4).repeat(3, 1, 1), torch.ones(count, 4, dtype=torch.int32)
    values = {slots[0].name: matrices, slots[1].name: places}
    graph = Graph(new, slots, (Slot(Role.METRIC, "", (3, 4, 4), "float32"),), values)
    text = graph_to_json(graph)
    if count == 3:
        assert_same(graph, graph_from_json(text, values))
    else:
        with pytest.raises(ArtifactError, match="pivots of another matrix"):
            graph_from_json(text, values)
