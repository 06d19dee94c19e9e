"""Runs OpenVINO artefacts: the weights live in the inference request as its variables.

One request serves every step. Its input tensors are written in place, so a step allocates nothing;
the state is written and read only when asked for. Evaluation, and a prediction of each batch size, has a
model and a request of its own, compiled on first use, whose weights are copied from the training request when
these have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, listing, reason, suggest
from ..ir.slot_names import Role
from .checkpoint import initial_state
from .finite_check import nonfinite
from .manifest import GraphSpec, Manifest, PredictionSpec, SlotSpec, require_unchanged
from .mapped_files import pages_dropped
from .openvino_constants import with_constants
from .openvino_xml import SHARED_CONSTANTS, check_model
from .precision import requested_precision, require_exact_state
from .quiet_openvino import core as process_core
from .quiet_openvino import ov

# What several devices are joined by. A step has its state on one, so those that spread requests are out.
_VIRTUAL = ("AUTO", "HETERO")
_SPREADING = ("MULTI", "BATCH")


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> OpenVINORunner:
    """See `runner.open_runner`; `threads=None` leaves the number to OpenVINO.

    The precision is forced: OpenVINO's own choice is bfloat16 or float16 where the processor has it.
    """
    runner = OpenVINORunner(manifest, device, _opener(folder, manifest, device, threads))
    precision = requested_precision(manifest)
    if device != "CPU" or precision != "f32":
        where = f"Device {device!r} in {precision}"
        require_exact_state(runner, manifest, initial_state(folder, manifest), where)
    return runner


def open_predictor(folder: Path, manifest: Manifest, device: str, threads: int | None) -> OpenVINOPredictor:
    """See `runner.open_predictor`; as `open_runner`."""
    return OpenVINOPredictor(_opener(folder, manifest, device, threads))


def open_constant_predictor(
    folder: Path, manifest: Manifest, device: str, threads: int | None
) -> OpenVINOPredictor:
    """See `runner.open_predictor`; as `open_runner`."""
    state: dict[str, np.ndarray] = {}
    return OpenVINOPredictor(_opener(folder, manifest, device, threads, state), state, compiled_in=True)


def _opener(
    folder: Path,
    manifest: Manifest,
    device: str,
    threads: int | None,
    state: Mapping[str, np.ndarray] | None = None,
) -> Callable[[str, GraphSpec], _Request]:
    """What opens a graph of the artefact on a device, by its stem; its state is `state`, if that is given."""
    core = process_core()
    precision = requested_precision(manifest)
    _require_device(core.available_devices, device)
    if threads is not None and device != "CPU":
        raise ArtifactError(f"threads={threads} is for the device 'CPU', not {device!r}. Leave it out.")
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    kind, _, members = device.partition(":")
    if kind == "AUTO" and ("," in members or members.startswith("-") or not members):
        # Else AUTO may begin on one device and go on with another, whose state is empty. With one to
        # choose from it could not, and refuses to be told.
        config |= {"ENABLE_STARTUP_FALLBACK": False, "ENABLE_RUNTIME_FALLBACK": False}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    return lambda stem, spec: _Request(core, *_graph(folder, manifest, stem), spec, device, config, state)


def _require_device(available: Sequence[str], device: str) -> None:
    """Refuse a device string that names what is not here.

    Raises:
        ArtifactError: with the devices that there are.
    """
    kind, _, members = device.partition(":")
    if kind in _SPREADING:
        raise ArtifactError(
            f"{device!r} spreads requests over devices, but a training step holds its weights on one. "
            f"Name one of {listing(available)}, or 'AUTO'."
        )
    names = [m.strip().removeprefix("-") for m in members.split(",")] if members else []
    if kind not in _VIRTUAL:
        names = [device]
    families = {d.split(".")[0] for d in available}
    for name in names:
        # The driver tells which numbers exist; 'GPU' is the first of several.
        if name.split(".")[0].split("(")[0] not in families:
            raise ArtifactError(
                f"OpenVINO has no device {name!r} here; it has {listing(available)}."
                f"{suggest(name.upper(), families)} Name one of these, or install the device's driver."
            )


class OpenVINORunner:
    """A `Runner` on an OpenVINO device."""

    def __init__(self, manifest: Manifest, device: str, opener: Callable[[str, GraphSpec], _Request]) -> None:
        self._train = opener("train", manifest.train)
        changing = {s.name: self._train.states[s.name] for s in manifest.changing_state}
        self._memories = _Memories(changing, alternate=device == "CPU")
        self._checked = manifest.checked_state
        self._forward = _Forward(opener, self._train.read)
        self._eval_spec = manifest.eval

    def step(self, batch: Mapping[str, np.ndarray], lr: float, keys: np.ndarray | None = None) -> float:
        self._forward.state_changed()
        for name, array in batch.items():
            self._train.feed(f"batch:{name}", array)
        self._train.feed("lr", lr)
        if keys is not None:
            self._train.feed("seed", keys)
        self._memories.before()
        self._train.infer()
        loss = float(self._train.output("loss"))
        self._memories.after()
        return loss

    def nonfinite(self) -> list[str]:
        return nonfinite({n: self._memories.new[n] for n in self._checked})

    def undo(self) -> None:
        self._memories.undo()
        self._forward.state_changed()

    def evaluate(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._forward.run("eval", self._eval_spec, batch).output("metric").copy()

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._forward.run(prediction.stem, prediction.graph, batch).outputs()

    def read_state(self) -> dict[str, np.ndarray]:
        return {name: self._train.read(name) for name in self._train.states}

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        self._forward.state_changed()
        self._train.write(values)
        self._memories.forget()


class OpenVINOPredictor:
    """A `PredictionRunner` on an OpenVINO device.

    Args:
        state: by slot name; what is written goes here.
        compiled_in: the opener makes constants of it, so that a changed one is compiled anew.
    """

    def __init__(
        self,
        opener: Callable[[str, GraphSpec], _Request],
        state: dict[str, np.ndarray] | None = None,
        compiled_in: bool = False,
    ) -> None:
        self._state = {} if state is None else state
        self._compiled_in = compiled_in
        self._forward = _Forward(opener, self._state.__getitem__)

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._forward.run(prediction.stem, prediction.graph, batch).outputs()

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        self._state.update(values)
        self._forward.state_changed(close=self._compiled_in)


class _Forward:
    """Graphs that read the state and leave it alone, each opened on first use.

    Args:
        read: name of a state slot -> its value.
    """

    def __init__(
        self, opener: Callable[[str, GraphSpec], _Request], read: Callable[[str], np.ndarray]
    ) -> None:
        self._open, self._read = opener, read
        self._requests: dict[str, _Request] = {}
        self._current: set[str] = set()  # those that hold the state as it is

    def state_changed(self, close: bool = False) -> None:
        """Args: close: open the graphs anew."""
        self._current.clear()
        if close:
            self._requests.clear()

    def run(self, stem: str, spec: GraphSpec, batch: Mapping[str, np.ndarray]) -> _Request:
        if stem not in self._requests:
            self._requests[stem] = self._open(stem, spec)
        request = self._requests[stem]
        if stem not in self._current:
            request.write({n: self._read(n) for n in request.states})
            self._current.add(stem)
        for name, array in batch.items():
            request.feed(f"batch:{name}", array)
        request.infer()
        return request


class _Memories:
    """The state before and after the last step, in the runtime's own memory.

    The CPU plugin keeps each variable in two memories: a step reads one and writes the other, and they
    change roles at its end. `VariableState.state` is a view of the one in force, so the state before a step
    outlives it at no cost. Where a device does otherwise, a copy is made before each step.

    Attributes:
        new: slot name -> flat array: what the last step left.
    """

    def __init__(self, states: Mapping[str, Any], alternate: bool) -> None:
        self._states, self._alternate = states, alternate
        self.forget()

    def forget(self) -> None:
        """The state was set from outside: find the memories anew."""
        self._pair: dict[int, dict[str, np.ndarray]] = {}  # address of the first variable -> views of all
        self._trusted = 0  # steps for which the memories did what is expected of them
        self._old: dict[str, np.ndarray] | None = None
        self.new: dict[str, np.ndarray] = {}

    def before(self) -> None:
        self._old = self._current()

    def after(self) -> None:
        self.new = self._current()
        if self._alternate and self._trusted < 2:
            fresh = self._views()
            assert self._old is not None
            moved = all(_address(fresh[n]) != _address(a) for n, a in self._old.items())
            known = all(_address(fresh[n]) == _address(a) for n, a in self.new.items())
            self._trusted += 1
            if not (moved and known and len(self._pair) == 2):
                self._alternate, self._old, self._pair, self.new = False, None, {}, fresh

    def undo(self) -> None:
        if self._old is None:
            raise ArtifactError(
                "This device writes over the state before a step, and the first step failed. Go back with "
                "load_checkpoint() or reset(); from here on a copy is kept."
            )
        for name, state in self._states.items():
            held = self._old[name].reshape(state.state.data.shape)
            state.state = ov.Tensor(held, shared_memory=True)  # copies
        self.forget()

    def _current(self) -> dict[str, np.ndarray]:
        if not self._alternate:
            return {n: a.copy() for n, a in self._views().items()}
        if not self._states:
            return {}
        key = _address(next(iter(self._states.values())).state.data)
        if key not in self._pair:
            self._pair[key] = self._views()
        return self._pair[key]

    def _views(self) -> dict[str, np.ndarray]:
        return {n: s.state.data.reshape(-1) for n, s in self._states.items()}


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _graph(folder: Path, manifest: Manifest, stem: str) -> tuple[Path, Path]:
    """The files of a graph and of its constants, once it is known that OpenVINO's own reader can be trusted
    with them."""
    xml = folder / f"{stem}.xml"
    own = xml.with_suffix(".bin")  # of older versions; now all graphs share one
    constants = own if own.name in manifest.files else folder / SHARED_CONSTANTS
    require_unchanged(folder, manifest, xml.name, constants.name)
    check_model(xml, constants)
    return xml, constants


def _compiled(core: Any, read: Callable[[], Any], device: str, config: Mapping[str, Any]) -> Any:
    """The compiled model; without the CPU plugin's generated kernels where it fails at generating them.

    Args:
        read: gives the model.

    Raises:
        RuntimeError: OpenVINO's own.
    """
    try:
        return core.compile_model(read(), device, dict(config))
    except RuntimeError as e:
        # Several heads of attention that read what their residual is added to, `x + attention(x)` without a
        # norm between, where x learns: four gradients meet, and OpenVINO 2026.4 says "Topological order is
        # required, but not set". It says so while it compiles and never computes anything else for it. A step
        # without generated kernels takes 0.97 to 1.01 times as long (three such blocks of width 64).
        if device != "CPU" or "/snippets/" not in str(e):
            raise
        return core.compile_model(read(), device, {**config, "SNIPPETS_MODE": "DISABLE"})


class _Request:
    """One compiled model and its only inference request; inputs, outputs and state go by slot name."""

    def __init__(
        self,
        core: Any,
        xml: Path,
        constants: Path,
        spec: GraphSpec,
        device: str,
        config: Mapping[str, Any],
        state: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        def read() -> Any:
            model = core.read_model(xml, constants)
            if state is None:
                return model
            return with_constants(model, {s.name: state[s.name].astype(_held_dtype(s)) for s in spec.state})

        try:
            with pages_dropped(constants):
                self._compiled = _compiled(core, read, device, config)
        except RuntimeError as e:
            raise ArtifactError(
                f"OpenVINO {ov.__version__} cannot compile {xml} for {device!r}: {reason(e)}. Compile "
                "the artefact again with this version of OpenVINO, or choose another device."
            ) from e
        _require_precision(core, self._compiled, device, config["INFERENCE_PRECISION_HINT"])
        self._request = self._compiled.create_infer_request()
        # The tensors stay the request's own: their arrays are views, valid as long as the request.
        self._tensors = {
            port.get_any_name(): self._request.get_tensor(port)
            for port in (*self._compiled.inputs, *self._compiled.outputs)
        }
        self._arrays = {name: tensor.data for name, tensor in self._tensors.items()}
        self.states = {s.name: s for s in self._request.query_state()}
        if state is not None:
            spec = spec.model_copy(update={"inputs": tuple(s for s in spec.inputs if not s.is_state)})
        self._check(xml, spec, device)

    def _check(self, xml: Path, spec: GraphSpec, device: str) -> None:
        """Refuse a model that is not the manifest's, or a device that holds state in less than its dtype."""
        expected = {s.name: s for s in spec.state}
        self._expected, self._results = expected, spec.outputs
        if set(self.states) != set(expected):
            differ = sorted(set(self.states) ^ set(expected))
            raise ArtifactError(f"{xml} and the manifest disagree on the state: {listing(differ)}.")
        wanted = [
            s.name
            for s in (*spec.inputs, *spec.outputs)
            if s.role in (Role.BATCH, Role.LR, Role.SEED, Role.LOSS, Role.METRIC, Role.PREDICTION)
        ]
        missing = [n for n in wanted if n not in self._tensors]
        if missing:
            raise ArtifactError(f"{xml} lacks {listing(missing)}, which the manifest names.")
        slots = {s.name: s for s in (*spec.inputs, *spec.outputs)}
        differ = [
            f"{n} {list(a.shape)} {a.dtype}"
            for n, a in self._arrays.items()
            if n in slots and a.size != math.prod(slots[n].shape)
        ]
        if differ:
            raise ArtifactError(f"{xml} and the manifest disagree on {listing(differ)}. Compile it again.")
        for name, state in self.states.items():
            if state.state.size != math.prod(expected[name].shape):
                raise ArtifactError(f"{xml} and the manifest disagree on {name}. Compile it again.")
            dtype = state.state.element_type.to_dtype()
            if dtype != _held_dtype(expected[name]):
                raise ArtifactError(
                    f"Device {device!r} holds {name} as {dtype} instead of {expected[name].dtype}: small "
                    "updates would be lost. Train on the device 'CPU'."
                )

    def feed(self, name: str, value: np.ndarray | float) -> None:
        array = self._arrays.get(name)
        if array is not None:
            np.copyto(array, value)

    def infer(self) -> None:
        self._request.start_async()
        self._request.wait()

    def output(self, name: str) -> np.ndarray:
        """A view of what was inferred last."""
        return self._arrays[name]

    def outputs(self) -> dict[str, np.ndarray]:
        """Copies of all that was inferred last."""
        return {s.name: self._arrays[s.name].reshape(s.shape).astype(_held_result(s)) for s in self._results}

    def read(self, name: str) -> np.ndarray:
        # OpenVINO gives a scalar back as an array of one element.
        spec = self._expected[name]
        return self.states[name].state.data.reshape(spec.shape).astype(spec.dtype)

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            held = np.asarray(value, order="C", dtype=_held_dtype(self._expected[name]))
            if held.dtype != value.dtype and not np.array_equal(held, value):
                raise ArtifactError(f"OpenVINO holds {name} as {held.dtype}, which is too small for {value}.")
            self.states[name].state = ov.Tensor(held, shared_memory=True)


