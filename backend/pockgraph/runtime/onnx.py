"""Runs ONNX artefacts with ONNX Runtime. Needs neither torch nor the `onnx` package.

The step takes the state as inputs and gives the next state as outputs. Both are bound to memory of our
own, of which there are two sets: a step reads one and writes the other, and the next step goes back.
One set would not do: the runtime may overwrite a weight that a later operator of the same step reads.
Evaluation, and a prediction of each batch size, is a model of its own, compiled on first use, and reads the
current set in place.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, listing, reason
from ..ir.slot_names import Role
from .artifact_files import require_unchanged
from .finite_check import nonfinite
from .graph_specs import GraphSpec, PredictionSpec, SlotSpec
from .manifest import Manifest
from .onnx_constants import with_constants
from .onnx_file import SHARED_CONSTANTS, check_model
from .quiet_onnxruntime import ort

_SUFFIX = "ExecutionProvider"
_CONSTANTS_FOLDER = "session.model_external_initializers_file_folder_path"
_FED = (Role.BATCH, Role.LR, Role.SEED)
Open = Callable[[str, GraphSpec], Any]  # (stem, its slots) -> a session


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> ONNXRunner:
    """See `runner.open_runner`; a device is an execution provider: `"CPU"`, `"CUDA"`, `"QNN"`, …

    `threads=None` leaves the number to ONNX Runtime.

    Raises:
        ArtifactError: no such device, a model that is not the manifest's, or one that cannot be loaded.
    """
    return ONNXRunner(manifest, _opener(folder, manifest, device, threads))


def open_predictor(folder: Path, manifest: Manifest, device: str, threads: int | None) -> ONNXPredictor:
    """See `runner.open_predictor`; as `open_runner`."""
    return ONNXPredictor(manifest, _opener(folder, manifest, device, threads))


def open_constant_predictor(
    folder: Path, manifest: Manifest, device: str, threads: int | None
) -> ONNXConstantPredictor:
    """See `runner.open_predictor`; as `open_runner`."""
    state: dict[str, np.ndarray] = {}
    return ONNXConstantPredictor(_opener(folder, manifest, device, threads, state), state)


def _opener(
    folder: Path,
    manifest: Manifest,
    device: str,
    threads: int | None,
    state: Mapping[str, np.ndarray] | None = None,
) -> Open:
    """What opens a graph of the artefact on a device, by its stem; its state is `state`, if that is given."""
    names = devices()
    if device.upper() not in names:
        raise ArtifactError(
            f"ONNX Runtime has no device {device!r} here; it has {listing(sorted(names))}. "
            "Name one of these, or install the ONNX Runtime package of the device."
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # All shapes are static, and yet a plan of all memory in one block takes twice the memory: the block is
    # put beside what the first step, without a plan, has taken. Steps are as fast without.
    options.enable_mem_pattern = False
    # Idle threads sleep: the app that trains needs the cores, too. A step takes 6 % longer for it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    # What a device cannot take is computed on the CPU.
    providers = list(dict.fromkeys((names[device.upper()], f"CPU{_SUFFIX}")))

    if state is not None:  # a model in memory does not know where its constants lie
        options.add_session_config_entry(_CONSTANTS_FOLDER, str(folder))

    def opened(stem: str, spec: GraphSpec) -> Any:
        path = _graph(folder, manifest, stem)
        constants = {} if state is None else {s.name: state[s.name] for s in spec.state if s.name in state}
        model = with_constants(path.read_bytes(), constants) if constants else str(path)
        session = _session(path, model, options, providers)
        _check(path, session, spec, constants)
        return session

    return opened


def devices() -> dict[str, str]:
    """Device -> the execution provider of ONNX Runtime that it is, for all on this machine."""
    found = {p.removesuffix(_SUFFIX).upper(): p for p in ort.get_available_providers()}
    found.pop("AZURE", None)  # sends the model's inputs to a server
    return found


class ONNXRunner:
    """A `Runner` on an execution provider of ONNX Runtime; an undone step is the other set of state again."""

    def __init__(self, manifest: Manifest, opener: Open) -> None:
        spec = manifest.train
        session = opener("train", spec)
        made = {s.name for s in spec.outputs}
        current = {s.name: _Tensor(s) for s in spec.state}
        # State that a step only reads has one place.
        other = {s.name: _Tensor(s) if s.next_name in made else current[s.name] for s in spec.state}
        self._states = (current, other)
        self._now = 0  # the set with the current state: the next step reads it and writes the other one
        # The slots that `nonfinite` looks at, flat, in each set.
        self._checked = [
            {n: state[n].array.reshape(-1) for n in manifest.checked_state} for state in self._states
        ]
        self._feeds = {s.name: _Tensor(s) for s in spec.inputs if s.role in _FED}
        self._loss = _Tensor(next(s for s in spec.outputs if s.role == Role.LOSS))
        self._bound_steps = tuple(
            _Bound(
                session,
                {**self._feeds, **before},
                {"loss": self._loss}
                | {s.next_name: after[s.name] for s in spec.state if s.next_name in made},
            )
            for before, after in ((current, other), (other, current))
        )
        self._forward = _Forward(opener, self._states, self._feeds)
        self._eval_spec = manifest.eval

    def step(self, batch: Mapping[str, np.ndarray], lr: float, keys: np.ndarray | None = None) -> float:
        _feed(self._feeds, batch)
        if keys is not None:
            np.copyto(self._feeds["seed"].array, keys)
        if "lr" in self._feeds:  # a step that does not read the rate has no such input
            self._feeds["lr"].array[...] = lr
        self._bound_steps[self._now].run()
        self._now = 1 - self._now
        return float(self._loss.array)

    def nonfinite(self) -> list[str]:
        return nonfinite(self._checked[self._now])

    def undo(self) -> None:
        self._now = 1 - self._now

    def evaluate(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._forward.run("eval", self._eval_spec, batch, self._now)["metric"]

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._forward.run(prediction.stem, prediction.graph, batch, self._now)

    def read_state(self) -> dict[str, np.ndarray]:
        return {name: tensor.array.copy() for name, tensor in self._states[self._now].items()}

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            np.copyto(self._states[self._now][name].array, value)


class ONNXPredictor:
    """A `PredictionRunner` on an execution provider of ONNX Runtime."""

    def __init__(self, manifest: Manifest, opener: Open) -> None:
        self._state = {s.name: _Tensor(s) for p in manifest.predict for s in p.graph.state}
        self._forward = _Forward(opener, (self._state,), {})

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._forward.run(prediction.stem, prediction.graph, batch, 0)

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            np.copyto(self._state[name].array, value)


class ONNXConstantPredictor:
    """A `PredictionRunner` whose models have the state as constants: a changed one is compiled anew.

    Args:
        opener: makes constants of `state`, to which what is written goes.
    """

    def __init__(self, opener: Open, state: dict[str, np.ndarray]) -> None:
        self._state = state
        self._forward = _Forward(opener, ({},), {})

    def predict(self, prediction: PredictionSpec, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._forward.run(prediction.stem, prediction.graph, batch, 0)

    def write_state(self, values: Mapping[str, np.ndarray]) -> None:
        self._state.update(values)
        self._forward.close()


class _Forward:
    """Models that read the state and leave it alone, each opened on first use.

    Args:
        states: sets of state by slot name.
        feeds: inputs by slot name, whose memory serves for batches of the same shape.
    """

    def __init__(
        self, opener: Open, states: Sequence[Mapping[str, _Tensor]], feeds: Mapping[str, _Tensor]
    ) -> None:
        self._open, self._states, self._feeds = opener, states, feeds
        self._opened: dict[str, _Opened] = {}

    def run(
        self, stem: str, spec: GraphSpec, batch: Mapping[str, np.ndarray], now: int
    ) -> dict[str, np.ndarray]:
        """Copies of the outputs, by slot name; `now`: which set of state it reads."""
        if stem not in self._opened:
            feeds = {s.name: _like(self._feeds.get(s.name), s) for s in spec.batch}
            self._opened[stem] = _Opened(self._open(stem, spec), spec, self._states, feeds)
        return self._opened[stem].run(batch, now)

    def close(self) -> None:
        """Have the models opened anew."""
        self._opened.clear()


class _Opened:
    """A model that reads the state, bound to each set of it."""

    def __init__(
        self,
        session: Any,
        spec: GraphSpec,
        states: Sequence[Mapping[str, _Tensor]],
        feeds: Mapping[str, _Tensor],
    ) -> None:
        self._feeds = feeds
        self._results = {s.name: _Tensor(s) for s in spec.outputs}
        self._bound = [_Bound(session, {**self._feeds, **state}, self._results) for state in states]

    def run(self, batch: Mapping[str, np.ndarray], now: int) -> dict[str, np.ndarray]:
        _feed(self._feeds, batch)
        self._bound[now].run()
        return {name: tensor.array.copy() for name, tensor in self._results.items()}


def _like(known: _Tensor | None, slot: SlotSpec) -> _Tensor:
    """Memory for an input: that of another model, where it fits."""
    fits = known is not None and (known.array.shape, str(known.array.dtype)) == (slot.shape, slot.dtype)
    return known if fits else _Tensor(slot)  # pyright: ignore[reportReturnType]


def _feed(feeds: Mapping[str, _Tensor], batch: Mapping[str, np.ndarray]) -> None:
    """Copy a batch into the inputs; an entry that no graph reads has none."""
    for name, array in batch.items():
        tensor = feeds.get(f"batch:{name}")
        if tensor is not None:
            np.copyto(tensor.array, array)


def _graph(folder: Path, manifest: Manifest, stem: str) -> Path:
    """The file of a graph, once it is known that it refers to nothing but the folder's own constants."""
    path = folder / f"{stem}.onnx"
    own = f"{path.name}.bin"  # of older versions; now all graphs share one
    constants = own if own in manifest.files else SHARED_CONSTANTS
    names = [n for n in (path.name, constants) if n in manifest.files or n == path.name]
    require_unchanged(folder, manifest, *names)
    check_model(path, {n: manifest.files[n].bytes for n in names[1:]})
    return path


