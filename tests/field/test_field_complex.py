"""Complex numbers, empty layers and Python numbers: right, or refused with the line and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from between import Between as Network
from between import Case, Lambda
from torch import Tensor, nn
from users import CLASSES, MOMENTUM, assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import CaptureError, TaskError, UnsupportedOperators

SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "real spectrum": lambda x: torch.fft.rfft(x).abs(),
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x.flip(1))),
    "products": lambda x: (torch.complex(x, x) * torch.complex(x, -x)).real,
    "Python numbers": lambda x: (torch.exp(1j * x) * (1 - 2j) + 3j - (2j - x) / (x * x + 1)).imag,
    "powers and filled": lambda x: (torch.complex(x, x + 4) ** (1 + 1j) * torch.full((6,), 1j)).abs(),
    "where": lambda x: torch.where(x > 0, torch.complex(x, x), 1j).imag,
}


def network(function: Callable[[Tensor], Tensor]) -> pg.Task:
    torch.manual_seed(0)
    return task(Network(Case((6,), lambda: Lambda(function))), batches(4, 6))


@pytest.mark.parametrize("name", SPECTRA)
def test_complex_numbers_train_on_torch_as_in_eager(name: str) -> None:
    assert_as_eager(network(SPECTRA[name]), "torch")


@pytest.mark.parametrize("target", ["openvino", "onnx"])
@pytest.mark.parametrize("name", SPECTRA)
def test_complex_numbers_are_refused_elsewhere_with_line_and_remedy(name: str, target: str) -> None:
    found = pg.build(network(SPECTRA[name]), MOMENTUM).check(target)
    first = found.problems[0]
    assert "test_field_complex.py" in first.source
    assert first.op.startswith(("aten._fft", "aten.complex", "aten.view_as_complex"))
    assert all("no complex numbers; compute with two real tensors" in p.reason for p in found.problems)
    assert found.other_targets == ("torch",)


def test_a_short_time_fourier_transform_is_refused_with_what_to_take(target: str, tmp_path: Path) -> None:
    def spectrum(x: Tensor) -> Tensor:
        return torch.stft(x, 4, 2, window=torch.ones(4), return_complex=True).abs().flatten(1)

    graph = pg.build(network(spectrum), MOMENTUM)
    with pytest.raises(UnsupportedOperators, match=r"as_strided.*test_field_complex\.py:\d+.*x\.unfold"):
        pg.compile(graph, target=target, out=tmp_path / "out")


class Empty(nn.Module):
    """A layer without inputs beside the network, as a configuration of size 0 makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.more = mlp(), nn.Linear(0, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.more(x[:, :0])


@pytest.mark.parametrize("where", ["onnx", "torch"])
def test_a_layer_without_inputs(where: str) -> None:
    assert_as_eager(task(Empty(), batches(4, 12)), where)


def test_a_layer_without_inputs_is_refused_by_openvino_before_it_compiles(tmp_path: Path) -> None:
    graph = pg.build(task(Empty(), batches(4, 12)), MOMENTUM)
    with pytest.raises(UnsupportedOperators, match=r"'more', .*test_field_complex.*without elements"):
        pg.compile(graph, target="openvino", out=tmp_path / "out")


def test_a_loss_that_returns_a_python_number() -> None:
    made = task(mlp(), batches(4, 12), lambda m, b: F.cross_entropy(m(b["x"]), b["y"]).item())  # pyright: ignore
    with pytest.raises(TaskError, match=r"gives a Python number\. Return the tensor, without \.item\(\)"):
        pg.build(made)


def test_a_loss_that_divides_by_a_python_number_of_itself() -> None:
    def loss(m: nn.Module, b: dict[str, Tensor]) -> Tensor:
        found = F.cross_entropy(m(b["x"]), b["y"])
        return found / found.item()

    with pytest.raises(
        CaptureError, match=r"test_field_complex\.py:\d+.*Python number from a tensor.*\.detach\(\)"
    ):
        pg.build(task(mlp(), batches(4, 12), loss))
