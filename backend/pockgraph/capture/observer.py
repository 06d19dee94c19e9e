"""What runs beside the user's code while it is traced.

A mode that sees every call of a torch function: it notes whose line and which layer calls, puts the traced
tensor in the place of a parameter that the code holds by itself (`self._flat_weights`, a closure), and
keeps a record, so that two runs of the same code can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.fx.traceback as fx_traceback
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from ..recurrent.layers import CELLS, LAYERS
from . import refusals
from .function_rewrites import PLAIN
from .losses import LOSSES
from .packed_sequences import PackedSequences
from .refusals import ENGINE_ROOT, TORCH_ROOT

REPLACED = {**LAYERS, **CELLS}
REWRITTEN = {**LOSSES, **PLAIN}
ENTRY = str(Path(__file__).with_name("traced_run.py"))  # beneath it the user's code begins
MACHINERY = tuple(f"{TORCH_ROOT}/{room}" for room in ("_subclasses", "fx", "_ops.py", "_prims", "_decomp"))
MODULE_CALLS = (
    "call_module",
    "module_call_wrapper",
    "forward",
)  # tracing stands between a module and its caller
QUIET = {"__get__", "dim", "size", "is_floating_point", "numel", "stride"}  # ask, and compute nothing
Call = tuple[Any, ...]


class Observer(TorchFunctionMode):
    """Args:
    model: the user's.
    stand_ins: id of each of its tensors -> the traced tensor.
    mode: of this run's tensors.
    """

    def __init__(self, model: nn.Module, stand_ins: Mapping[int, Tensor], mode: Any) -> None:
        super().__init__()
        self._stand_ins, self._mode = stand_ins, mode
        self._paths = {id(m): name for name, m in model.named_modules()}
        self._packed = PackedSequences()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(map(self._stand_in, args))
        kwargs = {k: self._stand_in(v) for k, v in kwargs.items()} if kwargs else {}
        func = REWRITTEN.get(func, func)
        name = func.__name__
        if name in QUIET and not (name == "__get__" and func.__self__.__name__ == "data"):
            return func(*args, **kwargs)
        layer, source = self._place()
        if not layer and not source:  # the tracer's own, or PyTorch's machinery beside it
            return func(*args, **kwargs)
        _refuse_call(name, func, args, source)
        self.calls.append((name, source, _recorded(args), _recorded(kwargs)))
        func = REPLACED.get(name, func)
        before = fx_traceback.current_meta.get("custom")
        fx_traceback.current_meta["custom"] = {"layer": layer, "source": source}
        try:
            result = self._packed.call(name, func, args, kwargs, sys._getframe(1))
            return func(*args, **kwargs) if result is NotImplemented else result
        except refusals.NotOneGraph as e:
            e.source = e.source or source
            raise
        finally:
            fx_traceback.current_meta["custom"] = before or {}

    def _stand_in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if isinstance(value, FakeTensor) and value.fake_mode is not self._mode:
                raise refusals.NotOneGraph(refusals.LEFT_OVER, self._place()[1])
            if value.layout is not torch.strided:
                raise refusals.NotOneGraph(refusals.SPARSE, self._place()[1])
            return self._stand_ins.get(id(value), value)
        if type(value) in (list, tuple):
            return type(value)(self._stand_in(v) for v in value)
        return value

    def _place(self) -> tuple[str, str]:
        """The layer that is running, and the user's innermost `file:line`; empty for PyTorch's own."""
        frame, source = sys._getframe(2), ""
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(MACHINERY) and code.co_name not in MODULE_CALLS:
                return "", ""
            if code.co_filename == ENTRY:
                break
            if code.co_name == "_call_impl" and code.co_filename.startswith(TORCH_ROOT):
                path = self._paths.get(id(frame.f_locals.get("self")))
                if path is not None:
                    return path, source or _users_line(frame)
            elif not source and not code.co_filename.startswith((TORCH_ROOT, ENGINE_ROOT, "<")):
                source = f"{code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return "", source


def _users_line(frame: Any) -> str:
    while frame is not None and frame.f_code.co_filename != ENTRY:
        file = frame.f_code.co_filename
        if not file.startswith((TORCH_ROOT, ENGINE_ROOT, "<")):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _refuse_call(name: str, func: Any, args: Any, source: str) -> None:
    """Refuse what autograd would do outside of the graph.

    Raises:
        NotOneGraph: naming the line.
    """
    if name == "__set__" and func.__self__.__name__ == "data" and isinstance(args[0], FakeTensor):
        raise refusals.NotOneGraph(refusals.DATA_ASSIGNED, source)
    if name == "backward":
        raise refusals.NotOneGraph(refusals.BACKWARD_INSIDE, source)
    if name == "register_post_accumulate_grad_hook":
        raise refusals.NotOneGraph(refusals.POST_ACCUMULATE, source)


# ---------------------------------------------------------------- comparing two runs


def _recorded(value: Any) -> Any:
    """A value as far as it can be compared with that of another run."""
    if isinstance(value, Tensor) and is_functorch_wrapped_tensor(value):  # within vmap, grad or jvp
        return (tuple(value.shape), _recorded(get_unwrapped(value)))
    if isinstance(value, FakeTensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, Tensor | np.ndarray):
        return value
    if isinstance(value, list | tuple):
        return [_recorded(v) for v in value]
    if isinstance(value, dict):
        return [(k, _recorded(v)) for k, v in value.items()]
    if isinstance(value, slice):
        return [_recorded(v) for v in (value.start, value.stop, value.step)]
    if isinstance(value, bool | int | float | complex | str | np.generic):
        return repr(value)
    return type(value).__name__


def first_difference(one: list[Call], other: list[Call]) -> str | None:
    """Where (`file:line`, or empty) two runs of the same code part; None where they agree."""
    for a, b in zip_longest(one, other):
        if a is None or b is None:
            return (a or b or ("", ""))[1]
        if a[:2] != b[:2] or not (_same(a[2], b[2]) and _same(a[3], b[3])):
            return a[1]
    return None


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b
