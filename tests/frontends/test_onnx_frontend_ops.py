"""Every operator rule of the ONNX front end against onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_models import assert_equal, ints, rand, run_module, run_onnxruntime, write_model

from pockgraph.frontends.onnx import load
from pockgraph.frontends.onnx.operator_rules import RULES


@dataclass(frozen=True)
class Held:
    """An operand that the model holds as an initializer."""

    value: np.ndarray


@dataclass(frozen=True)
class Case:
    op: str
    operands: tuple[Any, ...]
    opset: int = 17
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)


def case(op: str, *operands: Any, opset: int = 17, outputs: int = 1, **attributes: Any) -> Case:
    return Case(op, operands, opset, outputs, attributes)


def held(*values: Any) -> Held:
    return Held(ints(*values))


def w(*shape: int, seed: int = 7) -> Held:
    return Held(rand(*shape, seed=seed))


X = rand(2, 6, 5, 7)
SMALL = rand(3, 4)
SHORT = Held(np.array([2, 4], dtype=np.int32))  # steps of each sample of five
IDS = np.array([[1, 3, -1], [0, -2, 2]], dtype=np.int64)
BOOLS = rand(3, 4, seed=1) > 0
INTS = np.array([[7, -7, 5], [-5, 9, -9]], dtype=np.int64)

TIES = np.tile(np.array([1, 2, 2, 1, 2, 0, 2, 2], np.float32), (3, 8))

UNARY = [
    "Abs", "Atan", "Asinh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Identity", "IsNaN", "IsInf", "Neg",
    "Reciprocal", "Round", "Sign", "Sin", "Sinh", "Tan", "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign",
    "HardSwish", "HardSigmoid", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Shrink",
]  # fmt: skip

COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
SOFTMAX_AXES = ((11, 1), (11, 2), (17, 1))

FIVE_STEPS = Held(np.array([5, 5], np.int32))
DIRECTIONS = (("forward", 1), ("reverse", 1), ("bidirectional", 2))

CASES = [
    *(case(op, SMALL) for op in UNARY),
    *(case(op, np.tanh(SMALL)) for op in ("Acos", "Asin", "Atanh")),
    *(case(op, np.abs(SMALL) + 1) for op in ("Acosh", "Log", "Sqrt")),
    case("Not", BOOLS),
    *(case(op, BOOLS, rand(4) > 0) for op in ("And", "Or", "Xor")),
    *(case(op, SMALL, rand(4)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *(case(op, SMALL, w(4)) for op in ("Add", "Sub", "Mul", "Div")),
    *(case(op, SMALL, w(1)) for op in ("Add", "Sub", "Mul", "Div")),
    *(case(op, Held(np.array(2.5, np.float32)), SMALL) for op in ("Sub", "Div", "Pow")),
    case("Add", rand(3), w(1, 1)),  # the constant has more dimensions than the input
    *(case(op, SMALL, np.round(SMALL)) for op in COMPARISONS),
    case("Greater", SMALL, w(4)),
    case("Div", INTS, ints(2, -3, 4)),
    case("Mod", INTS, ints(2, -3, 4)),
    case("Mod", SMALL, rand(4, low=0.5), fmod=1),
    case("Pow", SMALL, Held(np.array(2.0, np.float32))),
    case("Pow", np.abs(SMALL), rand(4)),
    case("Pow", SMALL, Held(np.array(3, np.int64))),
    case("Pow", Held(np.array(2.5, np.float32)), np.abs(INTS)),
    case("Pow", np.abs(INTS), Held(np.array(0.5, np.float32))),
    case("Max", SMALL, rand(4), rand(3, 1)),
    case("Where", BOOLS, SMALL, rand(4)),
    case("Where", BOOLS, SMALL, Held(np.array(-np.inf, np.float32))),
    case("IsInf", np.array([np.inf, -np.inf, 1], np.float32), detect_negative=0),
    *(case("Cast", SMALL * 3, to=to) for to in (1, 6, 7, 9, 11)),
    case("CastLike", SMALL * 3, IDS),
    case("Dropout", SMALL, opset=11, ratio=0.5),
    case("Dropout", SMALL, Held(np.array(0.5, np.float32))),
    case("HardSigmoid", SMALL * 4, alpha=1 / 6),
    case("HardSigmoid", SMALL * 4, alpha=0.3, beta=0.4),
    case("LeakyRelu", SMALL, alpha=0.2),
    case("Elu", SMALL, alpha=0.7),
    case("Celu", SMALL, alpha=1.3),
    case("Shrink", SMALL, lambd=0.3, bias=0.1),
    case("PRelu", X, w(6, 1, 1)),
    case("PRelu", X, w(1)),
    case("Mish", SMALL, opset=18),
    case("Gelu", SMALL, opset=20),
    case("Gelu", SMALL, opset=20, approximate="tanh"),
    case("Clip", SMALL, opset=8, min=-0.5, max=0.5),
    case("Clip", SMALL, opset=8, min=-0.5),
    case("Clip", SMALL, Held(np.array(-0.5, np.float32)), Held(np.array(0.5, np.float32))),
    case("Clip", SMALL, None, Held(np.array(0.5, np.float32))),
    case("Clip", INTS, Held(np.array(-6)), Held(np.array(6))),
    *(case(op, X, opset=o, axis=a) for op in ("Softmax", "LogSoftmax") for o, a in SOFTMAX_AXES),
    case("Softmax", SMALL),
    # matrix products
    case("MatMul", SMALL, w(4, 5)),
    case("MatMul", w(5, 3), SMALL),
    case("MatMul", rand(2, 3, 4), rand(2, 4, 5)),
    case("MatMul", rand(2, 3, 4), w(4)),
    case("Gemm", SMALL, w(4, 5), w(5)),
    case("Gemm", SMALL, w(5, 4), w(5), transB=1),
    case("Gemm", SMALL, w(3, 5), w(1, 5), transA=1, alpha=0.5, beta=2.0),
    case("Gemm", SMALL, w(4, 5), opset=11),
    case("Einsum", rand(2, 3, 4), w(4, 5), equation="bij, jk -> bik"),
    # convolutions
    case("Conv", X, w(8, 6, 3, 3), w(8), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", X, w(8, 6, 3, 3), pads=[0, 1, 2, 1], dilations=[1, 2]),
    case("Conv", X, w(12, 1, 3, 3), w(12), group=6, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", X, w(8, 6, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", rand(2, 3, 9), w(4, 3, 3), auto_pad="VALID"),
    case("Conv", rand(1, 2, 4, 5, 4), w(3, 2, 2, 2, 2), w(3)),
    case("ConvTranspose", X, w(6, 4, 3, 3), w(4), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", X, w(6, 4, 3, 3), strides=[2, 2], pads=[0, 1, 1, 0]),
    case("ConvTranspose", X, w(6, 2, 2, 2), group=3, strides=[2, 2], dilations=[2, 1]),
    case("ConvTranspose", X, w(6, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", X, w(6, 4, 3, 3), strides=[2, 2], output_shape=[10, 15]),
    # pooling
    case("MaxPool", X, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", X, kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", rand(2, 3, 9), kernel_shape=[3]),
    case("AveragePool", X, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    case("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("GlobalAveragePool", X),
    case("GlobalMaxPool", X),
    # resampling
    case("Upsample", X, opset=8, scales=[1.0, 1.0, 2.0, 3.0]),
    case("Upsample", X, Held(np.array([1, 1, 2, 2], np.float32)), opset=9, mode="linear"),
    case("Resize", X, Held(np.array([1, 1, 2, 1.5], np.float32)), opset=10),
    *(
        case("Resize", X, None, Held(np.array([1, 1, *s], np.float32)), opset=13, mode=mode,
             coordinate_transformation_mode=how, nearest_mode=nearest)
        for mode, how, nearest, s in (
            ("nearest", "asymmetric", "floor", (2, 2)),
            ("nearest", "half_pixel", "round_prefer_floor", (2, 3)),
            ("nearest", "half_pixel", "round_prefer_ceil", (1.7, 0.6)),
            ("nearest", "align_corners", "ceil", (1.7, 2.3)),
            ("linear", "half_pixel", "floor", (2, 2)),
            ("linear", "align_corners", "floor", (2, 2)),
            ("linear", "pytorch_half_pixel", "floor", (0.5, 0.2)),
            ("linear", "asymmetric", "floor", (1.7, 2)),
            ("cubic", "half_pixel", "floor", (2, 1.5)),
        )
    ),
    case("Resize", X, None, Held(np.array([1, 1, 2, 2], np.float32)), opset=13, mode="cubic",
         cubic_coeff_a=-0.5, exclude_outside=1),
    case("Resize", X, None, None, held(2, 6, 9, 9), opset=13, mode="linear"),
    case("Resize", X, None, None, held(10, 3), opset=18, axes=[2, 3]),
    # shapes
    case("Reshape", X, held(0, -1, 7)),
    case("Flatten", X, axis=2),
    case("Flatten", X, axis=0),
    case("Flatten", X, axis=-1),
    case("Transpose", X, perm=[0, 2, 3, 1]),
    case("Transpose", X),
    case("Squeeze", rand(2, 1, 3, 1), opset=11, axes=[1]),
    case("Squeeze", rand(2, 1, 3, 1), held(-1)),
    case("Squeeze", rand(2, 1, 3, 1)),
    case("Unsqueeze", SMALL, opset=11, axes=[0, 3]),
    case("Unsqueeze", SMALL, held(1, -1)),
    case("Concat", SMALL, rand(2, 4), axis=0),
    case("Concat", SMALL, w(3, 2), axis=-1),
    case("Split", X, opset=11, outputs=2, axis=1),
    case("Split", X, opset=11, outputs=3, axis=1, split=[1, 2, 3]),
    case("Split", X, held(4, 2), outputs=2, axis=1),
    case("Split", X, opset=18, outputs=3, axis=3, num_outputs=3),
    case("Slice", X, opset=9, starts=[1, -3], ends=[4, 100], axes=[1, 3]),
    case("Slice", X, held(1, -1), held(5, -100), held(1, -1), held(2, -2)),
    case("Slice", X, held(0), held(1)),
    case("Slice", X, held(3), held(2), held(1)),
    case("Expand", rand(3, 1), held(2, 1, 4)),
    case("Tile", SMALL, held(2, 3)),
    case("Pad", SMALL, opset=10, pads=[1, 0, 0, 2], value=0.5),
    case("Pad", SMALL, held(1, -1, 0, 2), Held(np.array(0.5, np.float32))),
    case("Pad", X, held(0, 0, 2, 1, 0, 0, 1, 3), mode="reflect"),
    case("Pad", X, held(0, 0, 2, 1, 0, 0, 1, 3), mode="edge"),
    case("Pad", X, held(2, 1), None, held(-1), opset=18),
    case("DepthToSpace", rand(2, 8, 3, 3), blocksize=2),
    case("DepthToSpace", rand(2, 8, 3, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", rand(2, 3, 4, 6), blocksize=2),
    # indexing
    case("Gather", w(5, 4), IDS),
    case("Gather", X, held(2, -1), axis=1),
    case("Gather", X, Held(np.array(-1)), axis=2),
    case("Gather", X, IDS, axis=3),
    case("GatherElements", SMALL, np.array([[0, -1, 1, 2]]), axis=0),
    case("GatherND", SMALL, np.array([[0, -1], [2, 1]])),
    case("GatherND", X, np.array([[[0, 1]], [[1, -2]]])),
    case("ScatterElements", SMALL, np.array([[0, -1, 1, 2]]), rand(1, 4)),
    case("ScatterElements", SMALL, np.array([[0, 0], [1, 1]]), rand(2, 2), opset=16, axis=1, reduction="add"),
    case("ScatterND", SMALL, np.array([[0], [2]]), rand(2, 4)),
    case("ScatterND", SMALL, np.array([[0, 1], [0, 1]]), rand(2), opset=16, reduction="add"),
    case("OneHot", IDS, Held(np.array(5)), Held(np.array([0, 1], np.float32))),
    case("OneHot", IDS, held(4), Held(np.array([-1, 2], np.float32)), axis=1),
    case("Trilu", SMALL),
    case("Trilu", SMALL, Held(np.array(-1)), upper=0),
    *(case("CumSum", SMALL, Held(np.array(1)), exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)),
    case("TopK", SMALL, held(2), outputs=2),
    case("TopK", SMALL, held(2), outputs=2, axis=0, largest=0),
    *(case("TopK", TIES, held(6), outputs=2, largest=k) for k in (0, 1)),
    # reductions
    *(
        case(f"Reduce{op}", np.abs(X) + 0.1, opset=11, axes=[1, -1], keepdims=k)
        for k, ops in ((0, "L1 L2 LogSum LogSumExp Max"), (1, "Mean Min Prod Sum SumSquare"))
        for op in ops.split()
    ),
    *(case(f"Reduce{op}", X, held(1), opset=18) for op in ("L1", "L2", "Max", "Mean", "Min", "Sum")),
    case("ReduceMean", X, opset=18),
    case("ReduceSum", X, opset=13, noop_with_empty_axes=1),
    *(
        case(f"Reduce{op}", np.abs(X) - 0.1 * (op in ("L1", "L2")), opset=18, noop_with_empty_axes=1)
        for op in ("L1", "L2", "LogSum", "Max", "Mean", "Prod", "SumSquare")
    ),
    *(case(f"Reduce{op}", INTS.astype(np.int32)) for op in ("Sum", "Prod", "Max")),
    case("ReduceLogSumExp", X),
    case("ArgMax", X, axis=1),
    case("ArgMin", X, axis=-1, keepdims=0),
    # recurrent layers; an absent input is None
    *(
        case("LSTM", rand(5, 2, 3), w(k, 16, 3), w(k, 16, 4), w(k, 32), outputs=3, hidden_size=4, direction=d)
        for d, k in DIRECTIONS
    ),
    case(
        "LSTM", rand(5, 2, 3), w(1, 16, 3), w(1, 16, 4), None, None, rand(1, 2, 4), rand(1, 2, 4), outputs=3,
        hidden_size=4,
    ),
    case(
        "LSTM", rand(5, 2, 3), w(1, 16, 3), w(1, 16, 4), w(1, 32), FIVE_STEPS, outputs=2,
        hidden_size=4,
    ),
    *(
        case("GRU", rand(5, 2, 3), w(k, 12, 3), w(k, 12, 4), w(k, 24), None, rand(k, 2, 4), outputs=2,
             hidden_size=4, direction=d, linear_before_reset=before)
        for d, k in DIRECTIONS for before in (0, 1)
    ),
    case("GRU", rand(5, 2, 3), w(1, 12, 3), w(1, 12, 4), outputs=2, hidden_size=4),
    *(
        case(kind, rand(5, 2, 3), w(k, 4 * gates, 3), w(k, 4 * gates, 4), w(k, 8 * gates), lengths,
             rand(k, 2, 4), outputs=2, hidden_size=4, direction=d, **more)
        for d, k in DIRECTIONS
        for lengths in (SHORT, SHORT.value)
        for kind, gates, more in (
            ("LSTM", 4, {}), ("GRU", 3, {"linear_before_reset": 1}), ("GRU", 3, {}), ("RNN", 1, {})
        )
    ),
    *(
        case("RNN", rand(5, 2, 3), w(k, 4, 3), w(k, 4, 4), w(k, 8), outputs=2, hidden_size=4, direction=d,
             activations=["Relu"] * k)
        for d, k in DIRECTIONS
    ),
    case("RNN", rand(5, 2, 3), w(1, 4, 3), w(1, 4, 4), outputs=2, hidden_size=4),
    # normalisation
    case("BatchNormalization", X, w(6), w(6), w(6), Held(rand(6, low=0.5)), epsilon=1e-3),
    case("BatchNormalization", X, w(6), w(6), w(6), Held(rand(6, low=0.5)), opset=8),
    case("InstanceNormalization", X, w(6), w(6), epsilon=1e-3),
    case("GroupNormalization", X, w(3), w(3), opset=18, num_groups=3),
    case("GroupNormalization", X, w(6), w(6), opset=21, num_groups=3),
    case("LayerNormalization", X, w(7), w(7)),
    case("LayerNormalization", X, w(5, 7), axis=2, epsilon=1e-3),
    case("LayerNormalization", X, w(1, 7), w(7), axis=-1),
    case("RMSNormalization", X, w(7), opset=23),
    case("LpNormalization", X, axis=1),
    case("LpNormalization", X, p=1),
    case("LRN", X, size=3, alpha=0.1, beta=0.6, bias=1.5),
    case("LRN", X, size=5, alpha=0.1),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c.op}-{c.opset}" for i, c in enumerate(CASES)])
def test_operators_equal_onnxruntime(case: Case, tmp_path: Path) -> None:
    names = ["" if v is None else f"i{i}" for i, v in enumerate(case.operands)]
    inputs = {n: v for n, v in zip(names, case.operands) if isinstance(v, np.ndarray)}
    tensors = {n: v.value for n, v in zip(names, case.operands) if isinstance(v, Held)}
    outputs = [f"o{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, **case.attributes)
    path = write_model(tmp_path / "op.onnx", [node], inputs, tensors, outputs, case.opset)
    assert_equal(run_module(load(path), inputs), run_onnxruntime(path, inputs))


# onnxruntime has no kernel for these yet, or they never reach a rule: ONNX's reference or a test of its own.
ELSEWHERE = {"ConstantOfShape", "Range", "Swish"}


def test_every_rule_is_compared_with_onnxruntime() -> None:
    assert {*RULES} - {c.op for c in CASES} == ELSEWHERE


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("lengths", [None, SHORT.value])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_samples_before_steps_is_the_same_transposed(
    kind: str, gates: int, lengths: np.ndarray | None, before: int, tmp_path: Path
) -> None:
    """layout=1, which onnxruntime has no kernel for."""
    x, h0 = rand(5, 2, 3), rand(2, 2, 4)
    how = {"hidden_size": 4, "direction": "bidirectional"} | (
        {"linear_before_reset": before} if gates == 3 else {}
    )
    tensors = {"w": w(2, 4 * gates, 3), "r": w(2, 4 * gates, 4), "b": w(2, 8 * gates)}
    results = []
    for layout in (0, 1):
        inputs = {"x": x.swapaxes(0, 1) if layout else x, "h": h0.swapaxes(0, 1) if layout else h0}
        inputs |= {} if lengths is None else {"n": lengths}
        names = ["x", "w", "r", "b", "" if lengths is None else "n", "h"]
        node = helper.make_node(kind, names, ["y", "last"], layout=layout, **how)
        path = write_model(
            tmp_path / f"{layout}.onnx",
            [node],
            inputs,
            {k: v.value for k, v in tensors.items()},
            ["y", "last"],
            17,
        )
        results.append(run_module(load(path), inputs))
    by_sample = {"y": results[1]["y"].transpose(1, 2, 0, 3), "last": results[1]["last"].swapaxes(0, 1)}
    assert_equal(by_sample, results[0])


def test_swish_equals_its_definition(tmp_path: Path) -> None:
    for alpha in (1.0, 0.5):
        node = helper.make_node("Swish", ["x"], ["y"], alpha=alpha)
        path = write_model(tmp_path / "swish.onnx", [node], {"x": SMALL}, {}, ["y"], 24)
        expected = SMALL / (1 + np.exp(-alpha * SMALL))
        assert_equal(run_module(load(path), {"x": SMALL}), {"y": expected})
