"""What users wrote that no device runs, and the words they are told so with; or what runs all the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import CaptureError, UnsupportedOperators

DATA = batches(4, 12)


class Net(nn.Module):
    """`between` stands between two layers: of the module, the batch's values and the hidden ones."""

    def __init__(self, between: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 5)
        self.learned = nn.Parameter(torch.ones(4, 16, 16) / 8)
        self.turn = torch.polar(torch.ones(8), torch.arange(8.0))
        self._between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._between(self, x, self.first(x)))


def put(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return h.index_put((x[:, :1].expand(4, 16) > 0,), net.learned[0, 0, 0], accumulate=True)


def grouped(net: Net, x: Tensor, h: Tensor) -> Tensor:
    ends = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    return F.grouped_mm(h.bfloat16(), net.learned.bfloat16(), offs=ends).float()


def compared(net: Net, x: Tensor, h: Tensor) -> Tensor:
    torch.testing.assert_close(h, h.clone())
    return h


def listed(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return h * x[0].long().tolist()[0]


@pytest.mark.parametrize(
    ("between", "says"),
    [(put, "torch.where"), (compared, "torch.testing.*tests of the model"), (listed, "Python number")],
)
def test_what_reads_values_is_refused_at_its_line(between: Callable[..., Tensor], says: str) -> None:
    line = between.__code__.co_firstlineno + 1
    with pytest.raises(CaptureError, match=rf"test_field_words\.py:{line}: [\s\S]*{says}"):
        pg.build(task(Net(between), DATA), pg.SGD(lr=0.1))


@pytest.mark.parametrize("target", ["onnx", "openvino", "torch"])
def test_experts_in_groups_are_refused_with_the_form_that_compiles(target: str, tmp_path: Path) -> None:
    graph = pg.build(task(Net(grouped), DATA), pg.SGD(lr=0.1))
    with pytest.raises(
        UnsupportedOperators, match=r"grouped_mm[\s\S]*set_experts_implementation\('batched_mm'\)"
    ):
        pg.compile(graph, target=target, out=tmp_path / "out")


def test_fake_quantize_modules_are_refused_with_the_form_that_compiles(target: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces the end of torch.ao.quantization
        net = mlp().train()
        net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")  # pyright: ignore
        graph = pg.build(task(torch.ao.quantization.prepare_qat(net), DATA), pg.SGD(lr=0.1))
    with pytest.raises(UnsupportedOperators, match=r"torch\.fake_quantize_per_tensor_affine\(x, scale"):
        pg.compile(graph, target=target, out=tmp_path / "out")


@pytest.mark.parametrize("where", ["a layer", "every layer"])
def test_fake_quantize_modules_that_observe_are_named_when_it_is_built(where: str) -> None:
    net = mlp().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if where == "a layer":
            net.insert(1, torch.ao.quantization.default_fake_quant())  # pyright: ignore
        else:
            activation = torch.ao.quantization.default_fake_quant
            net.qconfig = torch.ao.quantization.QConfig(  # pyright: ignore
                activation=activation, weight=torch.ao.quantization.default_weight_fake_quant
            )
            net = torch.ao.quantization.prepare_qat(net)
    name = "'1'" if where == "a layer" else r"'0\.weight_fake_quant'"
    says = rf"users\.py:\d+: [\s\S]*layer {name} \(FakeQuantize\)[\s\S]*fake_quantize_per_tensor_affine"
    with pytest.raises(CaptureError, match=says):
        pg.build(task(net, DATA), pg.SGD(lr=0.1))


def under_autocast(m: nn.Module, b: dict[str, Tensor]) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.cross_entropy(m(b["x"]), b["y"])


def test_autocast_in_the_loss_is_as_in_eager_or_refused_in_a_paragraph(target: str, tmp_path: Path) -> None:
    made = task(mlp(), DATA, under_autocast)
    graph = pg.build(made, pg.SGD(lr=0.1))
    found = graph.check(target)
    if target == "torch":
        trainer = pg.compile(graph, target=target, out=tmp_path / "out").trainer()
        assert trainer.step(DATA[0]).loss == pytest.approx(
            under_autocast(made.model, DATA[0]).item(), rel=1e-6
        )
        return
    line = under_autocast.__code__.co_firstlineno + 2
    text = str(found)
    assert f"test_field_words.py:{line}" in text
    assert "leave out torch.autocast" in text
    assert text.count("\n") == 2, text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_product_of_two_dtypes_is_refused_as_in_eager(dtype: torch.dtype) -> None:
    def cast(net: Net, x: Tensor, h: Tensor) -> Tensor:
        return h.to(dtype)

    line, name = Net.forward.__code__.co_firstlineno + 1, str(dtype).removeprefix("torch.")
    with pytest.raises(RuntimeError, match="same dtype"):
        Net(cast)(DATA[0]["x"])
    with pytest.raises(
        CaptureError, match=rf"words\.py:{line}: it multiplies float32 and {name} tensors[^.]*\. Cast"
    ):
        pg.build(task(Net(cast), DATA), pg.SGD(lr=0.1))


def test_batches_in_bfloat16_train_a_float32_model(target: str, tmp_path: Path) -> None:
    half = [{"x": b["x"].bfloat16(), "y": b["y"]} for b in DATA]
    net = mlp()
    trainer = pg.compile(
        pg.build(task(net, half), pg.SGD(lr=0.1)), target=target, out=tmp_path / "o"
    ).trainer()
    expected = F.cross_entropy(net(half[0]["x"].float()), half[0]["y"]).item()
    assert trainer.step(half[0]).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("message", [(), ("too large",)])
def test_an_assertion_that_no_device_makes_is_named_and_left_out(message: tuple[str, ...]) -> None:
    def asserted(net: Net, x: Tensor, h: Tensor) -> Tensor:
        torch._assert_async((x < 100).all(), *message)
        return h

    line = asserted.__code__.co_firstlineno + 1
    with pytest.warns(UserWarning, match=rf"does not check torch\._assert_async at .*words\.py:{line}"):
        assert_as_eager(task(Net(asserted), DATA), "onnx")


# ---------------------------------------------------------------- complex constants, on PyTorch's target


def turned(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(h.view(4, 8, 2)) * net.turn).flatten(1)


def turned_in_the_step(net: Net, x: Tensor, h: Tensor) -> Tensor:
    by = torch.polar(torch.ones(8), torch.arange(8.0))
    return torch.view_as_real(torch.view_as_complex(h.view(4, 8, 2)) * by).flatten(1)


def polar(net: Net, x: Tensor, h: Tensor) -> Tensor:
    return torch.view_as_real(torch.polar(h[:, :8].abs(), h[:, 8:])).flatten(1)


@pytest.mark.parametrize("between", [turned, turned_in_the_step, polar])
def test_complex_constants_are_no_obstacle_to_pytorch(between: Callable[..., Tensor]) -> None:
    assert_as_eager(task(Net(between), DATA), "torch")


def test_a_metric_in_bfloat16_is_read_where_there_are_such_numbers() -> None:
    half = task(mlp(), DATA, metric=lambda m, b: m(b["x"]).argmax(1).eq(b["y"]).bfloat16())
    assert_as_eager(half, "torch")