class _Tensor:
    """Memory that the model and numpy share."""

    def __init__(self, slot: SlotSpec) -> None:
        self.array = np.zeros(slot.shape, slot.dtype)
        self.value = ort.OrtValue.ortvalue_from_numpy(self.array)


class _Bound:
    """A session, of a step or an evaluation, bound to the memory of its inputs and outputs."""

    def __init__(self, session: Any, inputs: Mapping[str, _Tensor], outputs: Mapping[str, _Tensor]) -> None:
        self._session, self._kept = session, (inputs, outputs)  # kept as long as they are bound
        self._binding = session.io_binding()
        for node in session.get_inputs():
            self._binding.bind_ortvalue_input(node.name, inputs[node.name].value)
        for name, tensor in outputs.items():
            self._binding.bind_ortvalue_output(name, tensor.value)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _session(path: Path, model: str | bytes, options: Any, providers: list[str]) -> Any:
    """A session of `model`: a file, or what was made of the file `path`."""
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as e:  # ONNX Runtime's exceptions have no base class of their own
        raise ArtifactError(
            f"ONNX Runtime {ort.__version__} cannot load {path} for {providers[0]}: {reason(e)}. "
            "Compile the artefact again with this version of ONNX Runtime, or choose another device."
        ) from e


def _check(path: Path, session: Any, spec: GraphSpec, constants: Container[str]) -> None:
    """Refuse a model that is not the manifest's, in which `constants` are no inputs."""
    inputs = (s for s in spec.inputs if (s.is_state or s.role in _FED) and s.name not in constants)
    expected = {s.name: (s.shape, s.dtype) for s in inputs}
    found = {n.name: (tuple(n.shape), _dtype(n.type)) for n in session.get_inputs()}
    differ = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
    differ += sorted({n.name for n in session.get_outputs()} ^ {s.name for s in spec.outputs})
    if differ:
        raise ArtifactError(f"{path} and the manifest disagree on {listing(differ)}. Compile it again.")


_DTYPES = {"float": "float32", "double": "float64"}


def _dtype(onnx_type: str) -> str:
    """`tensor(float)` as numpy calls it."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)
