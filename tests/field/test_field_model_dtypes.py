"""Models that are not plain float32 on the CPU: one clear line at build."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from users import assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import PockError

DATA = batches(8, 12)


def refused(model: nn.Module, match: str) -> None:
    with pytest.raises(PockError, match=match) as caught:
        pg.build(task(model, DATA))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_float_type_is_refused_with_the_remedy(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    refused(mlp().to(dtype), rf"'0\.weight' \({name}\).*model\.float\(\)")


def test_one_layer_of_another_type_is_named() -> None:
    net = mlp()
    net[2].bfloat16()
    refused(net, r"'2\.weight' \(bfloat16\).*model\.float\(\)")


def test_a_whole_model_of_another_type_is_told_in_a_sentence() -> None:
    refused(mlp().double(), r"'0\.weight' \(float64\), .* and 1 more are not float32.*model\.float\(\)")


def test_a_half_precision_buffer_is_named() -> None:
    net = mlp()
    net.register_buffer("scale", torch.ones(5).half())
    refused(net, r"'scale' \(float16\).*model\.float\(\)")


def test_complex_parameters_are_refused() -> None:
    net = mlp()
    net.register_parameter("phase", nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    refused(net, r"'phase' \(complex64\).*two tensors")


def test_a_model_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        net = mlp()
    refused(net, r"'0\.weight'.*meta device.*Load the weights")


def test_integer_buffers_and_masks_are_fine(target: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()
            self.register_buffer("mask", torch.arange(12) % 3 > 0)
            self.register_buffer("order", torch.arange(11, -1, -1))

        def forward(self, x: Tensor) -> Tensor:
            return self.body((x * self.mask)[:, self.order])  # pyright: ignore

    assert_as_eager(task(Masked(), DATA), target)


def test_a_quantised_model_is_refused() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()
            self.register_buffer("packed", torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8))

        def forward(self, x: Any) -> Any:
            return self.body(x)

    refused(Quantised(), "'packed'.*quantised.*float model")


@pytest.mark.parametrize("how", [torch.jit.script, lambda net: torch.jit.trace(net, DATA[0]["x"])])
def test_torchscript_is_refused(how: Any) -> None:
    refused(nn.Sequential(how(mlp())), "'0' is TorchScript.*Python module")
