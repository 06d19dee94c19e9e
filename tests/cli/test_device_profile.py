"""A kit is measured on a device that has no torch, and comes back as a file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pockgraph as pg
from pockgraph.measure.device_profile import DeviceProfile, DeviceProfileError
from pockgraph.measure.figures import MeasureError
from pockgraph.measure.kit import Kit, Measuring, measure_kit
from pockgraph.profile.profiler import profile_of
from pockgraph.study.device_kit import make_kit

# What a device lacks: importing any of it ends the process.
LACKING = ("torch", "scipy", "rich", "typer", "panel", "sklearn", "transformers")
CHOICES = ({"2.bias": 1.0}, {"2.weight": 1.0, "2.bias": 1.0}, {"0.weight": 0.5, "2.weight": 1.0})


@pytest.fixture(scope="module")
def graph() -> pg.TrainGraph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    batch = {"x": torch.randn(4, 6), "y": torch.tensor([0, 1, 2, 0])}
    task = pg.Task(
        "mlp", net, lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"]),
        lambda m, b: (m(b["x"]).argmax(1) == b["y"]).float(), [batch], [batch],
    )  # fmt: skip
    return pg.build(task, pg.SGD(lr=0.1))


@pytest.fixture(scope="module")
def kit(graph: pg.TrainGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host") / "kit"
    make_kit(graph, profile_of(graph), folder, choices=CHOICES)
    return folder


@pytest.fixture
def device(tmp_path: Path) -> dict[str, str]:
    """The environment of a device's Python: without what only a host has."""
    missing = tmp_path / "missing"
    missing.mkdir()
    for name in LACKING:
        (missing / f"{name}.py").write_text(f"raise SystemExit('a device has no {name}')")
    path = os.pathsep.join([str(missing), *(p for p in sys.path if p)])
    return {**os.environ, "PYTHONPATH": path}


def command(kit: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "pockgraph.measure", "--profile", str(kit), "-o", str(out), *options]


def measure(device: dict[str, str], *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=device, capture_output=True, text=True)


