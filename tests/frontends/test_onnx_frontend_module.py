"""Reading a model: names, what becomes a parameter, shapes resolved beforehand, and refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import assert_equal, constant, ints, rand, run_module, run_onnxruntime, write_model

from pockgraph.errors import CaptureError, PockError, TaskError, UnsupportedOperators
from pockgraph.frontends.onnx import OnnxModule, load

node = helper.make_node
X = {"x": rand(2, 3, 8, 8)}


def names_of(module: OnnxModule) -> set[str]:
    return {fqn for fqn, _ in module.named_parameters()}


def dense(path: Path, weight: str, bias: str, name: str = "") -> OnnxModule:
    nodes = [node("MatMul", ["x", weight], ["h"], name), node("Add", ["h", bias], ["y"])]
    write_model(path, nodes, {"x": rand(2, 4)}, {weight: rand(4, 3), bias: rand(3)}, ["y"])
    return load(path)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("weight", "bias", "node_name", "expected"),
    [
        ("encoder.layer.0.query.weight", "encoder.layer.0.query.bias", "", "encoder.layer.0.query"),
        ("onnx::MatMul_12", "layer.0.query.bias", "/layer.0/query/MatMul", "layer.0.query"),
        ("onnx::MatMul_12", "onnx::Add_13", "/layer.0/query/MatMul", "layer.0.query"),
        ("fc_0.w_0", "fc_0.b_0", "MatMul@0", "fc.0"),
        ("model/dense/MatMul/ReadVariableOp:0", "model/dense/BiasAdd/ReadVariableOp:0", "", "dense"),
        ("W_0", "b_1", "", "matmul.0"),
        ("const_12", "7", "MatMul_3", "matmul.0"),
        ("type.weight", "type.bias", "", "type_"),  # every nn.Module has a method of that name
    ],
)
def test_layers_are_named_as_the_exporter_named_them(
    weight: str, bias: str, node_name: str, expected: str, tmp_path: Path
) -> None:
    module = dense(tmp_path / "m.onnx", weight, bias, node_name)
    assert names_of(module) == {f"{expected}.weight", f"{expected}.bias"}
    assert module.tensor_names == {f"{expected}.weight": weight, f"{expected}.bias": bias}


def test_numbers_in_names_become_blocks_where_no_layer_has_any(tmp_path: Path) -> None:
    tensors = {"conv12_expand_weights": rand(4, 3, 1, 1), "conv2d_7.w_0": rand(4, 4, 1, 1)}
    nodes = [
        node("Conv", ["x", "conv12_expand_weights"], ["h"]),
        node("Conv", ["h", "conv2d_7.w_0"], ["y"]),
    ]
    path = write_model(tmp_path / "m.onnx", nodes, X, tensors, ["y"])
    assert names_of(load(path)) == {"conv.12.expand.weight", "conv2d.7.weight"}


def test_names_that_collide_are_told_apart(tmp_path: Path) -> None:
    tensors = {
        "a.weight": rand(4, 4),
        "a/weight": rand(4, 4),
        "a.weight.b.kernel": rand(4, 4),
        "a": rand(4, 4),
    }
    nodes = [node("MatMul", [f"h{i}", name], [f"h{i + 1}"]) for i, name in enumerate(tensors)]
    path = write_model(tmp_path / "m.onnx", nodes, {"h0": rand(2, 4)}, tensors, ["h4"])
    module = load(path)
    assert sorted(module.tensor_names.values()) == sorted(tensors)
    for fqn, value in module.named_parameters():
        assert np.array_equal(value.detach().numpy(), tensors[module.tensor_names[fqn]])


def test_a_tensor_used_twice_is_one_parameter(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["table", "x"], ["h"]),
        node("Transpose", ["table"], ["t"], perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"]),
    ]
    inputs = {"x": np.array([[1, 2, 3]])}
    path = write_model(tmp_path / "m.onnx", nodes, inputs, {"table": rand(5, 4)}, ["y"])
    module = load(path)
    assert names_of(module) == {"table.weight"}
    assert_equal(run_module(module, inputs), run_onnxruntime(path, inputs))


# ---------------------------------------------------------------- roles


def test_what_is_trained_and_what_is_not(tmp_path: Path) -> None:
    tensors = {
        "conv.w": rand(1, 3, 3, 3), "conv.b": rand(1), "bn.s": rand(1), "bn.b": rand(1), "bn.m": rand(1),
        "bn.v": rand(1, low=0.5), "shift": rand(1, 1, 1, 1), "table": rand(1, 1, 6, 6), "six": rand(1),
        "mask": np.where(rand(6) > 0, 0, -np.inf).astype(np.float32), "limit": rand(6),
        "low": np.array(0.0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32),
        "double": np.array([2, 2], np.float32), "ones": np.ones(2, np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "conv.w", "conv.b"], ["a"]),
        node("BatchNormalization", ["a", "bn.s", "bn.b", "bn.m", "bn.v"], ["b"]),
        node("Add", ["b", "table"], ["c"]),
        node("Div", ["c", "six"], ["d"]),
        node("Add", ["d", "mask"], ["e"]),
        node("Less", ["e", "limit"], ["f"]),
        node("Where", ["f", "e", "low"], ["g"]),
        node("Concat", ["ones", "double"], ["computed"], axis=0),
        node("Resize", ["g", "", "computed"], ["y"]),
    ]
    inputs = {"x": rand(2, 3, 8, 8)}
    used = {n for o in nodes for n in o.input}
    path = write_model(
        tmp_path / "m.onnx", nodes, inputs, {k: v for k, v in tensors.items() if k in used}, ["y"]
    )
    module = load(path)
    trained = {module.tensor_names[f] for f, _ in module.named_parameters()}
    assert trained == {"conv.w", "conv.b", "bn.s", "bn.b", "table"}
    assert {module.tensor_names[f] for f, _ in module.named_buffers()} == {"bn.m", "bn.v", "mask", "limit"}
    assert_equal(run_module(module, inputs), run_onnxruntime(path, inputs))
    chosen = load(path, parameters=["six"], constants=["bn*", "table"])
    assert {chosen.tensor_names[f] for f, _ in chosen.named_parameters()} == {"conv.w", "conv.b", "six"}
    assert_equal(run_module(chosen, inputs), run_onnxruntime(path, inputs))
    with pytest.raises(CaptureError, match=r"tabel.*Did you mean 'table'"):
        load(path, constants=["tabel"])
    with pytest.raises(CaptureError, match="'double' decides a shape"):
        load(path, parameters=["double"])


def test_weights_in_constant_nodes_are_parameters(tmp_path: Path) -> None:
    nodes = [constant("fc.w", rand(4, 3)), node("MatMul", ["x", "fc.w"], ["y"])]
    path = write_model(tmp_path / "m.onnx", nodes, {"x": rand(2, 4)}, {}, ["y"])
    assert names_of(load(path)) == {"fc.weight"}


def test_a_bias_with_dimensions_of_one_is_held_as_a_vector(tmp_path: Path) -> None:
    tensors = {"conv.weight": rand(4, 3, 1, 1), "conv.bias": rand(1, 4, 1, 1)}
    nodes = [node("Conv", ["x", "conv.weight"], ["h"]), node("Add", ["h", "conv.bias"], ["y"])]
    path = write_model(tmp_path / "m.onnx", nodes, X, tensors, ["y"])
    module = load(path)
    assert module.get_parameter("conv.bias").shape == (4,)
    assert_equal(run_module(module, X), run_onnxruntime(path, X))


# ---------------------------------------------------------------- shapes


def flattening(path: Path) -> Path:
    """Shape -> Gather -> Concat -> Reshape, as exporters write a flatten."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        node("Concat", ["batch1", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["flat"]),
        node("MatMul", ["flat", "fc.weight"], ["h"]),
        node("ConstantOfShape", ["target2"], ["zeros"]),
        node("Slice", ["target", "axis", "two"], ["last"]),
        node("Concat", ["batch1", "three"], ["target2"], axis=0),
    ]
    nodes.insert(6, nodes.pop())
    nodes.append(node("Add", ["h", "zeros"], ["y"]))
    tensors = {
        "zero": np.array(0), "axis": ints(0), "rest": ints(-1), "two": ints(2), "three": ints(3),
        "fc.weight": rand(192, 3),
    }  # fmt: skip
    return write_model(path, nodes, X, tensors, ["y"], open_batch=True)


