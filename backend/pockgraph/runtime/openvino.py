"""Runs OpenVINO artefacts: the weights live in the inference request as its variables.

One request serves every step. Its input tensors are written in place, so a step allocates nothing;
the state is written and read only when asked for. Evaluation, and a prediction of each batch size, has a
model and a request of its own, compiled on first use, whose weights are copied from the training request when
these have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .checkpoint import initial_state
from .finite_check import nonfinite
from .frozen_weights import stored_frozen_weights
from .graph_specs import GraphSpec, PredictionSpec
from .manifest import Manifest
from .openvino_devices import device_config
from .openvino_request import Request, graph_files
from .openvino_state import StateMemories
from .precision import requested_precision, require_exact_state
from .quiet_openvino import core as process_core


def open_runner(folder: Path, manifest: Manifest, device: str, threads: int | None) -> OpenVINORunner:
    """See `runner.open_runner`; `threads=None` leaves the number to OpenVINO."""
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
) -> Callable[[str, GraphSpec], Request]:
    """What opens a graph of the artefact on a device, by its stem; its state is `state`, if that is given."""
    core = process_core()
    config = device_config(core.available_devices, device, threads, requested_precision(manifest))
    if stored_frozen_weights(manifest) == "int8":
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"  # else activations are rounded to int8, too
    return lambda stem, spec: Request(core, *graph_files(folder, manifest, stem), spec, device, config, state)


class OpenVINORunner:
    """A `Runner` on an OpenVINO device."""

    def __init__(self, manifest: Manifest, device: str, opener: Callable[[str, GraphSpec], Request]) -> None:
        self._train = opener("train", manifest.train)
        changing = {s.name: self._train.states[s.name] for s in manifest.changing_state}
        self._memories = StateMemories(changing, alternate=device == "CPU")
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
        opener: Callable[[str, GraphSpec], Request],
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
        self, opener: Callable[[str, GraphSpec], Request], read: Callable[[str], np.ndarray]
    ) -> None:
        self._open, self._read = opener, read
        self._requests: dict[str, Request] = {}
        self._current: set[str] = set()  # those that hold the state as it is

    def state_changed(self, close: bool = False) -> None:
        """Args: close: open the graphs anew."""
        self._current.clear()
        if close:
            self._requests.clear()

    def run(self, stem: str, spec: GraphSpec, batch: Mapping[str, np.ndarray]) -> Request:
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
