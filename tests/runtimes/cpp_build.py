"""Builds the trainer in C++ once, and again when its sources change."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from required import missing

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "runtimes" / "cpp"
BUILD = ROOT / "build" / "cpp-test"
REQUIRED = "POCKUI_REQUIRE_CPP"


def built() -> Path:
    """The folder that holds the programs `train` and `example`.

    Where something to build with is missing, the test is skipped, or fails where it must run.
    """
    if not shutil.which("cmake"):
        missing("there is no cmake", REQUIRED)
    if not any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        missing("there is no C++ compiler", REQUIRED)
    script = [sys.executable, str(SOURCES / "openvino_cmake.py")]
    found = subprocess.run(script, capture_output=True, text=True, check=False)
    if found.returncode:
        missing("this openvino brings no files for cmake", REQUIRED)
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configured = _cmake(
            "-S", str(SOURCES), "-B", str(BUILD), f"-DOpenVINO_DIR={found.stdout.strip()}",
            "-DPOCKUI_WARNINGS_AS_ERRORS=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        )  # fmt: skip
        if configured.returncode and "nlohmann_json" in configured.stderr:
            missing("nlohmann-json3-dev is not installed", REQUIRED)
        assert configured.returncode == 0, configured.stderr
        compiled = _cmake("--build", str(BUILD), "--parallel", "2", "--target", "train", "example")
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    return BUILD


def _cmake(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cmake", *arguments], capture_output=True, text=True, check=False)
