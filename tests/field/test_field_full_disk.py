"""The disk of a user is full: it is told in a paragraph, nothing is lost and nothing half is left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pockgraph.errors import reason

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/campaign"))

import disk  # pyright: ignore


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "disk"
    folder.mkdir()
    if not disk.is_possible(folder):
        pytest.skip("a small file system cannot be mounted here")
    return folder


@pytest.mark.parametrize("tries", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_nothing_is_lost_on_a_full_disk(tries: int, small_disk: Path) -> None:
    operations = (
        "compile over an artefact, openvino",
        "save a checkpoint",
        "save a plan and a run in a study",
    )
    found = disk.try_some(operations, 0, tries, small_disk)
    assert [f for each in found for f in each.faults] == []
    assert [(each.operation, each.tries) for each in found] == [(name, tries) for name in operations]
    assert all(each.refused for each in found)


def test_a_full_disk_is_told_without_numbers_of_errors() -> None:
    said = reason(
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    )
    assert said == "no space left on device"
