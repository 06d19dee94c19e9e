"""`pockui device`: the devices that a study plans for, by what a few plans' steps took on each."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..info.format import UNKNOWN, milliseconds, percent, size
from .output import INTERRUPTED, JsonFlag, out, print_json, print_table, progress_bar, say, styled
from .tasks_and_plans import open_study, study_with_task, tell_if_stale

if TYPE_CHECKING:
    from pockgraph.contribution import Progress
    from pockgraph.measure.device_profile import DeviceProfile

app = typer.Typer(no_args_is_help=True, help="Measure plans on a device, and plan for it.")
StudyArgument = Annotated[Path, typer.Argument(help="A study.")]
DeviceName = Annotated[str, typer.Argument(metavar="NAME", help="As pockui device ls names it.")]
TaskOption = Annotated[
    str | None,
    typer.Option(metavar="MODULE:TASK", help="The study's task; the demo's are found by themselves."),
]
TargetOption = Annotated[str, typer.Option(help="What the device runs: openvino, onnx or torch.")]


@app.command("kit")
def kit(
    study: StudyArgument,
    out_folder: Annotated[Path, typer.Option("--out", help="The kit's folder.")] = Path("kit"),
    target: TargetOption = "openvino",
    task: TaskOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a few plans to be measured on a device.

    Copy the folder there, measure it, and bring the file back with pockui device import.
    """
    from pockgraph.study.device_kit import make_kit

    record = study_with_task(study, task)
    with progress_bar("Compiling") as show:
        made = make_kit(
            record.graph, record.profile, out_folder, target=target,
            progress=_shown(show),
        )  # fmt: skip
    held = sum(p.stat().st_size for p in out_folder.rglob("*") if p.is_file())
    command = f"python -m pockgraph.measure --profile {out_folder.name} -o device.json"
    if as_json:
        print_json({"kit": str(out_folder), "plans": len(made.plans), "bytes": held, "command": command})
        return
    said = f": {len(made.plans)} plans for {target}, {size(held)}. On the device: "
    out().print(styled((str(out_folder), "bold"), said, (command, "bold")))


def _shown(show: Callable[[Progress], None]) -> Callable[[int, int, str], None]:
    """For what tells how many plans of how many are done, and what it is doing."""
    from pockgraph.contribution import Progress

    return lambda done, total, label: show(Progress(done, total, label, None))


@app.command("measure")
def measure(
    study: StudyArgument,
    target: TargetOption = "openvino",
    task: TaskOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a few plans on this machine, and plan for it from now on."""
    from pockgraph.study.device_kit import measure_here

    record = study_with_task(study, task)
    try:
        with progress_bar("Measuring") as show:
            found = measure_here(
                record.graph, record.profile, target=target,
                progress=_shown(show),
            )  # fmt: skip
    except KeyboardInterrupt:
        say("Stopped; the study is as it was.")
        raise typer.Exit(INTERRUPTED) from None
    name = record.add_device(found)
    _tell_added(record.device(name), record.profile.time, as_json)


@app.command("import")
def import_(
    study: StudyArgument,
    file: Annotated[Path, typer.Argument(help="What python -m pockgraph.measure --profile wrote.")],
    name: Annotated[str, typer.Option(help="What it shall be called; its own name if left out.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Bring what was measured on a device into a study, and plan for it from now on."""
    from pockgraph.measure.device_profile import DeviceProfile

    device = DeviceProfile.load(file)
    record = open_study(study)
    kept = record.add_device(device, name)
    _tell_added(record.device(kept), record.profile.time, as_json)


@app.command("ls")
def list_devices(study: StudyArgument, as_json: JsonFlag = False) -> None:
    """List the devices of a study; the one that plans are made for has a star."""
    record = open_study(study)
    used, devices = record.used_device, record.devices()
    if as_json:
        print_json([_json(d, d.name == used) for d in devices.values()])
        return
    if not devices:
        out().print(
            "No device. Make a kit for one: pockui device kit, or measure this machine: pockui device measure"
        )
        return
    print_table(
        ("", "Device", "Processor", ">Cores", ">Memory", "Target", ">Plans", ">Steps", ">Spread", "Measured"),
        [_row(d, d.name == used) for d in devices.values()],
    )
    tell_if_stale(devices[used] if used else None)


@app.command("use")
def use(study: StudyArgument, name: DeviceName) -> None:
    """Plan for this device from now on; "none": for none of them."""
    record = open_study(study)
    record.use_device(None if name == "none" else name)
    say(f"Plans of {study} are made for {'no device' if name == 'none' else name}.")


@app.command("rm")
def remove(study: StudyArgument, name: DeviceName) -> None:
    """Forget a device."""
    open_study(study).remove_device(name)
    say(f"{study} has no device {name} any more.")


def _tell_added(device: DeviceProfile, model: Any, as_json: bool) -> None:
    if as_json:
        print_json({**_json(device, True), "error_ratio": model.error_ratio})
        return
    said = (
        f": {len(device.plans())} plans of {device.target}; the model of a step's time is off by "
        f"{percent(model.error_ratio)} (median). Plans are made for it from now on."
    )
    out().print(styled((device.name, "bold"), said))
    for n, why in device.failures.items():
        say(f"Plan {n + 1} could not be measured there: {why}")
    if not device.is_complete:
        say("It was not measured to its end; the command that measured it goes on where it stopped.")
    if changed := device.change_while_measured():
        say(f"The device changed while it was measured: {changed}. Measure again when it is at rest.")


def _row(device: DeviceProfile, used: bool) -> tuple[object, ...]:
    times, host = [p.step_ms for p in device.plans()], device.machine
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(device.changed))
    memory = host.get("memory_bytes")
    return (
        "*" if used else "", device.name, host.get("cpu") or UNKNOWN,
        host.get("cores") or UNKNOWN, size(memory if isinstance(memory, int) else None), device.target,
        f"{len(times)} of {len(device.choices)}", f"{milliseconds(min(times))} to {milliseconds(max(times))}",
        percent(device.spread()), when,
    )  # fmt: skip


def _json(device: DeviceProfile, used: bool) -> dict[str, Any]:
    return {
        "name": device.name, "target": device.target, "used": used, "machine": device.machine,
        "versions": device.versions, "threads": device.threads, "measured": device.changed,
        "plans": [
            {"ratios": p.choice, "step_ms": p.step_ms, "peak_bytes": p.memory and p.memory.peak_bytes}
            for p in device.plans()
        ],
        "failures": {str(n): why for n, why in device.failures.items()},
        "spread_ratio": device.spread(), "reference": device.reference.model_dump(),
    }  # fmt: skip
