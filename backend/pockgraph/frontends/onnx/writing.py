"""Trained weights back into the model they came from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import CaptureError, listing, reason
from ...files import as_path, resolved, write_atomically
from .module import OnnxModule
from .reader import OWN_DOMAINS, digest, import_onnx, load_proto

SMALLEST_OUTSIDE_BYTES = 1024  # runtimes read shapes before they read external data
LARGEST_FILE_BYTES = 2**31 - 2**26  # of weights: protobuf's limit, less room for the graph


def export_onnx(model: OnnxModule, path: str | os.PathLike[str]) -> Path:
    """Write the ONNX model that `model` was loaded from with its present weights.

    Everything else (graph, names, opset, metadata) is the original's. The file appears complete or not
    at all; it may replace the original. Weights that the original keeps as external data are written
    inside, unless the file would be too large for ONNX; then they go to a file beside it.

    Returns:
        The path written.

    Raises:
        CaptureError: the original is gone or has changed since it was loaded, a weight is not finite,
            or the file cannot be written.
    """
    onnx = import_onnx()
    source, target = Path(model.origin.path), resolved(as_path(path, CaptureError))
    proto = load_proto(source)
    if digest(source, proto) != model.origin.sha256:
        raise CaptureError(
            f"{source}, or a file with its weights, has changed since it was loaded, so weights may belong "
            "elsewhere now. Load it again and merge the trained tensors into that."
        )
    values = {
        model.tensor_names[fqn]: p.detach().to("cpu", torch.float32).numpy()
        for fqn, p in model.named_parameters()
    }
    broken = [name for name, v in values.items() if not np.isfinite(v).all()]
    if broken:
        raise CaptureError(f"Nothing was written to {target}: {listing(broken)} hold NaN or infinite values.")
    missing = {*values} - {*_replace(proto, values, onnx)}
    if missing:
        raise CaptureError(
            f"{source} keeps {listing(sorted(missing))} inside a function, where they cannot be replaced. "
            "Inline its functions with onnx.inliner.inline_local_functions and load that."
        )
    try:
        _save(proto, target, onnx)
    except OSError as e:
        raise CaptureError(
            f"Cannot write the model {path}: {reason(e)}. Choose another place, or make room there."
        ) from None
    return target


def _replace(proto: Any, values: dict[str, np.ndarray], onnx: Any) -> list[str]:
    """Put `values` into initializers and constants in place; the names that were found."""
    found = []
    for node in [n for n in proto.graph.node if n.op_type == "Identity" and n.output[0] in values]:
        (name,) = node.output  # a weight that was equal to another, see `reader.is_merged`
        tensor = next(t for t in proto.graph.initializer if t.name == node.input[0])
        proto.graph.initializer.add(name=name, dims=tensor.dims)
        proto.graph.node.remove(node)
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            found.append(tensor.name)
            _overwrite(tensor, values[tensor.name], onnx)
    for node in proto.graph.node:
        if node.op_type != "Constant" or node.domain not in OWN_DOMAINS or node.output[0] not in values:
            continue
        found.append(node.output[0])
        (attribute,) = node.attribute
        value = values[node.output[0]]
        if attribute.name == "value":
            _overwrite(attribute.t, value, onnx)
        else:
            attribute.floats[:] = value.reshape(-1).tolist()
    return found


def _overwrite(tensor: Any, value: np.ndarray, onnx: Any) -> None:
    name, note = tensor.name, tensor.doc_string
    shaped = np.ascontiguousarray(value.reshape(tuple(tensor.dims)))
    tensor.CopyFrom(onnx.numpy_helper.from_array(shaped, name))
    if note:
        tensor.doc_string = note


def _save(proto: Any, target: Path, onnx: Any) -> None:
    """The graph is renamed into place last, so that it never names data that is not there."""
    data = _data_of(proto)
    if len(data) > LARGEST_FILE_BYTES:
        location = f"{target.stem}.{hashlib.sha256(data).hexdigest()[:16]}.data"
        write_atomically(target.with_name(location), data)
        _point_to(proto, location, onnx)
    write_atomically(target, proto.SerializeToString())


def _data_of(proto: Any) -> bytes:
    return b"".join(t.raw_data for t in _large(proto))


def _large(proto: Any) -> list[Any]:
    return [t for t in proto.graph.initializer if len(t.raw_data) >= SMALLEST_OUTSIDE_BYTES]


def _point_to(proto: Any, location: str, onnx: Any) -> None:
    offset = 0
    for tensor in _large(proto):
        length = len(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, location, offset, length)
        tensor.ClearField("raw_data")
        offset += length
