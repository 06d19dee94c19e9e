"""Who takes part in a benchmark, and why not; the exchanged network; the machine's ceilings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.measure import MeasureError, StepFigures, StepTime, measure_interleaved
from pockui.bench import environments
from pockui.bench.ceilings import KERNELS, Ceilings, Cost, ceiling_command
from pockui.bench.contenders import PEERS, commands, label, peers_named
from pockui.bench.exchange import Exchange, NotExchangeable, forward_nodes, write_exchange
from pockui.bench.prepare import Made
from pockui.bench.result import Bench, goals
from pockui.bench.scenarios import SCENARIOS, scenario, scenarios
from pockui.bench.tables import markdown

# A peer that has no library of its own: it reads the exchanged network and answers as all do.
STAND_IN = """
import sys
sys.path[:0] = {paths!r}
from exchanged import serve

def make(network):
    print("a library that talks")
    assert network.trained <= network.parameters.keys()
    return (lambda: network.loss * {factor}), lambda: sum(range(1000))

serve(lambda threads: None, make)
"""


class Net(nn.Module):
    """All that peers know, but for pooling: [N, 3, 8, 8] -> [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, 1, 1, groups=4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.norm(self.conv(x)))
        return self.head((x + F.relu(self.deep(x))).mean((2, 3)))


def task() -> pg.Task:
    torch.manual_seed(0)
    batch = {"x": torch.randn(2, 3, 8, 8), "y": torch.tensor([0, 3])}

    def losses(net: nn.Module, batch: pg.Batch) -> torch.Tensor:
        return F.cross_entropy(net(batch["x"]), batch["y"], reduction="none")

    return pg.Task("net", Net().eval(), lambda n, b: losses(n, b).mean(), losses, [batch], [batch])


@pytest.fixture(scope="module")
def graph() -> pg.TrainGraph:
    return pg.build(task(), pg.SGD(lr=0.1, momentum=0.9))


@pytest.fixture
def exchange(graph: pg.TrainGraph, tmp_path: Path) -> Exchange:
    plans = {"full": pg.Plan.full(graph), "preset": pg.Plan.head(graph)}
    found = write_exchange(task(), plans, tmp_path / "exchange")
    assert isinstance(found, Exchange)
    return found


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, factor: float) -> None:
    """`tensorflow` is a peer that needs nothing installed; its loss is PyTorch's times `factor`."""
    root = environments.CHECKOUT
    paths = [str(root / "backend"), str(root / "benchmarks" / "peers" / "shared")]
    program = folder / "programs" / "tensorflow" / "worker.py"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN.format(paths=paths, factor=factor))
    python = folder / "installed" / "tensorflow" / environments.BIN / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(environments, "PROGRAMS", folder / "programs")
    monkeypatch.setattr(environments, "INSTALLED", folder / "installed")


def measured(exchange: Exchange) -> StepFigures | MeasureError:
    command = environments.peer_command("tensorflow", exchange, "preset", 1)
    assert not isinstance(command, MeasureError)
    return measure_interleaved({"peer": command}, blocks=1, steps=2, warmup=0)["peer"]


def test_a_peer_in_an_environment_of_its_own_takes_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exchange: Exchange
) -> None:
    stand_in(monkeypatch, tmp_path, factor=1.0)
    found = measured(exchange)
    assert isinstance(found, StepFigures), found
    assert found.time.steps == 2


def test_a_peer_that_computes_another_loss_has_no_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exchange: Exchange
) -> None:
    stand_in(monkeypatch, tmp_path, factor=1.01)
    found = measured(exchange)
    assert isinstance(found, MeasureError)
    assert "in PyTorch it is" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorflow", "jax", "ort-training"])
@pytest.mark.parametrize("plan", ["full", "preset"])
def test_an_installed_peer_trains_the_network(name: str, plan: str, exchange: Exchange) -> None:
    command = environments.peer_command(name, exchange, plan, 1)
    if isinstance(command, MeasureError):
        pytest.skip(str(command))
    found = measure_interleaved({name: command}, blocks=1, steps=2, warmup=0)[name]
    assert isinstance(found, StepFigures), found


def test_a_peer_that_is_not_there_is_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exchange: Exchange
) -> None:
    monkeypatch.setattr(environments, "INSTALLED", tmp_path)
    names = ["tensorflow", "tinygrad", "lora"]
    found = commands(scenario("mobilenet-8x224"), names, tmp_path, tmp_path / "b", {}, 1, exchange)
    assert "make bench-peers PEERS=tensorflow" in str(found["tensorflow full"])
    assert str(found["tinygrad preset"]).startswith("not run: ")
    assert "text" in str(found["lora full"])
    assert not isinstance(found["openvino preset"], MeasureError)
    texts = commands(scenario("text"), ["tensorflow"], tmp_path, tmp_path / "b", {}, 1, exchange)
    assert "images" in str(texts["tensorflow full"])


