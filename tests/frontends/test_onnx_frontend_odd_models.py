"""Models that runtimes refuse, or run otherwise than they look: each is refused in words, or named safely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import assert_equal, ints, rand, run_module, run_onnxruntime, write_model

from pockgraph.errors import CaptureError, PockError
from pockgraph.frontends.onnx import export_onnx, load

node = helper.make_node
X = {"x": rand(2, 4)}
IMAGE = {"x": rand(1, 6, 5, 7)}


@pytest.mark.parametrize(
    "name",
    ["training/w", "forward/w", "origin/w", "_modules/w", "input_names", "_layers", "tensor_names/w", "///"],
)
def test_a_weight_may_be_named_like_what_modules_have(name: str, tmp_path: Path) -> None:
    tensors = {name: rand(4, 4), "other": rand(4, 3)}
    nodes = [node("MatMul", ["x", name], ["h"]), node("MatMul", ["h", "other"], ["y"])]
    path = write_model(tmp_path / "m.onnx", nodes, X, tensors, ["y"])
    module = load(path)
    assert sorted(module.tensor_names.values()) == sorted(tensors)
    assert_equal(run_module(module, X), run_onnxruntime(path, X))
    export_onnx(module, tmp_path / "same.onnx")
    assert_equal(run_onnxruntime(tmp_path / "same.onnx", X), run_onnxruntime(path, X))


@pytest.mark.parametrize("opset", [8, 9, 15])
def test_batch_norm_in_training_mode_is_refused_whether_its_statistics_are_read_or_not(
    opset: int, tmp_path: Path
) -> None:
    statistics = ["mean", "var", "saved_mean", "saved_var"][: 4 if opset < 14 else 2]
    how = {} if opset < 14 else {"training_mode": 1}
    norm = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", *statistics], **how)
    tensors = {"s": rand(6), "b": rand(6), "m": rand(6), "v": rand(6, low=0.5)}
    path = write_model(tmp_path / "m.onnx", [norm], IMAGE, tensors, ["y"], opset)
    with pytest.raises(PockError, match=r"'y': .*training.mode"):
        run_module(load(path), IMAGE)


ODD: dict[str, tuple[list[Any], dict[str, np.ndarray], str]] = {
    "attribute missing": ([node("Cast", ["x"], ["y"])], {}, "Required attribute 'to' is missing"),
    "attribute of text": ([node("Softmax", ["x"], ["y"], axis="last")], {}, "attribute type"),
    "input missing": ([node("Gemm", ["x"], ["y"])], {}, r"input size 1 not in range"),
    "auto_pad of Keras": (
        [node("Conv", ["x", "w"], ["y"], auto_pad="SAME")], {"w": rand(4, 6, 3, 3)}, "auto_pad='SAME'",
    ),
    "pads below 0": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[-1, 0, 0, 0])], {}, "pads=",
    ),
    "pads too few": ([node("Pad", ["x", "p"], ["y"])], {"p": ints(1, 1)}, "2 pads do not fit 4 axes"),
    "reflected more than there is": (
        [node("Pad", ["x", "p"], ["y"], mode="reflect")], {"p": ints(0, 0, 0, 7, 0, 0, 0, 0)},
        "pads of 7 and 0 do not fit 7 values",
    ),
    "another kernel": (
        [node("Conv", ["x", "w"], ["y"], kernel_shape=[5, 5])], {"w": rand(4, 6, 3, 3)}, "kernel_shape",
    ),
    "mode of PyTorch": (
        [node("Resize", ["x", "", "s"], ["y"], mode="bilinear")], {"s": np.ones(4, np.float32)}, "'bilinear'",
    ),
    "no such axis": (
        [node("LayerNormalization", ["x", "s"], ["y"], axis=9)], {"s": rand(7)}, "no axis 9",
    ),
    "an axis twice": ([node("Unsqueeze", ["x", "a"], ["y"])], {"a": ints(1, 1)}, "stands twice"),
    "a name twice": (
        [node("Neg", ["x"], ["h"]), node("Relu", ["x"], ["h"]), node("Abs", ["h"], ["y"])], {},
        "'h' stands for several tensors",
    ),
    "a weight's name twice": (
        [node("Neg", ["x"], ["w"]), node("Add", ["x", "w"], ["y"])], {"w": rand(7)}, "'w' stands for several",
    ),
    "the input's name twice": (
        [node("Neg", ["x"], ["x"]), node("Abs", ["x"], ["y"])], {}, "'x' stands for several tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_no_runtime_loads_is_refused(case: str, tmp_path: Path) -> None:
    nodes, tensors, message = ODD[case]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE["x"].shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in tensors.items()],
    )
    path = tmp_path / "odd.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    with pytest.raises(PockError, match=message):
        run_module(load(path), IMAGE)
    with pytest.raises(Exception):  # noqa: B017, PT011  onnxruntime's, of many kinds
        run_onnxruntime(path, IMAGE)


def shorten(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 5


def retype_weight(model: Any) -> None:
    model.graph.initializer[0].data_type = 99


def retype_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def brain_float(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16


def broken_weight(model: Any) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(rand(4, 3) * np.float32(np.nan), "w"))


def text(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorten, r"its tensor 'w' .* cannot be read"),
        (retype_weight, r"its tensor 'w' \(element type 99"),
        (retype_input, "'x' has the element type 99, which ONNX does not define"),
        (brain_float, "input 'x': it is bfloat16"),
        (broken_weight, "weight 'w' of MatMul node .*: it holds NaN"),
        (text, "input 'x': it is"),
    ],
)
def test_damaged_and_foreign_tensors_are_named(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], X, {"w": rand(4, 3)}, ["y"])
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PockError, match=message):
        load(path)


def test_quantised_weights_stay_as_they_are_and_a_warning_says_so(tmp_path: Path) -> None:
    tensors = {"q": np.array([[3, -5], [7, 9]] * 2, np.int8), "s": np.array(0.1, np.float32), "b": rand(2)}
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("Gemm", ["x", "w", "b"], ["y"])]
    path = write_model(tmp_path / "m.onnx", nodes, X, tensors, ["y"])
    with pytest.warns(UserWarning, match="w will not be trained: quantised"):
        module = load(path)
    assert [*module.tensor_names.values()] == ["b"]
    assert_equal(run_module(module, X), run_onnxruntime(path, X))


@pytest.mark.parametrize("quantised_bias", [False, True])
def test_the_kernel_that_onnxruntime_puts_in_place_of_quantised_weights_rounds_and_ours_does_not(
    quantised_bias: bool, tmp_path: Path
) -> None:
    """Ours is what ONNX defines, and what onnxruntime computes operator by operator. By default it fuses
    DequantizeLinear and MatMul to one that rounds activations to 8 bits: off by some thousandths. Told to
    compute that in float32, it is equal again."""
    quantised = np.random.default_rng(0).integers(-128, 128, (8, 5)).astype(np.int8)
    scale, x = np.array(0.02, np.float32), {"x": rand(3, 8)}
    held = np.arange(-2, 3, dtype=np.int32) if quantised_bias else rand(5)
    tensors = {"q": quantised, "s": scale, "t": np.array(0.5, np.float32), "b": held}
    bias = held.astype(np.float32) * np.float32(0.5) if quantised_bias else held
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"])]
    nodes += [node("DequantizeLinear", ["b", "t"], ["c"])] * quantised_bias
    nodes += [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "c" if quantised_bias else "b"], ["y"])]
    path = write_model(tmp_path / "m.onnx", nodes, x, tensors, ["y"])
    with pytest.warns(UserWarning, match="quantised"):
        got = run_module(load(path), x)
    assert_equal(got, {"y": x["x"] @ (quantised.astype(np.float32) * scale) + bias})
    assert_equal(got, run_onnxruntime(path, x))
    for level, least, most in (("1", 0, 1e-6), ("4", 1e-4, 0.05)):
        options = ort.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
        options.optimized_model_filepath = str(tmp_path / "fused.onnx")
        fused = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        assert "MatMulNBits" in {n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node}
        ratio = np.abs(fused.run(None, x)[0] - got["y"]).max() / np.abs(got["y"]).max()
        assert least <= ratio < most


def test_a_model_is_written_to_what_can_be_written_and_beside_the_weights_it_was_read_with(
    tmp_path: Path,
) -> None:
    path = write_model(
        tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], X, {"w": rand(4, 300)}, ["y"]
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    module = load(path, constants=["w"])
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder", "/proc/none/m.onnx", "a\0b"):
        with pytest.raises(PockError, match=r"Cannot write the model|cannot be used"):
            export_onnx(module, place)
    (tmp_path / "w.bin").write_bytes(rand(4, 300, seed=1).tobytes())
    with pytest.raises(CaptureError, match="a file with its weights, has changed since it was loaded"):
        export_onnx(module, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()


def test_outputs_are_a_list_of_at_least_one_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", [node("Relu", ["x"], ["logits"])], X, {}, ["logits"])
    for outputs in ("logits", [], ""):
        with pytest.raises(CaptureError, match=r"not a list.*Pass \['logits'\]"):
            load(path, outputs=outputs)
