"""Devices of a study: plans are made with the costs that they have there."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from measured_devices import device_of, step_ms

from pockgraph.errors import PlanError, StudyError
from pockgraph.measure.device_profile import DeviceProfile
from pockgraph.study import Study
from pockgraph.study.exchange import export_study, import_study


def test_figures_are_those_of_the_device_that_is_used(study: Study) -> None:
    full = {t.fqn: 1.0 for t in study.profile.tensors}
    assert study.used_device is None
    assert study.profile.figures(full).step_ms is None
    study.add_device(device_of(study, "slow", slowness=10.0))
    study.add_device(device_of(study, "fast"))
    assert list(study.devices()) == ["slow", "fast"]
    assert study.used_device == "fast"
    took = {}
    for name, slowness in (("slow", 10.0), ("fast", 1.0)):
        study.use_device(name)
        assert study.profile.time is not None
        assert study.profile.time.target == "onnx"
        took[name] = study.profile.figures(full).step_ms
        assert took[name] == pytest.approx(step_ms(study.profile, full, slowness), rel=0.05)
        assert study.profile is study.profile
        assert study.profile_on("slow").figures(full).step_ms == took["slow"]
    study.use_device(None)
    assert study.profile.time is None


def test_another_process_sees_which_device_is_used(study: Study) -> None:
    study.add_device(device_of(study, "slow", slowness=10.0))
    with Study(study.path) as other:
        assert other.used_device == "slow"
        assert other.profile.time is not None
        study.use_device(None)
        assert other.profile.time is None
        study.use_device("slow")
        study.remove_device("slow")
        assert other.used_device is None
        assert other.devices() == {}


def test_a_device_that_is_measured_again_replaces_its_older_self(study: Study) -> None:
    study.add_device(device_of(study, "board", slowness=1.0))
    study.add_device(device_of(study, "other"))
    newer = device_of(study, "board", slowness=2.0)
    study.add_device(newer)
    assert list(study.devices()) == ["board", "other"]
    assert study.device("board") == newer
    assert study.used_device == "board"
    with pytest.raises(StudyError, match="'board openvino'"):
        study.add_device(device_of(study, "board", target="openvino"))
    assert study.add_device(device_of(study, "board", target="openvino"), "board 2") == "board 2"
    assert study.device("board 2").target == "openvino"


def test_what_does_not_belong_to_the_study_is_refused(study: Study) -> None:
    good = device_of(study)
    task = good.task
    for change in ({"fingerprint": "other"}, {"name": "other"}, {"optimizer": {"name": "adam"}}):
        wrong = good.model_copy(update={"task": task.model_copy(update=change)})
        with pytest.raises(StudyError, match=f"another task: its {next(iter(change))} differs"):
            study.add_device(wrong)
    unknown = good.model_copy(update={"choices": ({"no.such": 1.0}, *good.choices[1:])})
    with pytest.raises(PlanError, match=r"no\.such"):
        study.add_device(unknown)
    with pytest.raises(StudyError, match="1 of"):
        study.add_device(device_of(study, measured=[0]))
    study.add_device(good)
    with pytest.raises(StudyError, match="Did you mean 'board'"):
        study.use_device("bord")
    assert study.used_device == "board"


def test_a_damaged_device_is_named_and_can_be_removed(study: Study) -> None:
    study.add_device(device_of(study, "broken"))
    study.add_device(device_of(study, "whole"))
    with sqlite3.connect(study.path) as c:
        c.execute("UPDATE devices SET json = replace(json, 'pockui.device/1', 'x') WHERE name = 'broken'")
    c.close()
    with pytest.warns(UserWarning, match="the device 'broken' cannot be read"):
        assert list(study.devices()) == ["whole"]
    with pytest.raises(StudyError, match="remove_device"):
        study.device("broken")
    study.remove_device("broken")
    assert list(study.devices()) == ["whole"]


def test_an_export_holds_the_devices(study: Study, tmp_path: Path) -> None:
    study.add_device(device_of(study, "first"))
    study.add_device(device_of(study, "second", slowness=2.0))
    study.use_device("first")
    file = export_study(study, tmp_path / "all.json")
    assert import_study(tmp_path / "copy.db", file).made
    with Study(tmp_path / "copy.db") as copy:
        assert copy.devices() == study.devices()
        assert copy.used_device == "first"
    study.remove_device("second")
    newer = device_of(study, "first", slowness=3.0)
    study.add_device(newer)
    import_study(study.path, file)
    assert study.device("first") == newer
    assert study.used_device == "first"
    assert list(study.devices()) == ["first", "second"]
    data = json.loads(file.read_text())
    data["devices"][0]["blocks"][0]["load_ms"] = float("nan")
    file.write_text(json.dumps(data))
    before = study.devices()
    with pytest.raises(StudyError, match="load_ms"):
        import_study(study.path, file)
    assert study.devices() == before


def test_a_study_of_an_older_release_gets_devices(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with Study(older) as study:
            assert study.devices() == {}
            assert study.used_device is None
    with Study(older) as study:
        assert study.devices() == {}
        assert study.progress()[1] > 0


def test_devices_are_planned_for_where_torch_is_absent(study: Study, tmp_path: Path) -> None:
    study.add_device(device_of(study))
    device = tmp_path / "device.json"
    device.write_text(replace_name(study.device("board")).to_json())
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    program = (
        "import sys; from pathlib import Path\n"
        "from pockgraph.study import Study\n"
        "from pockgraph.measure.device_profile import DeviceProfile\n"
        "study = Study(sys.argv[1])\n"
        "study.add_device(DeviceProfile.load(Path(sys.argv[2])))\n"
        "print(study.used_device, study.profile.figures({}).step_ms > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(study.path), str(device)], capture_output=True, text=True,
        cwd=tmp_path, env={"PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])},
    )  # fmt: skip
    assert done.stdout == "renamed True\n", done.stderr


def replace_name(device: DeviceProfile) -> DeviceProfile:
    return device.model_copy(update={"name": "renamed"})