def test_shapes_are_resolved_for_every_batch(tmp_path: Path) -> None:
    path = flattening(tmp_path / "m.onnx")
    module = load(path)
    for batch in (2, 5, 2):
        inputs = {"x": rand(batch, 3, 8, 8)}
        assert_equal(run_module(module, inputs), run_onnxruntime(path, inputs))


def test_a_module_survives_copying_and_double_precision(tmp_path: Path) -> None:
    path = flattening(tmp_path / "m.onnx")
    module = load(path)
    double = copy.deepcopy(module).double()
    x = torch.from_numpy(X["x"])
    assert double(x.double()).dtype == torch.float64
    assert torch.allclose(double(x.double()).float(), module(x), atol=1e-4)


def test_a_shape_that_depends_on_values_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "shape"], ["h"], "reshaping"), node("Mul", ["h", "scale"], ["y"])]
    inputs = {"x": rand(2, 4), "shape": ints(4, 2)}
    path = write_model(tmp_path / "m.onnx", nodes, inputs, {"scale": rand(2)}, ["y"])
    with pytest.raises(CaptureError, match=r"'reshaping'.*'shape'.*depends on the values"):
        run_module(load(path), inputs)


# ---------------------------------------------------------------- inputs and outputs


def two_towers(path: Path) -> Path:
    nodes = [
        node("MatMul", ["image", "a.weight"], ["u"]),
        node("MatMul", ["text", "b.weight"], ["v"]),
        node("Softmax", ["u"], ["p"]),
    ]
    inputs = {"image": rand(2, 4), "text": rand(2, 5)}
    return write_model(path, nodes, inputs, {"a.weight": rand(4, 3), "b.weight": rand(5, 3)}, ["p", "v"])


