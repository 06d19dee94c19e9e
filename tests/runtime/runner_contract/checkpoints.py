"""Stopping, going on elsewhere, and files that are no checkpoint of the artefact."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_task import OPTIMIZERS, Compile, Net, batches

from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer

from .base import RunnerTests, same


class Checkpoints(RunnerTests):
    @pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
    def test_a_resumed_run_is_the_same_run(self, compiled: Compile, tmp_path: Path, optimizer: str) -> None:
        folder = compiled(self.target, optimizer=optimizer).path
        trainer = self.load(folder)
        whole = [trainer.step(b).loss for b in batches(4)]
        end = trainer.state()

        # Two of three micro-batches into an update, where gradients are accumulated.
        first = self.load(folder)
        losses = [first.step(b).loss for b in batches(2)]
        first.save(tmp_path / "checkpoint")
        second = self.load(folder)
        second.load_checkpoint(tmp_path / "checkpoint")
        assert second.steps == 2
        losses += [second.step(b).loss for b in batches(4)[2:]]
        assert losses == whole
        assert same(second.state(), end)

    def test_damaged_checkpoints_are_refused(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.step(batches(1)[0])
        path = trainer.save(tmp_path / "checkpoint")
        assert list(tmp_path.iterdir()) == [path]
        good = path.read_bytes()
        before = trainer.state()
        flipped = bytearray(good)
        flipped[-3] ^= 1
        damaged = {
            "cut in its values": good[:-5],
            "cut in its header": good[:40],
            "changed": bytes(flipped),
            "empty": b"",
            "something else": b"PK" + bytes(100),
        }
        for what, content in damaged.items():
            path.write_bytes(content)
            with pytest.raises(ArtifactError, match="checkpoint"):
                trainer.load_checkpoint(path)
            assert same(trainer.state(), before), what
        with pytest.raises(ArtifactError, match="There is no file"):
            trainer.load_checkpoint(tmp_path / "nothing")
        with pytest.raises(ArtifactError, match="is no checkpoint"):
            trainer.load_checkpoint(trainer.folder / "state.safetensors")

    @pytest.mark.parametrize("other", [("head", "sgd", 0), ("sparse", "adamw", 0), ("sparse", "sgd", 7)])
    def test_a_checkpoint_of_another_artefact_is_refused(
        self, trainer: Trainer, compiled: Compile, tmp_path: Path, other: tuple[str, str, int]
    ) -> None:
        self.load(compiled(self.target, *other).path).save(tmp_path / "other")
        with pytest.raises(ArtifactError, match="belongs to another artefact"):
            trainer.load_checkpoint(tmp_path / "other")

    def test_a_checkpoint_fits_the_other_targets(
        self, trainer: Trainer, compiled: Compile, tmp_path: Path
    ) -> None:
        trainer.step(batches(1)[0])
        trainer.save(tmp_path / "checkpoint")
        for target in ("torch", "openvino", "onnx"):
            other = Trainer.load(compiled(target).path, threads=1)
            other.load_checkpoint(tmp_path / "checkpoint")
            assert same(other.state(), trainer.state())

    def test_export_is_for_load_state_dict(self, trainer: Trainer, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        trainer.step(batches(1)[0])
        tensors = load_file(trainer.export(tmp_path / "tensors.safetensors"))
        net = Net()
        assert not net.load_state_dict(tensors, strict=False).unexpected_keys
        assert same({k: v.numpy() for k, v in tensors.items()}, trainer.state())

    def test_a_place_that_cannot_be_written(self, trainer: Trainer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ArtifactError, match="Cannot write"):
            trainer.save(tmp_path / "file" / "checkpoint")
        with pytest.raises(ArtifactError, match=r"is a folder\. Name the checkpoint"):
            trainer.save(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
