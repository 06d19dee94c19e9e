"""Which operators ExecuTorch's portable kernels compute, as PyTorch does.

The core ATen operators that have no kernel, and those whose kernel is not right, are written in terms of
others (`passes/legalize`) or refused. `tests/targets/test_executorch_target.py` holds the lists against the
kernels that are installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ...ir.graph import aten, bound_args
from ..exported_program import outside_core
from ..rule_table import dtypes_of, in_no_target

# Core ATen operators without a kernel, of ExecuTorch 1.5.1.
_WITHOUT_KERNEL = frozenset(
    {
        aten._adaptive_avg_pool2d_backward.default,
        aten._adaptive_avg_pool3d.default,
        aten._embedding_bag.default,
        aten.adaptive_avg_pool1d.default,
        aten.avg_pool1d.default,
        aten.avg_pool2d_backward.default,
        aten.avg_pool3d.default,
        aten.col2im.default,
        aten.embedding_dense_backward.default,
        aten.max_pool3d_with_indices.default,
        aten.native_group_norm_backward.default,
        aten.native_layer_norm_backward.default,
        aten.scatter_reduce.two,
        aten.sort.default,
    }
)
_WRONG = frozenset(
    {
        # Adds to memory that it has not set to zero: github.com/pytorch/executorch/issues/21686.
        aten.max_pool2d_with_indices_backward.default,
        # The variance is a mean square less a squared mean: at a mean of 100 the result is off by 6e-3.
        aten.native_group_norm.default,
        aten.native_layer_norm.default,
    }
)
# What programs of training steps call: the kernels that compute something from tensors alone, as
# `namespace::name`. None draws numbers, or gives memory as it finds it.
_NAMES = (
    "_adaptive_avg_pool2d _cdist_forward _log_softmax _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _pdist_forward _softmax _to_copy abs acos acosh add addmm "
    "alias_copy amax amin any arange argmax argmin asin asinh atan atan2 atanh avg_pool2d bitwise_and "
    "bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm cat ceil clamp clone "
    "constant_pad_nd convolution convolution_backward copy cos cosh cumsum detach_copy diagonal_copy div "
    "elu embedding eq erf exp expand_copy expm1 fill flip floor floor_divide fmod full full_like gather "
    "ge gelu glu grid_sampler_2d gt hardtanh index index_put index_select isinf isnan le leaky_relu "
    "lift_fresh_copy linear log log10 log1p log2 logical_and logical_not logical_or logical_xor logit lt "
    "masked_fill masked_scatter max max_pool2d_with_indices maximum mean min minimum mm mul narrow_copy "
    "native_group_norm native_layer_norm ne neg ones permute_copy pixel_shuffle pixel_unshuffle pow prod "
    "reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu remainder repeat "
    "replication_pad1d replication_pad2d replication_pad3d roll round rsqrt rsub scalar_tensor scatter "
    "scatter_add select_copy select_scatter sigmoid sign sin sinh slice_copy slice_scatter split_copy "
    "split_with_sizes_copy sqrt squeeze_copy stack sub sum t_copy tan tanh topk transpose_copy tril "
    "trunc unbind_copy unsqueeze_copy upsample_bilinear2d upsample_nearest2d var view_copy where zeros"
)
_CALLED = frozenset(f"aten::{name}" for name in _NAMES.split()) | {
    "dim_order_ops::_clone_dim_order",
    "dim_order_ops::_to_dim_order_copy",
    "executorch_prim::et_view",
}


def refusal(node: fx.Node) -> str:
    """Why ExecuTorch cannot compute a call, or an empty string."""
    target: Any = node.target
    if reason := in_no_target(node) or outside_core(node):
        return reason
    if any(d.is_complex for n in (node, *node.all_input_nodes) for d in dtypes_of(n)):
        return "ExecuTorch's kernels have no complex numbers; compute with two real tensors"
    if target in _WITHOUT_KERNEL:
        return "ExecuTorch has no kernel for it"
    if target in _WRONG:
        return "ExecuTorch's kernel does not compute what PyTorch does"
    if target is aten.add.Tensor:
        x, y, alpha = bound_args(node)
        if alpha != 1 and x.meta["val"].numel() == 1 < y.meta["val"].numel():
            return "ExecuTorch's kernel multiplies the wrong operand by alpha where the first is one element"
    if target is aten.convolution.default and bound_args(node)[1].meta["val"].ndim > 4:
        return "ExecuTorch has no kernel for convolutions of more than two dimensions"
    if target is aten.convolution_backward.default:
        arguments = bound_args(node)
        if arguments[2].meta["val"].ndim != 4 or arguments[7]:
            return "ExecuTorch has a kernel for the gradients of two-dimensional convolutions, not transposed"
    if any(d in (torch.float16, torch.bfloat16) for d in dtypes_of(node)):
        return "the target computes in float32 and wider; make the model's tensors float32"
    return ""


def is_called(operator: str) -> bool:
    """Whether programs of this target call an operator, such as `aten::add.out`."""
    return operator.partition(".")[0] in _CALLED
