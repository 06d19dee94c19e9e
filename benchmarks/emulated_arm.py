"""An ARM machine that qemu emulates: Python, and the aarch64 builds of the packages that are installed here.

On Debian, as root the first time; what is fetched is kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pockgraph.errors import PockError

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "usr/bin/python3.11"
SUITE = "bookworm"
# The processor of a Raspberry Pi 5. Libraries look it up in /proc/cpuinfo, where qemu shows its own host's.
PROCESSOR = "cortex-a76"
CPUINFO = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
# A wheel may ask for any glibc up to the one of SUITE.
GLIBC = ("2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35", "2_36")
RUNTIME = (
    "annotated-types", "numpy", "pydantic", "pydantic-core", "safetensors", "typing-extensions",
    "typing-inspection",
)  # fmt: skip
NEEDS = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "flatbuffers", "packaging", "protobuf"),
}


class ArmError(PockError):
    """The emulated machine cannot be made, or a run on it failed."""


@dataclass(frozen=True)
class Machine:
    """Command and environment that run Python with the runtime's packages."""

    python: tuple[str, ...]
    path: str

    def run(self, *args: str) -> tuple[str, float]:
        """Standard output and seconds of a Python command.

        Raises:
            ArmError: it failed; with its last words.
        """
        env = {**os.environ, "PYTHONPATH": self.path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        done = subprocess.run([*self.python, *args], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [x for x in done.stderr.splitlines() if x.strip() and "xbyak" not in x]
            raise ArmError(lines[-1] if lines else f"exit status {done.returncode}")
        return done.stdout, time.perf_counter() - start


def emulated(cache: Path, targets: Sequence[str]) -> Machine:
    """An ARM machine with the versions of this one's packages; made on first use.

    Raises:
        ArmError: a tool is missing, or something cannot be fetched.
    """
    missing = [t for t in ("qemu-aarch64-static", "debootstrap", "dpkg") if shutil.which(t) is None]
    if missing:
        raise ArmError(
            f"Emulating ARM needs {', '.join(missing)}, which this machine lacks. On Debian or Ubuntu, as "
            "root: apt-get install qemu-user-static debootstrap"
        )
    root = _root(cache)
    site = _site(cache, [*RUNTIME, *(p for t in targets for p in NEEDS[t])])
    python = ("qemu-aarch64-static", "-cpu", PROCESSOR, "-L", str(root), str(root / PYTHON))
    return Machine(python, f"{site}{os.pathsep}{ROOT / 'backend'}")


def _root(cache: Path) -> Path:
    """A Debian for ARM, unpacked and not installed: nothing of it runs but Python."""
    root = cache / SUITE
    if not root.is_dir():
        if os.geteuid() != 0:
            raise ArmError(
                f"debootstrap unpacks Debian {SUITE} for ARM as root only. Run this once as root; later runs "
                f"find it in {root} and need no rights."
            )
        partial = cache / f"{SUITE}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        packages = "python3,libstdc++6"
        _do("debootstrap", "--arch=arm64", "--foreign", f"--include={packages}", SUITE, str(partial))
        for archive in sorted((partial / "var/cache/apt/archives").glob("*.deb")):
            _do("dpkg", "-x", str(archive), str(partial))
        shutil.rmtree(partial / "var/cache/apt")
        cores = range(os.cpu_count() or 1)
        (partial / "proc/cpuinfo").write_text("".join(CPUINFO.format(number=n) for n in cores))
        partial.rename(root)
    return root


def _site(cache: Path, packages: Sequence[str]) -> Path:
    """A folder with aarch64 wheels of the versions that are installed here."""
    wanted = sorted({f"{p}=={importlib.metadata.version(p)}" for p in packages})
    site = cache / f"site-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    if not site.is_dir():
        wheels, partial = cache / "wheels", site.with_suffix(".partial")
        for folder in (wheels, partial):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        platforms = [f"--platform=manylinux_{g}_aarch64" for g in GLIBC] + [
            "--platform=manylinux2014_aarch64"
        ]
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps")
        _do(*pip, "--only-binary=:all:", "--python-version=3.11", *platforms, f"--dest={wheels}", *wanted)
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as file:
                file.extractall(partial)
        shutil.rmtree(wheels)
        partial.rename(site)
    return site


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [x for x in (done.stdout + done.stderr).splitlines() if x.strip()]
        last = lines[-1] if lines else f"exit status {done.returncode}"
        raise ArmError(f"{Path(command[0]).name} failed: {last}")
