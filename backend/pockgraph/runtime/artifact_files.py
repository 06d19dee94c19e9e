"""The files of an artefact's folder: their names, reading the manifest and the plan, and whether a file is
still what the manifest says."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from ..errors import ArtifactError, PlanError, listing, reason, violations
from ..files import open_regular, parse_json, read_text, sweep
from ..plan import Plan
from ..plan.plan import MAX_BYTES
from .manifest import SCHEMA, Manifest

MANIFEST = "manifest.json"
PLAN = "plan.json"
STATE = "state.safetensors"
LAST_CHECKPOINT = "last_checkpoint"
_AGAIN = "Copy the folder again, or compile it again."


def read_manifest(folder: Path) -> Manifest:
    """Parse and validate `folder/manifest.json`.

    Raises:
        ArtifactError: no such folder, not an artefact, another schema, or an invalid manifest.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        sweep(folder.parent)  # a killed compilation may have left it under another name
    if not folder.is_dir():
        raise ArtifactError(f"There is no artefact folder {folder}. Compile one with pockgraph.compile(…).")
    try:
        require_inside(folder, path)
        text = read_text(path, MAX_BYTES)
        data = parse_json(text)
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} is not an artefact: it has no {MANIFEST}. Pass a folder that pockgraph.compile wrote."
        ) from None
    except (OSError, ValueError) as e:
        raise ArtifactError(f"Cannot read {path}: {reason(e)}. {_AGAIN}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema!r}; this version of pockgraph reads {SCHEMA!r}. Compile the artefact "
            "again with this version, or run it with the version that wrote it."
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as e:
        raise ArtifactError(f"{path} is not a valid manifest: {violations(e, 'file')}. {_AGAIN}") from None


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest.

    Raises:
        ArtifactError: naming each file that is missing, cut short, changed, or that lies elsewhere.
    """
    wrong = [found for name in manifest.files if (found := _difference(folder, manifest, name))]
    missing = {PLAN, STATE} - set(manifest.files)
    wrong += [f"{name} is not listed in {MANIFEST}" for name in sorted(missing)]
    if wrong:
        raise ArtifactError(f"The artefact {folder} is damaged: {listing(wrong)}. {_AGAIN}")


def require_unchanged(folder: Path, manifest: Manifest, *names: str) -> None:
    """Refuse files that are no longer those that were there when the artefact was loaded.

    Raises:
        ArtifactError: with their names.
    """
    wrong = [found for name in names if (found := _difference(folder, manifest, name, trust_times=True))]
    if wrong:
        raise ArtifactError(
            f"The artefact {folder} was replaced or damaged after it was loaded: {listing(wrong)}. "
            "Load it again; a checkpoint keeps what was trained."
        )


def _difference(folder: Path, manifest: Manifest, name: str, trust_times: bool = False) -> str:
    """What tells a file from the one that the manifest lists, or an empty string.

    Args:
        trust_times: do not read a file again that this process read, and that nobody wrote to since.
    """
    path, spec = folder / name, manifest.files.get(name)
    try:
        if spec is None:
            return f"{name} is not listed in {MANIFEST}"
        require_inside(folder, path)
        with open_regular(path) as f:
            status = os.fstat(f.fileno())
            if status.st_size != spec.bytes:
                return f"{name} has {status.st_size} bytes instead of {spec.bytes}"
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            digest = _digests.get(stamp) if trust_times else None
            if digest is None:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
                if len(_digests) >= _MAX_DIGESTS:
                    _digests.clear()
                _digests[stamp] = digest
            if digest != spec.sha256:
                return f"{name} was changed (its SHA-256 differs)"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as e:
        return f"{name} cannot be read ({e.strerror or e})"
    return ""


_MAX_DIGESTS = 1024
_digests: dict[tuple[int, ...], str] = {}  # of the files that this process read, by what changes with them


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a path that leads out of `folder`, also through a link.

    Raises:
        OSError: saying so.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OSError(errno.EPERM, "it is a link to a place outside the folder", str(path))


def read_plan(folder: Path) -> Plan:
    """The plan of a verified artefact.

    Raises:
        ArtifactError: it is no plan.
    """
    try:
        require_inside(folder, folder / PLAN)
        return Plan.load(folder / PLAN)
    except (PlanError, OSError) as e:
        raise ArtifactError(f"The artefact {folder} is damaged: {str(e).rstrip('.')}. {_AGAIN}") from None


def file_sha256(path: Path) -> str:
    with open_regular(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
