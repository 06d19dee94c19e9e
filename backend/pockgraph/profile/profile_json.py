"""Profiles as JSON, and what earlier versions wrote differently."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..plan import BatchSpec
from ..plan.tensor_info import TensorInfo
from .memory_model import MemoryModel
from .operator_cost import SCALAR_BYTES, Operator
from .time_model import TimeModel

if TYPE_CHECKING:
    from .profile import Profile

_SERVES = [f.name for f in fields(Operator)].index("serves")


def json_of(profile: Profile) -> str:
    """What `values_of` reads."""
    data = {"rows" if key == "tensors" else key: value for key, value in asdict(profile).items()}
    data["batch"] = {k: v.model_dump() for k, v in profile.batch.items()}
    data["moves"] = [_keys_as(str, m) for m in profile.moves]
    for key in ("other_moves", "path_weights", "other_fixed"):
        data[key] = [{str(d): _keys_as(str, m) for d, m in dims.items()} for dims in getattr(profile, key)]
    data["other_state"] = [_keys_as(str, m) for m in profile.other_state]
    data["operators"] = [[getattr(o, f) for f in Operator.__slots__] for o in profile.operators]
    for o in data["operators"]:
        o[_SERVES] = hex(o[_SERVES])
    return json.dumps(data)


def values_of(text: str) -> dict[str, Any]:
    """The fields of a profile, as far as a file holds them; they are not checked.

    Raises:
        ValueError, LookupError, TypeError, …: the text is no profile.
    """
    data: Any = json.loads(text)
    operators = []
    for o in data["operators"]:
        o[_SERVES] = int(o[_SERVES], 16)
        values: Any = (tuple(v) if isinstance(v, list) else v for v in o)
        operators.append(Operator(*values))
    data |= _from_state_copies(data, operators)
    data["operators"] = tuple(operators)
    data["tensors"] = tuple(TensorInfo(**{**r, "shape": tuple(r["shape"])}) for r in data.pop("rows"))
    data["batch"] = {k: BatchSpec(**v) for k, v in data["batch"].items()}
    data["moves"] = tuple(_keys_as(int, m) for m in data["moves"])
    data["other_state"] = tuple(_keys_as(int, m) for m in data.get("other_state", ()))
    for key in ("other_moves", "path_weights", "other_fixed"):
        data[key] = tuple(
            {int(d): _keys_as(int, m) for d, m in by_dim.items()} for by_dim in data.get(key, ())
        )
    data["channel_order"] = tuple(map(tuple, data["channel_order"]))
    data["backward_constants"] = tuple((n, tuple(r)) for n, r in data["backward_constants"])
    data["state_bytes"] = tuple(map(tuple, data["state_bytes"]))
    for key in ("first_reader", "roots", "head"):
        data[key] = tuple(data[key])
    if data["time"]:
        data["time"] = TimeModel(**{**data["time"], "ms_per_unit": tuple(data["time"]["ms_per_unit"])})
    if memory := data.get("memory"):
        data["memory"] = MemoryModel(**{**memory, "bytes_per_unit": tuple(memory["bytes_per_unit"])})
    return data


def _keys_as(kind: type, moves: Mapping[Any, Sequence[int]]) -> dict[Any, tuple[int, ...]]:
    """JSON's keys are strings, its lists no tuples."""
    return {kind(k): tuple(v) for k, v in moves.items()}


def _from_state_copies(data: dict[str, Any], operators: Sequence[Operator]) -> dict[str, Any]:
    """What a profile lacks that was written when every optimizer state had its tensor's shape."""
    if "state_copies" not in data:
        return {}
    for o in operators:
        if o.bytes == SCALAR_BYTES:
            o.fixed_bytes, o.fixed_flops, o.fixed_work = o.bytes, o.flops, o.work
    copies = data.pop("state_copies")
    return {"state_bytes": [(0, SCALAR_BYTES * math.prod(r["shape"]) * copies) for r in data["rows"]]}
