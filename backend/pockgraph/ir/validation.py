"""Which operators a graph file may hold, and what is checked of a graph before it runs.

PyTorch's operators are native code, and some believe their arguments: they read beyond a tensor's memory, or
end the process. So a file passes only with operators on this list, with values of the shape and dtype that
each operator computes from its arguments, and, where an operator takes places in another tensor or sums over
it, with these from the operator that makes them.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from .graph import Graph, dtype_name, tensor_bytes

# The core ATen operators, those that compute element by element, those that the targets have rules for, and
# what autograd and decompositions make of public functions. None reads memory by strides, packs or unpacks
# formats of a library, or draws numbers. Add here what a new rule needs.
_ALLOWED = (
    "__lshift__ __rshift__ _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d "
    "_adaptive_avg_pool3d_backward _cdist_backward _cdist_forward _conj_physical _euclidean_dist _fft_c2c "
    "_fft_c2r _fft_r2c _fused_rms_norm_backward _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex "
    "_linalg_svd _log_softmax _log_softmax_backward_data _native_batch_norm_legit "
    "_native_batch_norm_legit_functional _native_batch_norm_legit_no_training _pdist_backward "
    "_pdist_forward _prelu_kernel _prelu_kernel_backward _reshape_copy _safe_softmax _softmax "
    "_softmax_backward_data _to_copy _trilinear _unsafe_index _unsafe_index_put _unsafe_view "
    "_upsample_bicubic2d_aa _upsample_bicubic2d_aa_backward _upsample_bilinear2d_aa "
    "_upsample_bilinear2d_aa_backward _upsample_nearest_exact1d _upsample_nearest_exact1d_backward "
    "_upsample_nearest_exact2d _upsample_nearest_exact2d_backward _upsample_nearest_exact3d "
    "_upsample_nearest_exact3d_backward _weight_norm_interface _weight_norm_interface_backward abs acos "
    "acosh adaptive_max_pool2d adaptive_max_pool2d_backward adaptive_max_pool3d "
    "adaptive_max_pool3d_backward add addbmm addcdiv addcmul addmm addmv addr affine_grid_generator alias "
    "alias_copy all amax amin aminmax angle any arange argmax argmin asin asinh atan atan2 atanh "
    "avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward baddbmm binary_cross_entropy "
    "binary_cross_entropy_backward binary_cross_entropy_with_logits bitwise_and bitwise_left_shift "
    "bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm bucketize cat ceil celu channel_shuffle "
    "cholesky_inverse cholesky_solve "
    "clamp clamp_max clamp_min clone col2im complex constant_pad_nd convolution "
    "convolution_backward copy copysign cos cosh count_nonzero cummax cummin cumprod cumsum deg2rad "
    "detach detach_copy diag_embed diagonal diagonal_backward diagonal_copy diagonal_scatter digamma dist "
    "div dot elu elu_backward embedding embedding_dense_backward empty empty_like eq erf erfc erfinv exp "
    "exp2 expand expand_copy expm1 eye fill flip floor floor_divide fmax fmin fmod frac frexp full "
    "full_like gather gcd ge gelu gelu_backward glu glu_backward grid_sampler_2d grid_sampler_2d_backward "
    "grid_sampler_3d grid_sampler_3d_backward gt hardshrink hardshrink_backward hardsigmoid "
    "hardsigmoid_backward hardswish hardswish_backward hardtanh hardtanh_backward heaviside huber_loss "
    "huber_loss_backward hypot i0 igamma igammac im2col index index_add index_copy index_fill index_put "
    "index_reduce index_select isfinite isin isinf isnan isneginf isposinf kthvalue lcm ldexp le "
    "leaky_relu leaky_relu_backward lerp lgamma lift_fresh lift_fresh_copy linalg_cholesky_ex "
    "linalg_cross linalg_eig linalg_householder_product linalg_inv_ex linalg_lu linalg_lu_factor_ex "
    "linalg_lu_solve linalg_matrix_exp linalg_pinv linalg_qr "
    "linalg_solve_triangular linalg_vector_norm linspace log log10 log1p log2 log_sigmoid_backward "
    "log_sigmoid_forward logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor "
    "logit logit_backward logspace logsumexp lt lu_unpack masked_fill masked_scatter max "
    "max_pool2d_with_indices max_pool2d_with_indices_backward max_pool3d_with_indices "
    "max_pool3d_with_indices_backward maximum mean median min minimum mish mish_backward mm mode mse_loss "
    "mse_loss_backward mul multi_margin_loss multilabel_margin_loss_forward mv mvlgamma nan_to_num nansum "
    "narrow_copy native_batch_norm native_batch_norm_backward native_group_norm "
    "native_group_norm_backward native_layer_norm native_layer_norm_backward ne neg new_empty new_full "
    "new_ones new_zeros nextafter nll_loss2d_backward nll_loss2d_forward nll_loss_backward "
    "nll_loss_forward norm ones ones_like permute permute_copy pixel_shuffle pixel_unshuffle polar "
    "polygamma pow prod rad2deg reciprocal reflection_pad1d reflection_pad1d_backward reflection_pad2d "
    "reflection_pad2d_backward reflection_pad3d reflection_pad3d_backward relu remainder renorm repeat "
    "replication_pad1d replication_pad1d_backward replication_pad2d replication_pad2d_backward "
    "replication_pad3d replication_pad3d_backward reshape roll rot90 round rsqrt rsub scalar_tensor "
    "scatter scatter_add scatter_reduce searchsorted select select_backward select_copy select_scatter "
    "sgn sigmoid sigmoid_backward sign signbit silu silu_backward sin sinc sinh slice slice_backward "
    "slice_copy slice_scatter smooth_l1_loss smooth_l1_loss_backward soft_margin_loss "
    "soft_margin_loss_backward softplus softplus_backward softshrink softshrink_backward sort "
    "special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 "
    "special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v "
    "special_chebyshev_polynomial_w special_entr special_erfcx special_hermite_polynomial_h "
    "special_hermite_polynomial_he special_i0e special_i1 special_i1e special_laguerre_polynomial_l "
    "special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0 special_modified_bessel_i1 "
    "special_modified_bessel_k0 special_modified_bessel_k1 special_ndtri "
    "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 "
    "special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u "
    "special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w "
    "special_spherical_bessel_j0 special_xlog1py special_zeta split split_copy split_with_sizes "
    "split_with_sizes_copy sqrt square squeeze squeeze_copy stack std std_mean sub sum t t_copy take tan "
    "tanh tanh_backward threshold threshold_backward topk trace transpose transpose_copy triangular_solve "
    "tril triu trunc unbind unbind_copy unfold unfold_backward unfold_copy unsafe_split "
    "unsafe_split_with_sizes unsqueeze unsqueeze_copy upsample_bicubic2d upsample_bicubic2d_backward "
    "upsample_bilinear2d upsample_bilinear2d_backward upsample_linear1d upsample_linear1d_backward "
    "upsample_nearest1d upsample_nearest1d_backward upsample_nearest2d upsample_nearest2d_backward "
    "upsample_nearest3d upsample_nearest3d_backward upsample_trilinear3d upsample_trilinear3d_backward "
    "var var_mean vdot view view_as_complex view_as_real view_copy where xlogy zeros zeros_like"
)
ALLOWED_OPERATORS = frozenset(_ALLOWED.split())
MAX_BYTES = 1 << 37  # of one value

# Backward operators that take places (indices) which their forward operator found, by argument.
_PLACES: dict[str, str] = {
    "max_pool2d_with_indices_backward": "indices",
    "max_pool3d_with_indices_backward": "indices",
    "adaptive_max_pool2d_backward": "indices",
    "adaptive_max_pool3d_backward": "indices",
}
_FINDERS = frozenset(
    {"max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d"}
)
# What may stand between: it picks or moves places, and changes none.
_CARRIERS = frozenset({
    "index_select", "slice", "select", "clone", "view", "reshape", "_unsafe_view", "permute", "transpose",
    "unsqueeze", "squeeze", "expand", "alias", "detach",
})  # fmt: skip
# Backward operators of norms -> the arguments that hold one number a normalised group.
_STATISTICS = {
    "native_layer_norm_backward": ("mean", "rstd"),
    "native_group_norm_backward": ("mean", "rstd"),
    "native_batch_norm_backward": ("running_mean", "running_var", "save_mean", "save_invstd", "weight"),
}


def check_graph(graph: Graph) -> None:
    """Refuse a graph whose values are not what its operators compute.

    Raises:
        ValueError: naming the node.
    """
    for node, slot in zip(graph.placeholders.values(), graph.inputs):
        value = graph.values.get(slot.name)
        held = [node.meta["val"].dtype, *([] if value is None else [value.dtype])]
        if any(dtype_name(d) != slot.dtype for d in held):
            raise ValueError(f"input {slot.name} is not {slot.dtype}")
    for node in graph.nodes():
        expected = _computed(node)
        if _form(expected) != _form(node.meta["val"]):
            raise ValueError(
                f"node {node.name} ({node.target}) computes {_form(expected)}, not {_form(node.meta['val'])}"
            )
        for shape, dtype in _form(expected):
            if tensor_bytes(shape, dtype) > MAX_BYTES:
                raise ValueError(f"node {node.name} makes a tensor of the shape {list(shape)}")
        if node.target is not operator.getitem:
            _check_arguments(node)


def _computed(node: fx.Node) -> Any:
    """What a node's operator gives for its arguments' shapes and dtypes; nothing is computed."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    args, kwargs = fx.node.map_aggregate((args, dict(kwargs)), _as_meta)  # pyright: ignore
    target: Any = node.target
    if target is not operator.getitem and any(a.name == "device" for a in target._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    return target(*args, **kwargs)


def _as_meta(value: Any) -> Any:
    return torch.device("meta") if isinstance(value, torch.device) else value


def _form(value: Any) -> list[tuple[tuple[int, ...], torch.dtype]]:
    if isinstance(value, torch.Tensor):
        return [(tuple(value.shape), value.dtype)]
    return (
        [f for v in value or () for f in _form(v)] if value is None or isinstance(value, tuple | list) else []
    )


def _check_arguments(node: fx.Node) -> None:
    target: Any = node.target
    name = target.overloadpacket.__name__
    if name not in _PLACES and name not in _STATISTICS and name != "lu_unpack":
        return
    given: dict[str, Any] = {a.name: v for a, v in zip(target._schema.arguments, node.args)}
    given.update(node.kwargs)
    if name == "lu_unpack":
        *batch, rows, columns = _shape(given["LU_data"])
        if _shape(given["LU_pivots"]) != (*batch, min(rows, columns)):
            raise ValueError(f"node {node.name} ({node.target}) has pivots of another matrix")
        return
    if name in _PLACES:
        finder = _finder(given[_PLACES[name]])
        places = 2 if "2d" in name else 3
        if finder is None or _shape(finder.args[0])[-places:] != _shape(given["self"])[-places:]:
            raise ValueError(f"node {node.name} ({node.target}) takes places that no pooling found")
        return
    shape = _shape(given["input"])
    if name == "native_layer_norm_backward":
        count = math.prod(shape[: len(shape) - len(given["normalized_shape"])])
    elif name == "native_group_norm_backward":
        count = given["N"] * given["group"]
        if (given["N"], given["C"], given["HxW"]) != (shape[0], shape[1], math.prod(shape[2:])):
            raise ValueError(f"node {node.name} ({node.target}) has sizes that are not its input's")
    else:
        count = shape[1]
    for argument in _STATISTICS[name]:
        value = given.get(argument)
        if isinstance(value, fx.Node) and math.prod(_shape(value)) != count:
            raise ValueError(f"node {node.name} ({node.target}) has {_shape(value)} as {argument}")


def _finder(node: Any) -> fx.Node | None:
    """The pooling that found the places `node` holds."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target is operator.getitem:
            source, index = node.args
            called: Any = source.target if isinstance(source, fx.Node) else None
            found = (
                index == 1 and getattr(getattr(called, "overloadpacket", None), "__name__", "") in _FINDERS
            )
            return source if found and isinstance(source, fx.Node) else None
        target: Any = node.target
        if target.overloadpacket.__name__ not in _CARRIERS:
            return None
        node = node.args[0]
    return None


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)
