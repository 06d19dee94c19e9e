"""A kit: a few plans of a task, compiled, and one batch, to be measured where the task is to be trained.

The folder holds `kit.json`, `batch.npz` and an artefact for each plan. A study makes it; a device measures it
without torch, one process after the other, since a small board has no room for all.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator

from ..errors import reason, violations
from ..files import parse_json, read_text, write_atomically
from ..machine import machine
from ..version import installed_version
from .device_profile import Block, Choice, DeviceFile, DeviceProfile, DeviceProfileError, TaskIdentity
from .figures import MeasureError
from .interleaved import artifact_command, measure_alone

SCHEMA = "pockui.kit/1"
KIT, BATCH = "kit.json", "batch.npz"
MAX_BYTES = 64 << 20
BLOCK_S = 5.0  # about how long the measured steps of a block take
ROUNDS = 2
PACKAGES = ("pockui", "numpy", "openvino", "onnxruntime")
Progress = Callable[[int, int, str], None]


class KitPlan(DeviceFile):
    """One plan: what it trains, and the folder of its artefact."""

    choice: Choice
    artifact: str

    @field_validator("artifact")
    @classmethod
    def _is_plain(cls, artifact: str) -> str:
        if Path(artifact).name != artifact or artifact in ("", ".", ".."):
            raise ValueError(f"{artifact[:80]!r} is no folder of the kit")
        return artifact


class Kit(DeviceFile):
    """What `kit.json` says.

    Attributes:
        task: whose plans these are. target: what they are compiled for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["pockui.kit/1"] = Field(default=SCHEMA, alias="schema")
    task: TaskIdentity
    target: str = Field(min_length=1)
    plans: tuple[KitPlan, ...] = Field(min_length=2)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @classmethod
    def load(cls, folder: Path) -> Kit:
        """
        Raises:
            DeviceProfileError: the folder holds no kit of this version.
        """
        try:
            text = read_text(folder / KIT, MAX_BYTES)
            data = parse_json(text)
            found = data.get("schema") if isinstance(data, dict) else None
            if found != SCHEMA:
                raise DeviceProfileError(
                    f"{folder} is no kit that this version measures: its schema is {found!r}, not "
                    f"{SCHEMA!r}. {_REMEDY}"
                )
            return cls.model_validate_json(text, strict=True)
        except (OSError, ValueError) as e:
            said = violations(e, "file") if isinstance(e, ValidationError) else reason(e)
            raise DeviceProfileError(f"{folder / KIT} is no kit: {said}. {_REMEDY}") from None


_REMEDY = "Make one with: pockui device kit STUDY --out KIT"


@dataclass(frozen=True)
class Measuring:
    """How a kit is measured.

    Attributes:
        name: the device's.
        threads: None leaves the number to the runtime.
        rounds: blocks of each plan, each in a process of its own.
    """

    name: str
    threads: int | None = None
    rounds: int = ROUNDS


def measure_kit(folder: Path, out: Path, how: Measuring, progress: Progress | None = None) -> DeviceProfile:
    """Measure what of a kit is not yet in `out`, which is written after each block.

    Every round takes the plans in an order drawn anew. A plan that fails is noted with its reason, and tried
    again when the kit is measured again.

    Raises:
        DeviceProfileError: no kit, or `out` is of another kit or machine, or was measured in another way, or
            another process writes it, too.
    """
    kit = Kit.load(folder)
    profile, written = _begun(kit, out, how)
    blocks = list(_missing(profile))
    for done, n in enumerate(blocks):
        if n in profile.failures:
            continue
        if progress is not None:
            progress(done, len(blocks), f"plan {n + 1} of {len(kit.plans)}")
        command = artifact_command(folder / kit.plans[n].artifact, folder / BATCH, how.threads)
        figures = measure_alone(command, BLOCK_S)
        if isinstance(figures, MeasureError):
            change = {"failures": {**profile.failures, n: str(figures)}}
        else:
            change = {"blocks": (*profile.blocks, Block.of(n, figures))}
        profile = profile.model_copy(update={**change, "changed": time.time()})
        written = _write(out, profile, written)
    if progress is not None:
        progress(len(blocks), len(blocks), "measured")
    return profile


def _begun(kit: Kit, out: Path, how: Measuring) -> tuple[DeviceProfile, str]:
    """What `out` holds of this kit so far, or a new profile; and its text there."""
    versions = {name: installed_version(name) for name in PACKAGES}
    new = DeviceProfile(
        name=how.name, target=kit.target, task=kit.task, kit=kit.digest, machine=machine(), versions=versions,
        threads=how.threads, started=time.time(), changed=time.time(), rounds=how.rounds,
        choices=tuple(p.choice for p in kit.plans),
    )  # fmt: skip
    if not out.exists():
        return new, _write(out, new)
    old = DeviceProfile.load(out)
    told = {"kit": "another kit", "machine": "another machine", "versions": "other versions",
            "threads": "another number of threads"}  # fmt: skip
    if wrong := [words for field, words in told.items() if getattr(old, field) != getattr(new, field)]:
        raise DeviceProfileError(
            f"{out} was measured with {' and '.join(wrong)}. Write to another file, or remove that one."
        )
    return old.model_copy(update={"name": how.name, "rounds": how.rounds, "failures": {}}), old.to_json()


def _missing(profile: DeviceProfile) -> Iterator[int]:
    """The plan of each block that is to be measured, in order."""
    for round_ in range(profile.rounds):
        plans = [n for n in range(len(profile.choices)) if len(profile.blocks_of(n)) <= round_]
        yield from random.Random(round_).sample(plans, len(plans))


def _write(out: Path, profile: DeviceProfile, written: str = "") -> str:
    """Keep a profile, unless somebody else has since `written` was; returns what was written now."""
    text = profile.to_json()
    try:
        if written and out.exists() and DeviceProfile.load(out).to_json() != written:
            raise DeviceProfileError(
                f"Another process writes {out}, too, and measurements disturb each other. What is there is "
                "kept. Wait for that process, and call again to go on."
            )
        write_atomically(out, text.encode())
        return text
    except OSError as e:
        raise DeviceProfileError(f"Cannot write {out}: {reason(e)}. Choose another place.") from None
