"""Which OpenVINO devices take a training step, with what options, and whether they compute as asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ArtifactError, listing, suggest

# What several devices are joined by. A step has its state on one, so those that spread requests are out.
_VIRTUAL = ("AUTO", "HETERO")
_SPREADING = ("MULTI", "BATCH")


def device_config(
    available: Sequence[str], device: str, threads: int | None, precision: str
) -> dict[str, Any]:
    """OpenVINO's configuration for a graph on a device.

    Args:
        available: the devices that there are.
        precision: "f32", "f16" or "bf16". It is forced: OpenVINO's own choice is bfloat16 or float16 where
            the processor has it.

    Raises:
        ArtifactError: there is no such device, it cannot hold a step's weights, or it takes no `threads`.
    """
    _require_device(available, device)
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
    return config


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


def require_precision(core: Any, compiled: Any, device: str, asked: str) -> None:
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