def loaded(path: Path) -> DeviceProfile:
    return DeviceProfile.load(path)


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_a_kit_is_measured_where_torch_is_absent(
    graph: pg.TrainGraph, device: dict[str, str], tmp_path: Path, target: str
) -> None:
    kit, out = tmp_path / "kit", tmp_path / "device.json"
    make_kit(graph, profile_of(graph), kit, target=target, choices=CHOICES)
    done = measure(device, kit, out, "--name", "a board", "--rounds", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    profile = loaded(out)
    assert (profile.name, profile.target, profile.threads) == ("a board", target, 1)
    assert profile.task.fingerprint == graph.fingerprint
    assert profile.is_complete
    plans = profile.plans()
    assert [p.choice for p in plans] == list(CHOICES)
    assert all(p.step_ms > 0 and p.target == target for p in plans)
    assert all((p.memory is not None) == (sys.platform == "linux") for p in plans)
    assert profile.reference.samples == 6 * len(CHOICES)
    assert json.loads(done.stdout)["plans"] == len(CHOICES)
    assert DeviceProfile.from_json(profile.to_json(), "a copy") == profile


def test_a_device_that_is_killed_midway_goes_on_where_it_was(
    kit: Path, device: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "device.json"
    with subprocess.Popen(
        command(kit, out, "--rounds", "1"), env=device, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        while not (out.exists() and loaded(out).blocks):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    kept = loaded(out)
    assert not kept.is_complete
    done = measure(device, kit, out, "--rounds", "1")
    assert done.returncode == 0, done.stderr
    profile = loaded(out)
    assert profile.is_complete
    assert profile.blocks[: len(kept.blocks)] == kept.blocks
    assert len(profile.blocks) == len(CHOICES)
    before = out.read_bytes()
    other = measure(device, kit, out, "--rounds", "1", "--threads", "1")
    assert other.returncode == 2
    assert "another number of threads" in other.stderr
    assert out.read_bytes() == before


def test_a_plan_that_fails_on_the_device_is_told_and_the_others_count(
    kit: Path, device: dict[str, str], tmp_path: Path
) -> None:
    broken, out = tmp_path / "kit", tmp_path / "device.json"
    shutil.copytree(kit, broken)
    shutil.rmtree(broken / "plan-01")
    done = measure(device, broken, out, "--rounds", "1")
    assert done.returncode == 0
    assert "Plan 2 could not be measured" in done.stderr
    profile = loaded(out)
    assert list(profile.failures) == [1]
    assert [p.choice for p in profile.plans()] == [CHOICES[0], CHOICES[2]]
    shutil.copytree(kit / "plan-01", broken / "plan-01")
    assert measure(device, broken, out, "--rounds", "1").returncode == 0
    assert not loaded(out).failures
    assert len(loaded(out).plans()) == len(CHOICES)


def test_what_another_process_measured_meanwhile_is_kept(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, others = tmp_path / "device.json", Measuring("theirs", rounds=1)

    def fail(*_: Any) -> MeasureError:
        return MeasureError("it has no power")

    def fail_while_another_measures(*_: Any) -> MeasureError:
        monkeypatch.setattr("pockgraph.measure.kit.measure_alone", fail)
        measure_kit(kit, out, others)
        return fail()

    monkeypatch.setattr("pockgraph.measure.kit.measure_alone", fail_while_another_measures)
    with pytest.raises(DeviceProfileError, match=r"Another process writes .*device\.json"):
        measure_kit(kit, out, Measuring("mine", rounds=1))
    assert loaded(out).name == "theirs"
    assert measure_kit(kit, out, others).failures


def test_what_is_no_kit_is_refused(tmp_path: Path, device: dict[str, str], kit: Path) -> None:
    done = measure(device, tmp_path, tmp_path / "device.json")
    assert done.returncode == 2
    assert "is no kit" in done.stderr
    assert not (tmp_path / "device.json").exists()
    (tmp_path / "kit.json").write_text(
        json.dumps({**json.loads((kit / "kit.json").read_text()), "plans": []})
    )
    with pytest.raises(DeviceProfileError, match="plans"):
        Kit.load(tmp_path)
    (tmp_path / "kit.json").write_text('{"schema": "pockui.kit/9"}')
    with pytest.raises(DeviceProfileError, match="kit/9"):
        Kit.load(tmp_path)


def test_a_kit_replaces_a_kit_and_nothing_else(graph: pg.TrainGraph, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DeviceProfileError, match="no kit"):
        make_kit(graph, profile_of(graph), tmp_path, choices=CHOICES)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "pockui.device/2"}, "pockui.device/2"),
        ({"schema": None}, "schema is None"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name: it is a line of printable text"),
        ({"started": float("nan")}, "started"),
        ({"choices": [{"2.bias": 1.5}]}, "choices"),
        ({"choices": []}, "not among the choices"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(profile_json: str, change: Any, said: str) -> None:
    with pytest.raises(DeviceProfileError, match=said):
        DeviceProfile.from_json(json.dumps({**json.loads(profile_json), **change}), "device.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("load_ms", float("nan")), ("plan", 7), ("plan", -1), ("memory", {"peak_bytes": 1}), ("time", {}),
     ("reference", {"samples": 0})],
)  # fmt: skip
def test_a_damaged_block_is_refused(profile_json: str, field: str, value: Any) -> None:
    data = json.loads(profile_json)
    data["blocks"][0][field] = value
    with pytest.raises(DeviceProfileError, match=r"device\.json is damaged"):
        DeviceProfile.from_json(json.dumps(data), "device.json")


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '{"schema": "pockui.device/1"}'])
def test_what_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(DeviceProfileError, match=r"device\.json"):
        DeviceProfile.from_json(text, "device.json")


def test_another_machine_is_told_from_another_state(profile_json: str) -> None:
    data = json.loads(profile_json)
    here = DeviceProfile.from_json(json.dumps(data), "here")
    slow = {k: v / 3 for k, v in data["blocks"][0]["reference"]["matmul"].items()}
    data["blocks"][0]["reference"]["matmul"] = slow
    assert "it computes" in DeviceProfile.from_json(json.dumps(data), "x").change_since()
    data["machine"]["cpu"] = "another"
    assert DeviceProfile.from_json(json.dumps(data), "x").change_since() == "another machine (processor)"
    assert here.change_while_measured() == ""


@pytest.fixture(scope="module")
def profile_json() -> str:
    """A profile of this machine with one block."""
    from pockgraph.machine import machine
    from pockgraph.measure import StepFigures, StepTime
    from pockgraph.measure.device_profile import Block, TaskIdentity
    from pockgraph.measure.reference import reference_now

    time_ = StepTime.of([1.0, 1.1, 1.2])
    block = Block.of(0, StepFigures(time_, None, 3.0, 4.0, time_, reference_now()))
    return DeviceProfile(
        name="here", target="openvino", task=TaskIdentity(name="t", fingerprint="f", optimizer={}), kit="k",
        machine=machine(), versions={}, started=1.0, changed=2.0, rounds=1, choices=({"2.bias": 1.0},),
        blocks=(block,),
    ).to_json()  # fmt: skip
