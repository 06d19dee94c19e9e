"""`pockui device`: a kit goes to a device, its file comes back, and plans are made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import Cli  # pyright: ignore

from pockgraph.measure.device_profile import Block, DeviceProfile, Time
from pockgraph.measure.kit import Kit
from pockgraph.study import Study


@pytest.fixture
def measured(study: Path, project: Path, cli: Cli) -> Path:
    """What a device made of the study's kit: 2 ms more from plan to plan."""
    made = cli("device", "kit", study, "--task", "my_project:task", "--target", "onnx", "--json")
    assert made.code == 0, made.err
    kit = Kit.load(project / "kit")
    assert made.json["plans"] == len(kit.plans)
    assert "python -m pockgraph.measure --profile kit" in made.json["command"]
    assert all((project / "kit" / plan.artifact / "manifest.json").is_file() for plan in kit.plans)
    return write_profile(kit, project / "device.json")


def write_profile(kit: Kit, path: Path, slowness: float = 1.0) -> Path:
    from pockgraph.measure.reference import Reference, Timing

    timing = Timing(median_ms=1.0, q1_ms=1.0, q3_ms=1.0)
    blocks = []
    for n in range(len(kit.plans)):
        ms = slowness * (2 + 2 * n)
        time = Time(median_ms=ms, q1_ms=ms, q3_ms=ms, steps=5)
        reference = Reference(matmul=timing, stream=timing, samples=6)
        blocks.append(Block(plan=n, time=time, load_ms=1.0, first_step_ms=1.0, reference=reference))
    path.write_text(
        DeviceProfile(
            name="board", target=kit.target, task=kit.task, kit=kit.digest, machine={"cpu": "Cortex-A76"},
            versions={}, started=1.0, changed=2.0, rounds=1, choices=tuple(p.choice for p in kit.plans),
            blocks=tuple(blocks),
        ).to_json()
    )  # fmt: skip
    return path


def test_a_device_is_imported_listed_chosen_and_removed(study: Path, measured: Path, cli: Cli) -> None:
    assert "No device" in cli("device", "ls", study).out
    added = cli("device", "import", study, measured)
    assert added.code == 0, added.err
    assert "board" in added.out
    slow = write_profile(Kit.load(measured.parent / "kit"), measured.parent / "slow.json", slowness=5.0)
    assert cli("device", "import", study, slow, "--name", "old board").code == 0
    listed = cli("device", "ls", study, "--json").json
    assert [(d["name"], d["used"]) for d in listed] == [("board", False), ("old board", True)]
    assert "Cortex-A76" in cli("device", "ls", study).out

    def predicted_ms(*options: object) -> float:
        found = cli("search", study, "--peak-mb", 1, "--json", *options)
        assert found.code == 0, found.err
        return found.json["plan"]["predicted"]["step_ms"]

    slow_ms, fast_ms = predicted_ms(), predicted_ms("--device", "board")
    assert slow_ms == pytest.approx(5 * fast_ms, rel=0.02)
    assert predicted_ms("--device", "board", "--step-ms", slow_ms) <= slow_ms
    assert cli("device", "use", study, "board").code == 0
    assert predicted_ms() == fast_ms
    assert cli("device", "rm", study, "board").code == 0
    assert cli("device", "use", study, "none").code == 0
    with Study(study) as record:
        assert list(record.devices()) == ["old board"]
        assert record.used_device is None


def test_files_and_names_that_do_not_fit_are_refused(study: Path, measured: Path, cli: Cli) -> None:
    content = json.loads(measured.read_text())
    cases = {
        "task": {**content, "task": {**content["task"], "fingerprint": "0"}},
        "pockui.device/9": {**content, "schema": "pockui.device/9"},
        "started": {**content, "started": float("nan")},
        "'openvin', which this version cannot run. Did you mean": {
            **content,
            "target": "openvin",
        },
        "rounds": {**content, "rounds": "1"},
        "no profile of a device": [],
    }
    for said, damaged in cases.items():
        measured.write_text(json.dumps(damaged))
        refused = cli("device", "import", study, measured)
        assert refused.code == 2
        assert said in refused.err
    with Study(study) as record:
        assert record.devices() == {}
    for command in (("device", "use", study, "bord"), ("search", study, "--peak-mb", 1, "--device", "bord")):
        refused = cli(*command)
        assert refused.code == 2
        assert "no device 'bord'" in refused.err


def test_this_machine_in_another_state_is_told(
    study: Path, measured: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pockgraph.machine import machine

    content = json.loads(measured.read_text())
    for block in content["blocks"]:
        block["reference"]["matmul"] = {"median_ms": 1e-3, "q1_ms": 1e-3, "q3_ms": 1e-3}
    measured.write_text(json.dumps({**content, "name": "this machine", "machine": machine()}))
    assert cli("device", "import", study, measured).code == 0
    found = cli("search", study, "--peak-mb", 1)
    assert found.code == 0
    assert "may be out of date: it computes in" in found.err
    assert "pockui device measure" in found.err