def test_the_exchanged_network_is_the_same_function(exchange: Exchange) -> None:
    network = json.loads((exchange.folder / "network.json").read_text())
    assert [n["op"] for n in network["nodes"]] == [
        "convolution", "batch_norm", "relu6", "convolution", "relu", "add", "global_mean", "linear",
    ]  # fmt: skip
    assert network["nodes"][0]["stride"] == [2, 2]
    assert network["nodes"][3]["groups"] == 4
    assert network["parameters"] == sum(p.numel() for p in Net().parameters())
    with np.load(exchange.folder / "weights.npz") as weights:
        assert weights["conv.weight"].shape == (4, 3, 3, 3)
        assert {"norm.running_mean", "norm.running_var"} <= set(weights)
    assert json.loads(exchange.trained["preset"].read_text()) == ["head.bias", "head.weight"]


def test_an_operator_that_peers_do_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotExchangeable, match="gelu"):
        forward_nodes(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), torch.zeros(1, 3, 4, 4))


def test_names_of_scenarios_and_peers_are_suggested() -> None:
    with pytest.raises(PockError, match=r"Did you mean 'mobilenet-8x224'"):
        scenario("mobilnet-8x224")
    with pytest.raises(PockError, match=r"Did you mean 'tensorflow'"):
        peers_named("pytorch,tensorfow", "images")
    with pytest.raises(PockError, match="length"):
        scenario("vision").sized(length=12)
    assert scenario("text").sized(batch_size=2).options == {"batch_size": 2, "length": 64}


def test_all_means_every_peer_that_could_take_part() -> None:
    assert set(peers_named("all", "images")) == PEERS.keys() - {"lora"}
    assert {"tensorflow", "lora"} <= set(peers_named("all", "text"))
    assert "channels_last" not in peers_named("all", "text")
    assert "torch.compile" not in peers_named(None, "images")
    assert len(scenarios("all", quick=False)) == len(SCENARIOS) > len(scenarios("all", quick=True)) > 1


def test_what_the_memory_has_no_room_for_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from pockui.bench import run

    monkeypatch.setattr(run, "available_memory_bytes", lambda: 2_500)
    rows = {
        "eager full": ("a",),
        "lora full": MeasureError("no"),
        "jax full": ("b",),
        "openvino full": ("c",),
    }
    found = run.fitting(rows, 1_000)
    assert [k for k, c in found.items() if not isinstance(c, MeasureError)] == ["eager full", "openvino full"]
    assert "fewer peers" in str(found["jax full"])
    assert str(found["lora full"]) == "no"


def test_the_ceilings_are_measured_in_turn() -> None:
    kernels = {name: ceiling_command(name, 1) for name in KERNELS}
    found = measure_interleaved(kernels, blocks=1, steps=2, warmup=0)
    ceilings = Ceilings.of(found["gemm"], found["copy"])
    assert ceilings is not None, found
    assert ceilings.flops_per_s > 1e8
    assert ceilings.bytes_per_s > 1e7


def test_a_floor_is_the_larger_of_two_times(graph: pg.TrainGraph) -> None:
    ceilings = Ceilings(flops_per_s=1e9, bytes_per_s=1e6)
    assert ceilings.floor_ms(Cost(2_000_000_000, 1)) == pytest.approx(2000)
    assert ceilings.floor_ms(Cost(1, 3_000_000)) == pytest.approx(3000)
    full, head = (Cost.of(graph.prune(plan(graph))) for plan in (pg.Plan.full, pg.Plan.head))
    assert full.flops > head.flops > Cost.of_forward(graph).flops > 0
    assert full.moved_bytes > head.moved_bytes > Cost.of_forward(graph).moved_bytes


def test_the_page_has_ratios_and_reasons() -> None:
    def step(ms: float) -> StepFigures:
        return StepFigures(StepTime(ms, ms, ms, 9), None, 1.0, ms)

    rows = {
        "eager full": step(500),
        "tensorflow full": MeasureError("not run: a | b"),
        "openvino preset": step(80),
    }
    own = {"compiled_step": 1.0, "prune": 1.0, "budget_query": 1.0}
    found = Bench(
        title="t", context="c", command="x", quick=True, machine={}, versions={}, settings={}, rows=rows,
        own_ms=own, goals=goals("mobilenet-8x224", rows, own), scenario="mobilenet-8x224",
        made={"openvino preset": Made(1.0, 2.0, 3.0, 4_000_000, 5_000_000)},
        costs={"openvino preset": Cost(10**9, 1)}, ceilings=Ceilings(1e11, 1e10),
    )  # fmt: skip
    page = markdown(found)
    assert "| OpenVINO, preset | 6.25× | 8.00× |" in page
    assert "| TensorFlow, tf.function, full | not run: a \\| b |" in page
    assert "| MISS |" in page  # 6.25 of 9
    row = found.to_dict()["rows"]["openvino preset"]
    assert (row["disk_bytes"], row["step_per_floor"]) == (5_000_000, pytest.approx(8.0))
    assert found.goals[0].name == "OpenVINO, preset, against PyTorch eager, full"
    assert label("autocast preset") == "PyTorch eager, bf16 autocast, channels_last images, preset's tensors"
