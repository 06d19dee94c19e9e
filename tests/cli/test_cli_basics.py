"""The command line itself: help, version, doctor, start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from projects import Cli  # pyright: ignore

from pockgraph.targets import target_names
from pockui.commands import doctor

COMMANDS = (
    "demo", "serve", "analyze", "search", "check", "compile", "train", "show", "bench", "report", "study",
    "operators",
    "doctor",
)  # fmt: skip


def test_help_names_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0
    assert all(command in result.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, cli: Cli) -> None:
    assert cli(command, "--help").code == 0


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("pockui ")


def test_help_imports_no_framework() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from pockui.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'openvino', 'panel', 'plotly', 'scipy', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_says_what_runs(cli: Cli) -> None:
    found = cli("doctor", "--json").json
    targets = {(t["target"], t["device"]): t for t in found["targets"]}
    assert targets["openvino", "CPU"]["runs"]
    assert targets["onnx", "CPU"]["runs"]
    assert "FP32" in targets["openvino", "CPU"]["precisions"]
    assert targets["torch", "cpu"]["runs"]
    assert targets["torch", "cuda"]["runs"] == torch.cuda.is_available()
    assert found["machine"]["cores"] >= 1
    assert {t["target"].split()[0] for t in found["targets"]} == set(target_names())
    assert all(t["runs"] or t["note"] for t in found["targets"]), "what does not run says why"
    text = cli("doctor").out
    assert "openvino" in text
    assert "torch mode=compile" in text


def test_doctor_knows_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = {row["device"]: row for row in doctor._onnx()}
    assert providers["CPU"]["runs"]
    assert "AZURE" not in providers, "nothing that sends data elsewhere"
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    (absent,) = doctor._onnx()
    assert not absent["runs"]
    assert "pip install 'pockui[onnx]'" in absent["note"]
    assert [row["runs"] for row in doctor.targets()] == [False, False, False]


def test_doctor_says_what_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    targets = {t["target"]: t for t in cli("doctor", "--json").json["targets"]}
    assert not targets["torch mode=compile"]["runs"]
    assert "C++ compiler" in targets["torch mode=compile"]["note"]
