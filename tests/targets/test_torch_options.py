"""Modes, precisions and devices of the PyTorch target."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from models import zoo
from oracle import COVERING_CASES, PLANS, Case, built
from test_target_contract import TargetContract
from torch import fx

import pockgraph as pg
from pockgraph.errors import ArtifactError, PockError
from pockgraph.ir.graph import Role, aten
from pockgraph.passes.optimize.lower_precision import LowerPrecision
from pockgraph.runtime import Trainer

NO_COMPILER = not any(map(shutil.which, ("g++", "clang++")))
HANDFUL = (
    Case("mobilenet", "half", "momentum"),
    Case("transformer", "full", "adamw"),
    Case("mlp", "eighth", "nesterov"),
)


IN_BFLOAT16 = tuple(c for c in COVERING_CASES[::4] if c.optimizer != "adamw" and c.model != "bert")


def compiled(folder: Path, model: str = "mlp", **options: str) -> pg.Artifact:
    graph = built(model)
    return pg.compile(graph, PLANS["half"](graph), target="torch", out=folder, options=options, parity=False)


def numpy_batch(model: str) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in next(iter(zoo(model).train)).items()}


# ---------------------------------------------------------------- bfloat16


class TestBFloat16(TargetContract):
    """Compared with eager PyTorch under `torch.autocast`.

    AdamW is left out: it divides a gradient by its own size, and where bfloat16 loses a small one its
    sign is chance, in eager PyTorch too. What a precision changes are gradients; the others show them.
    """

    target = "torch"
    options: ClassVar = {"precision": "bf16"}
    dtype = torch.bfloat16
    cases = IN_BFLOAT16[::2]
    test_any_plan_equals_eager_pytorch: Any = None  # plans and precisions do not know of each other


@pytest.mark.slow
class TestOtherCellsInBFloat16(TestBFloat16):
    cases = IN_BFLOAT16[1::2]


def lowered(model: str) -> tuple[pg.TrainGraph, pg.TrainGraph]:
    graph = built(model, "momentum")
    graph = graph.prune(PLANS["half"](graph))
    return graph, LowerPrecision(torch.bfloat16)(graph)


@pytest.mark.parametrize("model", ["mobilenet", "transformer"])
def test_products_are_lowered_and_nothing_else(model: str) -> None:
    before, after = lowered(model)
    after.validate()
    assert [s for s in after.inputs if s.is_state] == [s for s in before.inputs if s.is_state]
    assert {s.dtype for s in after.inputs if s.is_state} == {"float32"}
    products = 0
    for node in after.nodes():
        if node.target is aten._to_copy.default or (
            node.target in (aten.mm.default, aten.bmm.default, aten.addmm.default)
            or "convolution" in str(node.target)
        ):
            products += node.target is not aten._to_copy.default
            continue
        if "getitem" not in str(node.target):
            values = node.meta["val"] if isinstance(node.meta["val"], tuple) else (node.meta["val"],)
            assert all(v is None or v.dtype != torch.bfloat16 for v in values), node
    assert products > 3
    for slot, node in after.results.items():
        assert node.meta["val"].dtype == torch.float32, slot


def test_values_are_cast_once() -> None:
    _, after = lowered("mobilenet")
    casts = [n for n in after.nodes() if n.kwargs.get("dtype") == torch.bfloat16]
    sources = [n.args[0] for n in casts]
    assert len(sources) == len(set(sources))
    # No product's result goes to float32 and back for the next product.
    assert not [n for n in sources if n.kwargs.get("dtype") == torch.float32]  # pyright: ignore


def test_shapes_and_dtypes_that_the_pass_notes_are_those_that_run() -> None:
    """Shapes and dtypes of every value, run operator by operator."""
    _, after = lowered("mobilenet")
    batch = next(iter(zoo("mobilenet").train))

    class Checked(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and "val" in n.meta:
                assert value.dtype == n.meta["val"].dtype, n
                assert value.shape == n.meta["val"].shape, n
            return value

    given = {Role.BATCH: lambda s: batch[s.fqn], Role.LR: lambda s: torch.tensor(0.1)}
    inputs = [given.get(s.role, lambda s: after.values[s.name])(s) for s in after.inputs]
    with torch.no_grad():
        Checked(torch.nn.Module(), graph=after.fx).run(*inputs)


def test_weights_move_by_less_than_bfloat16_can_say(tmp_path: Path) -> None:
    trainer = compiled(tmp_path / "out", precision="bf16").trainer()
    before = trainer.state()
    trainer.step(numpy_batch("mlp"), lr=1e-6)
    for name, after in trainer.state().items():
        moved = after != before[name]
        assert moved.any(), name
        short = torch.from_numpy(after).bfloat16(), torch.from_numpy(before[name]).bfloat16()
        assert torch.equal(*short), name


# ---------------------------------------------------------------- compiled modes


@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler here")
class TestCompile(TargetContract):
    target = "torch"
    options: ClassVar = {"mode": "compile"}
    cases = HANDFUL
    test_any_plan_equals_eager_pytorch: Any = None  # each takes seconds to compile


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler here")
class TestAOT(TargetContract):
    target = "torch"
    options: ClassVar = {"mode": "aot"}
    cases = HANDFUL
    test_any_plan_equals_eager_pytorch: Any = None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler here")
class TestAOTInBFloat16(TargetContract):
    target = "torch"
    options: ClassVar = {"mode": "aot", "precision": "bf16"}
    dtype = torch.bfloat16
    cases = HANDFUL[:1]
    test_any_plan_equals_eager_pytorch: Any = None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler here")
def test_a_package_runs_only_where_it_was_made_for(tmp_path: Path) -> None:
    graph = built("mlp")
    plan = PLANS["half"](graph)
    artifact = pg.compile(graph, plan, target="torch", out=tmp_path / "out", options={"mode": "aot"})
    assert artifact.manifest.parity.ok  # pyright: ignore
    assert artifact.manifest.native_code == ("eval.pt2", "train.pt2")
    with pytest.raises(ArtifactError, match=r"native code \(eval.pt2, train.pt2\).* allow_native_code=True"):
        artifact.trainer()
    trainer, plain = artifact.trainer(allow_native_code=True), compiled(tmp_path / "plain").trainer()
    batch = numpy_batch("mlp")
    for _ in range(2):
        assert trainer.step(batch).loss == pytest.approx(plain.step(batch).loss, rel=1e-5)
    path = artifact.path / "manifest.json"
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    with pytest.raises(ArtifactError, match=r"made with PyTorch 1\.0, and this is"):
        Trainer.load(artifact.path, allow_native_code=True)


def test_without_a_compiler_nothing_is_begun(tmp_path: Path) -> None:
    from torch._inductor import config

    missing = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(PockError, match=r"there is no C\+\+ compiler here.* Install g\+\+"):
        compiled(tmp_path / "out", mode="aot")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- options and devices


def test_options_combine_and_are_checked(tmp_path: Path) -> None:
    for options, words in (
        ({"mode": "aott"}, r"no mode 'aott'. Did you mean 'aot'\? It has 'eager', 'compile', 'aot'"),
        ({"precision": "f16"}, r"no precision 'f16'.* It has 'f32', 'bf16'"),
        ({"precison": "bf16"}, r"no option 'precison'. Did you mean 'precision'"),
    ):
        with pytest.raises(PockError, match=words):
            compiled(tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("device", "here"),
    [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())],
)
def test_accelerators_take_the_same_steps(device: str, here: bool, tmp_path: Path) -> None:
    folder = compiled(tmp_path / "out", "mobilenet").path
    if not here:
        with pytest.raises(ArtifactError, match=rf"cannot use the device '{device}' here.* Try device='cpu'"):
            Trainer.load(folder, device)
        pytest.skip(f"PyTorch {torch.__version__} has no {device} here")
    plain, fast = Trainer.load(folder), Trainer.load(folder, device)
    batch = numpy_batch("mobilenet")
    for _ in range(3):
        assert fast.step(batch, lr=0.01).loss == pytest.approx(plain.step(batch, lr=0.01).loss, rel=1e-3)
    for name, tensor in plain.state().items():
        np.testing.assert_allclose(fast.state()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("mode", "precision"), list(itertools.product(["eager"], ["f32", "bf16"])))
def test_devices_are_named_in_either_case(mode: str, precision: str, tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", mode=mode, precision=precision)
    batch = numpy_batch("mlp")
    losses = {artifact.trainer(device).step(batch).loss for device in ("cpu", "CPU", "cpu:0")}
    assert len(losses) == 1
