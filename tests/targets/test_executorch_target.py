"""The ExecuTorch target. What needs the package itself is skipped where it is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import zoo
from oracle import COVERING_CASES, OPTIMIZER_CASES, PLANS, built
from test_target_contract import TargetContract
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.errors import PockError, UnsupportedOperators
from pockgraph.passes.legalize import Legalize
from pockgraph.targets import get_target, target_names
from pockgraph.targets.executorch import kernels, target
from pockgraph.targets.executorch.library import runtime

INSTALLED = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(
    not INSTALLED, reason="executorch is not installed; `make test-executorch` installs it"
)


@needs_executorch
@pytest.mark.timeout(1200)  # a program takes seconds to convert, and a case converts a dozen
class TestExecuTorch(TargetContract):
    target = "executorch"
    cases = COVERING_CASES[::3] + OPTIMIZER_CASES[::3]


def task(model: nn.Module, *shape: int) -> pg.Task:
    data = [{"x": torch.randn(*shape), "y": torch.randint(0, 3, shape[:1])} for _ in range(3)]
    loss = lambda m, b: F.cross_entropy(m(b["x"]), b["y"])  # noqa: E731
    return pg.Task("net", model, loss, lambda m, b: m(b["x"]).sum(1), data, data)


def test_it_is_experimental_and_found_by_name() -> None:
    assert "executorch" not in target_names()
    assert target_names(experimental=True)[-1] == "executorch"
    assert get_target("executorch").name == "executorch"
    with pytest.raises(PockError, match=r"Did you mean 'executorch'.*experimental is 'executorch'"):
        get_target("executorh")


@pytest.mark.skipif(INSTALLED, reason="executorch is installed")
def test_without_the_package_compiling_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(PockError, match=r"pip install 'pockui\[executorch\]'"):
        pg.compile(built("mlp"), target="executorch", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PockError, match=r"'executorch' has no option 'mode'.*no options"):
        get_target("executorch").pipeline({"mode": "eager"})


@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_a_step_is_written_in_operators_that_have_kernels(name: str) -> None:
    graph = built(name, "adamw")
    small = graph.prune(PLANS["half"](graph))
    assert not get_target("executorch").unsupported(small)


def test_an_addition_that_the_kernel_gets_wrong_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.head = nn.Parameter(torch.ones(1)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(self.offset, self.head(x), alpha=0.3)

    found = get_target("executorch").unsupported(pg.build(task(Scaled(), 2, 4), pg.SGD(lr=0.1)))
    assert any("wrong operand by alpha" in u.reason for u in found), found


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_loops_are_refused_by_name() -> None:
    found = get_target("executorch").unsupported(pg.build(task(Recurrent(), 2, 3, 4), pg.SGD(lr=0.1)))
    assert any("lstm" in u.op and u.layer == "lstm" for u in found), found


@needs_executorch
def test_loops_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperators, match="lstm"):
        pg.compile(
            pg.build(task(Recurrent(), 2, 3, 4), pg.SGD(lr=0.1)), target="executorch", out=tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()


@needs_executorch
def test_what_a_kernel_does_not_take_is_told_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal that is missing in our list is one of the kernel, found when a program is first called."""
    conv = nn.Sequential(nn.Conv3d(2, 3, 1), nn.Flatten())
    graph = pg.build(task(conv, 2, 2, 1, 1, 1), pg.SGD(lr=0.1))
    with pytest.raises(UnsupportedOperators, match="more than two dimensions"):
        pg.compile(graph, target="executorch", out=tmp_path / "o")
    monkeypatch.setattr(target, "LEGALIZE", Legalize(lambda node: ""))
    monkeypatch.setattr(target, "refusal", lambda node: "")
    with pytest.raises(PockError, match=r"cannot take this step: aten::convolution\w*\.out: .*Take another"):
        pg.compile(graph, target="executorch", out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


@needs_executorch
def test_the_lists_are_the_installed_kernels() -> None:
    installed = runtime().operator_registry.operator_names
    packets = {name.partition(".")[0] for name in installed}
    assert packets >= kernels._CALLED
    lacking = {str(op).rpartition(".")[0].replace("aten.", "aten::") for op in kernels._WITHOUT_KERNEL}
    assert not lacking & packets


@needs_executorch
@pytest.mark.parametrize("name", ["mlp", "dropping"])
def test_a_compiled_step_is_compared_with_eager_pytorch(name: str, tmp_path: Path) -> None:
    graph = built(name, "momentum")
    artifact = pg.compile(graph, target="executorch", out=tmp_path / "out")
    assert artifact.manifest.parity.ok
    assert "executorch" in artifact.manifest.versions
    assert sorted(artifact.manifest.files) == ["eval.pte", "plan.json", "state.safetensors", "train.pte"]


@needs_executorch
def test_trained_tensors_are_merged_into_the_users_module(tmp_path: Path) -> None:
    graph = built("tied")
    artifact = pg.compile(
        graph, PLANS["half"](graph), target="executorch", out=tmp_path / "out", parity=False
    )
    trainer = artifact.trainer()
    batch = {k: v.numpy() for k, v in next(iter(zoo("tied").train)).items()}
    trainer.step(batch, lr=0.1)
    net = zoo("tied").model
    before = {k: v.clone() for k, v in net.state_dict().items()}
    artifact.merge_into(net, trainer)
    moved = {k for k, v in net.named_parameters() if not torch.equal(v, before[k])}
    assert moved == set(artifact.plan.tensors)
