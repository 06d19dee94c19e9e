"""Commands whose output goes nowhere, to a full disk, or to who stopped reading; and an early Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")

POCKUI, DEVICE = ([sys.executable, "-m", module] for module in ("pockui", "pockgraph.runtime"))
INTERRUPT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "LIBRARY":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as e:
                raise RuntimeError("what some libraries make of it") from e

sys.meta_path.insert(0, Finder())
"""
LISTING = [*POCKUI, "study", "ls"]


def shell(command: list[str], redirection: str, folder: Path) -> tuple[int, str]:
    """Exit status and standard error."""
    line = f'"$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *command], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", [LISTING, [*POCKUI, "--help"]], ids=["list", "help"])
def test_a_full_disk_is_told_in_a_line(command: list[str], tmp_path: Path) -> None:
    status, said = shell(command, "> /dev/full", tmp_path)
    assert status == 2
    assert said == "error: There is no room left on the disk. Make room, or write elsewhere.\n"


@pytest.mark.parametrize(
    "command",
    [LISTING, [*LISTING, "--json"], POCKUI, [*POCKUI, "--help"], [*POCKUI, "study", "--help"]],
    ids=["text", "json", "nothing", "help", "help of a group"],
)
def test_nobody_reads_the_output(command: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(closed: str, tmp_path: Path) -> None:
    assert shell(LISTING, closed, tmp_path) == (0, "")


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What is printed would be written into it."""
    code = (
        "import os, sys; from pockgraph.standard_streams import settle_streams; settle_streams('replace'); "
        "f = open('file', 'w'); print('printed', flush=True); os.write(1, b'written'); f.close()"
    )
    assert shell([sys.executable, "-c", code], ">&-", tmp_path) == (0, "")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("command", "library", "says"),
    [(LISTING, "typer", "Stopped.\n"), ([*DEVICE, "out"], "numpy", "")],
    ids=["pockui", "device"],
)
def test_ctrl_c_while_libraries_are_loaded(
    command: list[str], library: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT.replace("LIBRARY", library))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", says)
