"""The table of operators per artefact, and the vendors' lists behind it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch.nn.functional as F
from operator_contract.comparison import graph_of, rand
from typer.testing import CliRunner

from pockgraph.errors import ArtifactError
from pockgraph.targets.onnx import TARGET
from pockgraph.targets.onnx.vendors import LISTS, coverage, operator_counts
from pockui.cli import app


def write(folder: Path) -> Path:
    graph = graph_of(lambda x, w: F.conv2d(x, w).relu().erf().log(), rand(1, 3, 5, 5), rand(4, 3, 1, 1))
    TARGET.write(graph, folder, "train", {})
    return folder


def test_every_listed_operator_is_one_of_the_standard() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    for vendor in json.loads(LISTS.read_text(encoding="utf-8"))["vendors"]:
        assert vendor["source"]
        assert not set(vendor["operators"]) - known, vendor["name"]


def test_operators_are_counted_and_looked_up(tmp_path: Path) -> None:
    counts = operator_counts(write(tmp_path) / "train.onnx")
    assert counts == {"Conv": 1, "Relu": 1, "Erf": 1, "Log": 1}
    found = {c.vendor: c for c in coverage(counts)}
    assert set(found["QNN"].missing) == {"Erf"}
    assert set(found["Core ML"].missing) == {"Log"}
    assert set(found["XNNPACK"].listed) == {"Conv"}
    assert "constant" in found["XNNPACK"].notes["Conv"]
    assert found["QNN"].node_ratio == 0.75


def test_files_that_are_no_onnx_artefact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="compile with target='onnx'"):
        operator_counts(tmp_path / "train.onnx")
    (tmp_path / "train.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ArtifactError, match="is no ONNX model"):
        operator_counts(tmp_path / "train.onnx")


def test_the_command_prints_it(tmp_path: Path) -> None:
    folder = str(write(tmp_path))
    text = CliRunner().invoke(app, ["operators", folder]).output
    assert "Conv" in text
    assert "QNN (Qualcomm DSP, GPU and NPU) lists 3 of 4 operators, 75% of the nodes" in text
    data = json.loads(CliRunner().invoke(app, ["operators", folder, "--json"]).output)
    assert data["operators"]["Relu"] == 1
    assert [v["vendor"] for v in data["vendors"]] == ["QNN", "Core ML", "XNNPACK"]
