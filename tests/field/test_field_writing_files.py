"""Users' disks are full or read-only, other processes write beside, and a kill leaves things behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from artifact_files import DATA, compiled, listed

import pockgraph as pg
from pockgraph import files
from pockgraph.errors import ArtifactError, PlanError
from pockgraph.runtime import Trainer


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)


def test_a_full_disk_loses_nothing_and_leaves_nothing(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = compiled(tmp_path / "out", target)
    trainer = artifact.trainer(threads=1)
    trainer.step(DATA[0])
    trainer.save(tmp_path / "saved")
    artifact.plan.save(tmp_path / "plan.json")
    before = listed(tmp_path)
    full_disk(monkeypatch)
    with pytest.raises(ArtifactError, match=r"(?i)no space left"):
        trainer.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match=r"(?i)no space left"):
        trainer.export(tmp_path / "exported")
    with pytest.raises(PlanError, match=r"(?i)no space left"):
        artifact.plan.save(tmp_path / "plan.json")
    with pytest.raises(ArtifactError, match=r"(?i)no space left"):
        compiled(tmp_path / "out", target)
    assert listed(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"out", "saved", "plan.json"}


@pytest.mark.slow
def test_files_that_may_not_grow_are_refused_in_a_line(tmp_path: Path, target: str) -> None:
    """The native writers run into the system's limit on a file's size, as into the end of a disk."""
    code = """
import resource, signal, sys
sys.path[:0] = sys.argv[3:]
from artifact_files import compiled
import pockgraph as pg, pockgraph.errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import torch
net = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2].split(",")[1]),) * 2)
try:
    compiled(__import__("pathlib").Path(sys.argv[1]), sys.argv[2].split(",")[0], net)
except pg.errors.ArtifactError as e:
    print("REFUSED", str(e).count("\\n"))
"""
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1])}
    here = Path(__file__).parent
    for limit in (1000, 5000):
        command = [sys.executable, "-c", code, tmp_path / "out", f"{target},{limit}", here, here.parent]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, timeout=120)
        assert done.stdout == "REFUSED 0\n", (limit, done.stdout, done.stderr[-1500:])
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_in_a_line(
    artefact_copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer.load(artefact_copy("onnx"), threads=1)

    def mkdir(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ArtifactError, match=r"(?i)read-only file system"):
        trainer.save(tmp_path / "saved")


def test_notes_that_a_kill_left_do_not_stop_a_compilation(tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", "onnx")
    (artifact.path / ".last_checkpoint.ab12cd34").write_text("x")
    compiled(tmp_path / "out", "onnx")
    assert not (artifact.path / ".last_checkpoint.ab12cd34").exists()


def test_an_artefact_that_a_kill_left_aside_is_found(tmp_path: Path) -> None:
    artifact = compiled(tmp_path / "out", "onnx")
    staging = tmp_path / ".out.0123abcd.pockui-partial"
    staging.mkdir()
    artifact.path.rename(staging / "old")
    assert Trainer.load(tmp_path / "out", threads=1).step(DATA[0]).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_another_process_is_writing_is_not_swept(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, pockgraph.files as f\n"
        "with f.replacing(pathlib.Path(sys.argv[1])) as new:\n"
        "    new.write_text('theirs'); print('writing', flush=True); input()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "theirs")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        files.write_atomically(tmp_path / "mine", b"mine")
        other.communicate("\n", timeout=60)
    assert listed(tmp_path) == {"mine": b"mine", "theirs": b"theirs"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        other.kill()
    assert len(list(tmp_path.iterdir())) == 3
    files.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "theirs"]


def test_temporary_folders_of_a_killed_process_go_with_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import pockgraph.files as f\n"
        "folder = f.ScratchFolder('test'); (folder.path / 'file').write_text('x')\n"
        "print('made', flush=True); input()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1]), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"made\n"
        (theirs,) = tmp_path.iterdir()
        with files.ScratchFolder("test") as mine:
            assert mine.stat().st_mode & 0o777 & mine.parent.stat().st_mode == 0o700
            assert len(list(tmp_path.iterdir())) == 2
        assert list(tmp_path.iterdir()) == [theirs]
        other.kill()
    with files.ScratchFolder("test") as mine:
        assert list(tmp_path.iterdir()) == [mine.parent]
    folder = files.ScratchFolder("test")
    del folder
    assert not list(tmp_path.iterdir())
