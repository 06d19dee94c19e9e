"""Models written with torch.func: ensembles under vmap, gradients and derivatives within forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from users import CLASSES, assert_as_eager, batches, cross_entropy, mlp, task

import pockgraph as pg
from pockgraph.errors import CaptureError

DATA = batches(4, 12)


class Ensemble(nn.Module):
    """Three networks as one, as PyTorch's tutorial has it; their mean decides."""

    def __init__(self) -> None:
        super().__init__()
        stacked, _ = stack_module_state([mlp() for _ in range(3)])
        self.names = list(stacked)
        self.stacked = nn.ParameterList(nn.Parameter(p.detach()) for p in stacked.values())
        self.bases = [mlp().to("meta")]  # in a list, so that its parameters are not the ensemble's

    def forward(self, x: Tensor) -> Tensor:
        def one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.bases[0], parameters, (x,))

        return vmap(one, in_dims=(0, None))(dict(zip(self.names, self.stacked)), x).mean(0)


class Net(nn.Module):
    """`between` stands between two layers: of the module, and of the hidden values."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, CLASSES)
        self._between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._between(self, self.first(x)))


def each(net: Net, h: Tensor) -> Tensor:
    """A layer's weight taken from outside of vmap."""
    return vmap(lambda row: F.relu(F.linear(row, net.last.weight)) @ net.last.weight)(h)


def gradients_of_samples(net: Net, h: Tensor) -> Tensor:
    return vmap(grad(lambda row: (row**3).sum()))(h)


def jacobian(net: Net, h: Tensor) -> Tensor:
    return jacrev(lambda q: q.tanh().sum(0))(h).sum(0)


def along_a_direction(net: Net, h: Tensor) -> Tensor:
    return jvp(lambda q: q**3, (h,), (torch.ones_like(h),))[1]


def test_an_ensemble_of_networks_trains_as_in_eager(target: str) -> None:
    torch.manual_seed(0)
    assert_as_eager(task(Ensemble(), DATA), target)


@pytest.mark.parametrize("between", [each, gradients_of_samples, jacobian, along_a_direction])
def test_transforms_within_a_model(between: Callable[[Net, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    assert_as_eager(task(Net(between), DATA), "onnx")


def test_a_number_read_within_vmap_is_refused() -> None:
    net = Net(lambda net, h: vmap(lambda row: row * row.sum().item())(h))
    with pytest.raises(CaptureError, match=r"test_field_transforms\.py:\d+"):
        pg.build(task(net, DATA))


class Force(nn.Module):
    """Minus the gradient of an energy, as force fields have it."""

    def __init__(self) -> None:
        super().__init__()
        self.energy, self.last = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1)), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return self.last(-torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0])


class Recording(Force):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().forward(x)


def test_a_gradient_within_the_metric_wants_enable_grad() -> None:
    with pytest.raises(CaptureError, match=r"test_field_transforms\.py:\d+[\s\S]*torch\.enable_grad\(\)"):
        pg.build(task(Force(), DATA))
    assert_as_eager(task(Recording(), DATA), "onnx")


def test_what_torch_compile_made_is_captured_and_compared_without_its_compiler(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("TorchInductor would take half a minute")

    torch.manual_seed(0)
    whole = torch.compile(mlp(), backend=refuse)
    part = nn.Sequential(torch.compile(nn.Linear(12, 6), backend=refuse), nn.Linear(6, CLASSES))
    of_loss = torch.compile(F.cross_entropy, backend=refuse)
    for net, loss in ((whole, cross_entropy), (part, lambda m, b: of_loss(m(b["x"]), b["y"]))):
        graph = pg.build(task(net, DATA, loss), pg.SGD(lr=0.1))
        trainer = pg.compile(graph, target="torch", out=tmp_path / "out").trainer()
        with torch.compiler.set_stance("force_eager"):
            expected = float(loss(net, DATA[0]).detach())
        assert trainer.step(DATA[0]).loss == pytest.approx(expected, rel=1e-5)