def _held_result(spec: SlotSpec) -> np.dtype[Any]:
    """numpy has no bfloat16; float32 holds such numbers exactly."""
    return np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)


def _held_dtype(spec: SlotSpec) -> np.dtype[Any]:
    """Variables cannot be int64: the lowering holds such a state (a counter) as int32."""
    return np.dtype("int32" if spec.dtype == "int64" else spec.dtype)


def _require_precision(core: Any, compiled: Any, device: str, asked: str) -> None:
    """Refuse a device that computes in another precision than asked for: OpenVINO does not say so.

    Raises:
        ArtifactError: with the precisions that the device has.
    """
    names = compiled.get_property("EXECUTION_DEVICES")
    try:
        got = {names[0]: compiled.get_property("INFERENCE_PRECISION_HINT")}
    except RuntimeError:  # AUTO and HETERO answer for each of their devices
        properties = compiled.get_property("DEVICE_PROPERTIES")
        got = {n: p.get("INFERENCE_PRECISION_HINT") for n, p in properties.items()}
    for name, precision in got.items():
        computed = "an unknown precision" if precision is None else precision.to_string()
        if computed != asked:
            has = ", ".join(core.get_property(name.split(".")[0], "OPTIMIZATION_CAPABILITIES"))
            raise ArtifactError(
                f"Device {device!r} would compute in {computed} instead of {asked}: {name} here has {has}. "
                'Compile the artefact again with options={"precision": "f32"}, or run it on a device that '
                f"has {asked}."
            )
