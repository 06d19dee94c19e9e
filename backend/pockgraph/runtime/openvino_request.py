"""One graph of an artefact, compiled by OpenVINO, with its tensors and state by slot name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, listing, reason
from ..ir.slot_names import Role
from .artifact_files import require_unchanged
from .graph_specs import GraphSpec, SlotSpec
from .manifest import Manifest
from .mapped_files import pages_dropped
from .openvino_constants import with_constants
from .openvino_devices import require_precision
from .openvino_xml import SHARED_CONSTANTS, check_model
from .quiet_openvino import ov


def graph_files(folder: Path, manifest: Manifest, stem: str) -> tuple[Path, Path]:
    """The files of a graph and of its constants, once it is known that OpenVINO's own reader can be trusted
    with them."""
    xml = folder / f"{stem}.xml"
    own = xml.with_suffix(".bin")  # of older versions; now all graphs share one
    constants = own if own.name in manifest.files else folder / SHARED_CONSTANTS
    require_unchanged(folder, manifest, xml.name, constants.name)
    check_model(xml, constants)
    return xml, constants


class Request:
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
        require_precision(core, self._compiled, device, config["INFERENCE_PRECISION_HINT"])
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