def test_inputs_and_outputs_by_name(tmp_path: Path) -> None:
    path = two_towers(tmp_path / "m.onnx")
    module = load(path)
    image, text = torch.randn(2, 4), torch.randn(2, 5)
    expected = run_onnxruntime(path, {"image": image.numpy(), "text": text.numpy()})
    for got in (module(image, text), module(text=text, image=image), module({"image": image, "text": text})):
        assert_equal({n: v.detach().numpy() for n, v in got.items()}, expected)


def test_any_tensor_can_be_the_output(tmp_path: Path) -> None:
    path = two_towers(tmp_path / "m.onnx")
    module = load(path, outputs=["u"])
    assert names_of(module) == {"a.weight"}
    assert module.input_names == ("image",)
    image = torch.randn(2, 4)
    assert torch.equal(module(image), image @ module.get_parameter("a.weight"))
    with pytest.raises(CaptureError, match="makes 'uu'"):
        load(path, outputs=["uu"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": rand(2, 4)}, "'text' is missing"),
        (
            {"image": rand(2, 4), "text": rand(2, 5), "txt": rand(1)},
            r"'txt' is unknown \(did you mean 'text'\?\)\. It takes",
        ),
        ({"image": rand(3, 4), "text": rand(3, 5)}, r"'image' has shape \[3, 4\] instead of \[2, 4\]"),
        ({"image": rand(2, 4).astype(np.int64), "text": rand(2, 5)}, "'image' is torch.int64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=message):
        run_module(load(two_towers(tmp_path / "m.onnx")), inputs)


# ---------------------------------------------------------------- refusals


def test_everything_unsupported_is_listed_at_once(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [node("Identity", ["w"], ["t"])],
        "b",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [4])],
    )
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantising"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Det", ["m"], ["e"], "determinant"),
        node("ReduceMax", ["d"], ["top"]),
        node("Cast", ["top"], ["is_high"], to=TensorProto.BOOL),
        node("If", ["is_high"], ["f"], "branching", then_branch=branch, else_branch=branch),
        node("NonZero", ["d"], ["n"], "finding"),
        node("ArgMax", ["d"], ["g"], "latest", select_last_index=1),
        node("FusedConv", ["d"], ["h"], "fused", domain="com.microsoft"),
        node("RandomNormalLike", ["d"], ["r"]),
        node("Mul", ["d", "half"], ["k"]),
    ]
    tensors = {
        "s": np.array(0.1, np.float32), "z": np.array(0, np.uint8), "w": rand(4), "m": rand(2, 2),
        "half": rand(4).astype(np.float16),
    }  # fmt: skip
    outputs = ["e", "f", "n", "g", "h", "r", "k"]
    path = write_model(
        tmp_path / "m.onnx", nodes, {"x": rand(2, 4)}, tensors, outputs, domains=["com.microsoft"]
    )
    with pytest.raises(UnsupportedOperators) as e:
        load(path)
    message = str(e.value)
    for expected in (
        "QuantizeLinear node 'quantising': a quantised model cannot be trained",
        "DequantizeLinear node that makes 'd': a quantised model",
        "Det node 'determinant': this operator is not supported",
        "If node 'branching': control flow",
        "NonZero node 'finding': the shape of its result depends on the values",
        "ArgMax node 'latest': select_last_index=1 is not supported",
        "FusedConv node 'fused': operators of the domain 'com.microsoft'",
        "RandomNormalLike node that makes 'r': it draws random numbers",
        "weight 'half' of Mul node that makes 'k': it is float16",
    ):
        assert expected in message, expected
    assert "for 9 reasons" in message


