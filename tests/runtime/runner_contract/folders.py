"""Folders that were changed, devices that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_task import Compile

from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer
from pockgraph.runtime.artifact_files import read_manifest

from .base import RunnerTests


class Folders(RunnerTests):
    def test_every_file_is_checked(self, folder: Path) -> None:
        names = read_manifest(folder).files
        assert {"plan.json", "state.safetensors"} < set(names)
        for name in names:
            path = folder / name
            good = path.read_bytes()
            changed = bytearray(good)
            changed[len(good) // 2] ^= 1
            path.write_bytes(bytes(changed))
            with pytest.raises(ArtifactError, match=f"{name} was changed"):
                self.load(folder)
            path.write_bytes(good[:-1])
            with pytest.raises(
                ArtifactError, match=f"{name} has {len(good) - 1} bytes instead of {len(good)}"
            ):
                self.load(folder)
            path.unlink()
            with pytest.raises(ArtifactError, match=f"{name} is missing"):
                self.load(folder)
            path.write_bytes(good)
        self.load(folder)

    def test_graph_and_manifest_must_agree(self, folder: Path) -> None:
        path = folder / "manifest.json"
        data = json.loads(path.read_text())
        data["train"]["inputs"] = [s for s in data["train"]["inputs"] if s["fqn"] != "head.bias"]
        path.write_text(json.dumps(data))
        with pytest.raises(ArtifactError):
            self.load(folder)

    def test_devices_and_threads_are_checked(self, compiled: Compile) -> None:
        folder = compiled(self.target).path
        with pytest.raises(ArtifactError, match="device 'TPU'"):
            Trainer.load(folder, device="TPU")
        with pytest.raises(ArtifactError, match="threads=0"):
            Trainer.load(folder, threads=0)
