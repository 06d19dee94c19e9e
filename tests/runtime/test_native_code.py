"""Artefacts with machine code in them: never loaded unless asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_task import batches

from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer
from pockgraph.runtime.artifact_files import file_sha256
from pockgraph.runtime.command import main

PACKAGES = ("eval.pt2", "train.pt2")


@pytest.fixture
def folder(copied: Callable[..., Path]) -> Path:
    """An artefact of the torch target with packages that hold no code; `declare` completes it."""
    folder = copied("torch")
    for name in PACKAGES:
        (folder / name).write_bytes(b"not a package")
    return folder


def declare(folder: Path, mode: str = "aot", native_code: tuple[str, ...] = PACKAGES) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    data["options"], data["native_code"] = {"mode": mode}, list(native_code)
    for name in PACKAGES:
        file = folder / name
        data["files"][name] = {"sha256": file_sha256(file), "bytes": file.stat().st_size}
    path.write_text(json.dumps(data))


def test_native_code_must_be_allowed(folder: Path) -> None:
    declare(folder)
    with pytest.raises(ArtifactError, match=r"native code \(eval.pt2, train.pt2\).* allow_native_code=True"):
        Trainer.load(folder)


def test_what_is_no_package_is_named(folder: Path) -> None:
    declare(folder)
    with pytest.raises(ArtifactError, match=r"cannot load .*train\.pt2: .* Compile the artefact again"):
        Trainer.load(folder, allow_native_code=True)


def test_a_manifest_cannot_hide_native_code(folder: Path) -> None:
    for hidden in ((), PACKAGES[:1]):
        declare(folder, native_code=hidden)
        with pytest.raises(ArtifactError, match=r"not a valid manifest: native_code: .*it lists"):
            Trainer.load(folder, allow_native_code=True)


def test_a_mode_without_its_package_is_refused(copied: Callable[..., Path]) -> None:
    folder = copied("torch")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": {"mode": "aot"}}))
    with pytest.raises(ArtifactError, match=r"does not list eval\.pt2, train\.pt2"):
        Trainer.load(folder, allow_native_code=True)


def test_native_code_of_an_artefact_in_eager_mode_is_not_run(folder: Path) -> None:
    declare(folder, mode="eager")
    with pytest.raises(ArtifactError, match="native code"):
        Trainer.load(folder)
    assert Trainer.load(folder, allow_native_code=True).step(batches(1)[0]).step == 1


def test_a_package_is_for_the_cpu(folder: Path) -> None:
    declare(folder)
    with pytest.raises(ArtifactError, match=r"machine code for the device 'cpu', not 'meta'"):
        Trainer.load(folder, "meta", allow_native_code=True)


def test_the_command_line_asks_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(folder)
    arguments = [str(folder), "--data", "none.npz", "--steps", "1"]
    assert main(arguments) == 2
    assert "holds native code" in capsys.readouterr().err
    assert main([*arguments, "--allow-native-code"]) == 2
    assert "cannot load" in capsys.readouterr().err