def test_an_unsupported_part_that_is_not_needed_does_no_harm(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "fc.weight"], ["h"]), node("NonZero", ["h"], ["y"])]
    path = write_model(tmp_path / "m.onnx", nodes, {"x": rand(2, 4)}, {"fc.weight": rand(4, 3)}, ["y"])
    with pytest.raises(UnsupportedOperators, match="NonZero"):
        load(path)
    assert names_of(load(path, outputs=["h"])) == {"fc.weight"}


@pytest.mark.parametrize(
    ("op", "operands", "opset", "attributes", "message"),
    [
        ("Upsample", ["x"], 7, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}, ""),
        (
            "Mod",
            ["x", "x"],
            28,
            {"fmod": 1},
            "its form of opset 28 is not supported, only those of opsets 10, 13",
        ),
        ("BatchNormalization", ["x", "c", "c", "c", "c"], 15, {"training_mode": 1}, "training_mode=1"),
        ("Resize", ["x", "", "s"], 18, {"antialias": 1}, "antialias=1 is not supported, only 0"),
        ("AveragePool", ["x"], 19, {"kernel_shape": [2, 2], "dilations": [2, 1]}, r"dilations=\[2, 1\]"),
        ("LRN", ["x"], 17, {"size": 4}, "size=4 is not supported, only odd ones"),
        ("Relu", ["x"], 17, {"unheard_of": 1}, "its attribute 'unheard_of'"),
    ],
)
def test_forms_of_an_operator_that_no_rule_implements(
    op: str, operands: list[str], opset: int, attributes: Any, message: str, tmp_path: Path
) -> None:
    tensors = {"c": rand(3, low=0.1), "s": np.array([1, 1, 2, 2], np.float32)}
    tensors = {k: v for k, v in tensors.items() if k in operands}
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"the installed onnx knows no opset {opset}")
    path = write_model(
        tmp_path / "m.onnx", [node(op, operands, ["y"], **attributes)], X, tensors, ["y"], opset
    )
    if not message:
        load(path)
        return
    with pytest.raises(UnsupportedOperators, match=message):
        load(path)


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_out_of_range_are_refused(opset: int, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], X, {}, ["y"])
    model = onnx.load(path)
    model.opset_import[0].version = opset
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CaptureError, match=f"asks for opset {opset}; this installation reads opsets 7 to"):
        load(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="There is no ONNX model at"):
        load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(PockError, match=r"bad\.onnx"):
        load(tmp_path / "bad.onnx")


def test_an_operator_that_cannot_run_says_which_and_on_what(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "fc.weight"], ["y"], "product")]
    path = write_model(tmp_path / "m.onnx", nodes, {"x": rand(2, 5)}, {"fc.weight": rand(4, 3)}, ["y"])
    with pytest.raises(CaptureError, match=r"MatMul node 'product' cannot run on .*\[2, 5\], \[4, 3\]"):
        run_module(load(path), {"x": rand(2, 5)})


def test_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "local", "Double", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [node("MatMul", ["x", "fc.weight"], ["h"]), node("Double", ["h"], ["y"], domain="local")]
    inputs = {"x": rand(2, 4)}
    path = write_model(
        tmp_path / "m.onnx", nodes, inputs, {"fc.weight": rand(4, 3)}, ["y"], functions=[function],
        domains=["local"],
    )  # fmt: skip
    assert_equal(run_module(load(path), inputs), run_onnxruntime(path, inputs))
