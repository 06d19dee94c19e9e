"""What Python keeps from one call to the next: attributes, containers, closures, globals, random states.

A `Snapshot` knows all of it that a function and the modules it reaches can change; it says what differs
from it, and puts it back. Tensors are known by identity: tracing never writes into the user's own.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import random
import re
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .refusals import ENGINE_ROOT, TORCH_ROOT

ATOMS = (str, bytes, int, float, complex, bool, type(None), Tensor, types.ModuleType, torch.dtype)
ITERATORS = (type(iter([])), type(iter(())), type(iter(range(0))), itertools.count, itertools.cycle)
LARGE = 1000  # entries of a container beyond which they are not looked into
LIBRARIES = (
    "torch",
    "numpy",
    "builtins",
    "pockgraph",
    "pockui",
    "pandas",
    "tokenizers",
    "datasets",
    "PIL",
    "logging",
    "threading",
)
LARGE_BYTES = 1 << 20  # of an array beyond which it is data, and not copied
MODULE_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Change:
    """Something that differs: `name` within `path` (`model.encoder`), of the object `owner`."""

    path: str
    name: str
    owner: Any
    before: Any
    after: Any


@dataclass
class _Place:
    """One thing that can change: how to read it as a mapping, and how to put it back."""

    path: str
    owner: Any
    read: Callable[[], dict[Any, Any]]
    write: Callable[[dict[Any, Any]], None]
    value: dict[Any, Any]
    compared: bool


class Snapshot:
    """What `roots` (name -> module, function or anything else) reach now."""

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self._places: list[_Place] = []
        self._seen: dict[int, Any] = {}
        self.modules: dict[str, nn.Module] = {}
        self._pending: list[tuple[str, Any]] = list(roots.items())
        while self._pending:
            self._visit(*self._pending.pop())
        for name, read, write in GLOBAL_RANDOM:
            self._random(name, read, write)

    def changes(self) -> Iterator[Change]:
        """What differs now, but for the tensors in modules' own tables."""
        for place in self._places:
            if not place.compared:
                continue
            now = place.read()
            for name in [*place.value, *(n for n in now if n not in place.value)]:
                before, after = place.value.get(name, _MISSING), now.get(name, _MISSING)
                if before is not after and not _equal(before, after):
                    yield Change(place.path, str(name), place.owner, before, after)

    def restore(self) -> None:
        for place in self._places:
            now = place.read()
            if list(now) != list(place.value) or any(now[k] is not v for k, v in place.value.items()):
                place.write(place.value)

    def place_of(self, change: Change) -> str:
        """What differs, in words, with the line that changes it where that can be told."""
        owner, path, name = change.owner, change.path, change.name
        if isinstance(owner, types.FunctionType):
            return f"the variable {name!r} that {owner.__qualname__} uses"
        if isinstance(owner, type):
            return f"the class attribute {owner.__qualname__}.{name}"
        while not isinstance(owner, nn.Module) and "." in path:
            path, _, name = path.rpartition(".")
            owner = self.modules.get(path)
        if not isinstance(owner, nn.Module):
            return f"{change.path!r}"
        inside = re.sub(r"^model\.?", "", path)
        line = line_of(owner, name)
        of = f"module {inside!r}" if inside else "the model"
        return f"the attribute {name!r} of {of} ({type(owner).__name__}{f', {line}' if line else ''})"

    def name_of(self, tensor: Tensor) -> str:
        """Where the user's code holds a tensor, or its shape."""
        for place in self._places:
            for name, value in place.value.items():
                if value is tensor:
                    path = "" if isinstance(place.owner, types.FunctionType) else place.path
                    return repr(".".join(filter(None, (re.sub(r"^model\.", "", path), str(name)))))
        return f"a tensor of shape {tuple(tensor.shape)}"

    # ---------------------------------------------------------------- looking around

    def _place(self, path: str, owner: Any, read: Any, write: Any, compared: bool = True) -> None:
        self._places.append(_Place(path, owner, read, write, read(), compared))

    def _random(self, name: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._place(name, None, lambda: {"": _RandomState(read())}, lambda v: write(v[""].value))

    def _visit(self, path: str, value: Any) -> None:
        if isinstance(value, ATOMS) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, random.Random | np.random.Generator | np.random.RandomState | torch.Generator):
            self._random(path, *_random_state(value))
        elif isinstance(value, np.ndarray):
            if value.dtype != object and value.flags.writeable and value.nbytes <= LARGE_BYTES:
                self._place(path, value, lambda: {"": value.copy()}, lambda v: np.copyto(value, v[""]))
        elif isinstance(value, nn.Module):
            self.modules[path] = value
            self._attributes(path, value)
            self._class(type(value))
        elif isinstance(value, types.FunctionType):
            self._function(path, value)
        elif isinstance(value, types.MethodType):
            self._pending += [(path, value.__self__), (path, value.__func__)]
        elif isinstance(value, functools.partial):
            self._pending += [(path, v) for v in (value.func, *value.args, *value.keywords.values())]
        elif isinstance(value, dict):
            self._place(path, value, lambda: _entries(value), lambda v: _refill(value, v))
            self._inside(path, _entries(value).items())
        elif isinstance(value, list | deque):
            self._place(path, value, lambda: dict(enumerate(value)), lambda v: _relist(value, v.values()))
            self._inside(path, enumerate(value))
        elif isinstance(value, set):
            self._place(path, value, lambda: dict.fromkeys(value), lambda v: _reset(value, v))
        elif isinstance(value, tuple | frozenset):
            self._inside(path, enumerate(value))
        elif isinstance(value, type):
            del self._seen[id(value)]  # which `_class` notes for each of its bases
            self._class(value)
        elif isinstance(value, ITERATORS):
            self._place(path, value, lambda: {"": _position(value)}, lambda v: None)
        elif not _of_library(type(value)):
            self._attributes(path, value)

    def _inside(self, path: str, items: Any) -> None:
        items = list(items)
        if len(items) <= LARGE:
            self._pending += [(f"{path}.{name}", v) for name, v in items]

    def _attributes(self, path: str, value: Any) -> None:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            tables = MODULE_TABLES if isinstance(value, nn.Module) else ()
            self._place(path, value, lambda: dict(own), lambda v: _refill(own, v))
            for table in tables:
                self._table(path, own[table])
            self._inside(path, ((k, v) for k, v in own.items() if k not in tables))
        for name in (n for c in type(value).__mro__ for n in _names(vars(c).get("__slots__", ()))):
            if hasattr(value, name) and name != "__dict__":
                read = lambda n=name: {n: getattr(value, n)}  # noqa: E731
                self._place(path, value, read, lambda v, n=name: setattr(value, n, v[n]))
                self._inside(path, [(name, getattr(value, name))])

    def _table(self, path: str, table: dict[str, Any]) -> None:
        """Parameters, buffers or children: the tracer puts others in; they are put back all the same."""
        self._seen[id(table)] = table
        self._place(path, None, lambda: dict(table), lambda v: _refill(table, v), compared=False)
        self._inside(path, ((k, v) for k, v in table.items() if isinstance(v, nn.Module)))

    def _class(self, kind: type) -> None:
        for cls in kind.__mro__:
            if _of_library(cls) or id(cls) in self._seen:
                continue
            self._seen[id(cls)] = cls
            values = lambda cls=cls: {  # noqa: E731
                k: v
                for k, v in vars(cls).items()
                if not (k.startswith("__") or callable(v) or hasattr(v, "__get__"))
            }
            self._place(cls.__qualname__, cls, values, lambda v, cls=cls: _reclass(cls, v))
            self._inside(cls.__qualname__, values().items())
            methods = [(k, v) for k, v in vars(cls).items() if isinstance(v, types.FunctionType)]
            self._pending += [(cls.__qualname__, v) for _, v in methods]

    def _function(self, path: str, function: types.FunctionType) -> None:
        code = function.__code__
        path = code.co_qualname if path == "" else path
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            if _filled(cell):
                read = lambda n=name, c=cell: {n: c.cell_contents}  # noqa: E731
                self._place(
                    code.co_name, function, read, lambda v, n=name, c=cell: setattr(c, "cell_contents", v[n])
                )
                self._pending.append((name, cell.cell_contents))
        self._inside(path, enumerate(function.__defaults__ or ()))
        self._inside(path, (function.__kwdefaults__ or {}).items())
        self._inside(path, function.__dict__.items())
        if code.co_filename.startswith((TORCH_ROOT, ENGINE_ROOT)) or _installed(code.co_filename):
            return
        names = {n: function.__globals__[n] for n in _global_names(code) if n in function.__globals__}
        variables = {n: v for n, v in names.items() if not isinstance(v, types.ModuleType)}
        if variables:
            known = function.__globals__
            read = lambda: {n: known.get(n, _MISSING) for n in variables}  # noqa: E731
            self._place(function.__module__, function, read, lambda v: known.update(v))
        self._pending += list(variables.items())


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def line_of(module: nn.Module, name: str) -> str:
    """`file:line` where the class of `module` changes its attribute `name`, or empty."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch."):
            continue
        try:
            lines, first = inspect.getsourcelines(cls)
            file = inspect.getsourcefile(cls)
        except (OSError, TypeError):
            continue
        it = rf"\.{re.escape(name)}"
        written = re.compile(
            rf"{it}\b(\[[^]]*\])?\s*([-+*/|&]|//|\*\*)?=(?!=)|"
            rf"{it}\.(append|extend|add|update|pop|insert|clear)\b"
        )
        init = False
        for i, line in enumerate(lines):
            if re.match(r"\s*def ", line):
                init = "__init__" in line
            if not init and written.search(line):
                return f"{file}:{first + i}"
    return ""


# ---------------------------------------------------------------- odds and ends


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, _RandomState) and isinstance(b, _RandomState):
        return a.key == b.key
    simple = (str, bytes, int, float, complex, bool, tuple, type(None), type, torch.dtype, np.generic)
    if isinstance(a, simple) and type(a) is type(b):
        try:
            return bool(a == b) or a != a
        except Exception:  # an object's own `==` inside a tuple may do anything
            return False
    return False


def _installed(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file or file.startswith("<")


def _of_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in LIBRARIES or cls.__module__.split(".")[0] in _STANDARD


_STANDARD = sys.stdlib_module_names - {"__main__"}


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _global_names(inner)


def _plain_kind(mapping: dict[Any, Any]) -> type[dict[Any, Any]]:
    """Whose methods see and change what a mapping holds, whatever its own class makes of that.

    An OrderedDict, as modules keep their hooks in, has an order beside the entries that `dict` knows of.
    """
    return OrderedDict if isinstance(mapping, OrderedDict) else dict


def _entries(mapping: dict[Any, Any]) -> dict[Any, Any]:
    return dict(_plain_kind(mapping).items(mapping))


def _refill(mapping: dict[Any, Any], values: Mapping[Any, Any]) -> None:
    kind = _plain_kind(mapping)
    kind.clear(mapping)
    for name, value in values.items():
        kind.__setitem__(mapping, name, value)


def _relist(sequence: Any, values: Any) -> None:
    kept = list(values)
    sequence.clear()
    sequence.extend(kept)


def _reset(values: set[Any], before: Any) -> None:
    values.clear()
    values.update(before)


def _reclass(cls: type, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(cls, name, value)


def _position(iterator: Any) -> str | int:
    """How far an iterator has come; of those that can only be told, not put back."""
    return repr(iterator) if isinstance(iterator, itertools.count) else operator.length_hint(iterator, -1)


class _RandomState:
    """The state of a random generator, which may hold arrays."""

    def __init__(self, value: Any) -> None:
        self.value, self.key = value, _comparable(value)


def _comparable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Mapping):
        return tuple((k, _comparable(v)) for k, v in value.items())
    return tuple(map(_comparable, value)) if isinstance(value, tuple) else value


def _random_state(source: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    if isinstance(source, random.Random):
        return source.getstate, source.setstate
    if isinstance(source, np.random.Generator):
        bits = source.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    return source.get_state, source.set_state


GLOBAL_RANDOM = (
    ("Python's `random`", random.getstate, random.setstate),
    ("numpy's `np.random`", np.random.get_state, np.random.set_state),
    ("torch's default generator", torch.get_rng_state, torch.set_rng_state),
)
