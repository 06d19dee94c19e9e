"""The devices whose measured plans a study keeps, and which of them plans are made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import PlanError, StudyError, require, suggest
from ..measure.device_profile import DeviceProfile
from ..profile import Profile
from ..profile.time_model import LEAST_TIMED_PLANS
from ..runtime.runner import require_runnable
from ..store.store import advance
from .kept_records import KeptRecords


class KeptDevices(KeptRecords):
    """What `Study` knows of devices."""

    def add_device(self, device: DeviceProfile, name: str = "") -> str:
        """Keep what was measured on a device, and make plans for it from now on.

        What was kept under the same name is replaced, if it is of the same target.

        Args:
            name: what it shall be called here; its own name, if left out.

        Returns:
            The name.

        Raises:
            StudyError: it was measured with a kit of another task; fewer than two plans were measured; the
                name is another target's.
            ArtifactError: nothing runs the target that its plans were compiled for.
        """
        require(StudyError, "device", device, DeviceProfile, "Pass what DeviceProfile.load returns.")
        require(StudyError, "name", name, str, "Pass a text, or leave it out.")
        if name:
            device = DeviceProfile.model_validate({**device.model_dump(by_alias=True), "name": name})
        checked_device(device, self.facts)
        with self._store.transaction("devices") as write:
            row = write.execute("SELECT target FROM devices WHERE name = ?", (device.name,)).fetchone()
            if row is not None and row[0] != device.target:
                raise StudyError(
                    f"The study {self.path} keeps the device {device.name!r} with plans for {row[0]}, and "
                    f"this one is for {device.target}. Keep it under another name, such as "
                    f"'{device.name} {device.target}'."
                )
            write.execute(
                "INSERT INTO devices (name, target, measured, json, used) "
                "VALUES (?, ?, ?, ?, (SELECT coalesce(max(used), 0) + 1 FROM devices)) "
                "ON CONFLICT (name) DO UPDATE SET measured = excluded.measured, json = excluded.json, "
                "used = excluded.used",
                (device.name, device.target, device.changed, device.to_json()),
            )
            advance(write, "profile")
        return device.name

    def devices(self) -> dict[str, DeviceProfile]:
        """Name -> what was measured there, oldest first. One that cannot be read is left out, with a
        `UserWarning`."""
        if not self._store.has_table("devices"):
            return {}
        found = self._readable("SELECT name, json FROM devices ORDER BY id", self._device_of)
        return {device.name: device for device in found}

    @property
    def used_device(self) -> str | None:
        """The device that plans are made for; None: none."""
        rows = self._device_rows("SELECT name FROM devices WHERE used > 0 ORDER BY used DESC LIMIT 1")
        return rows[0]["name"] if rows else None

    def device(self, name: str) -> DeviceProfile:
        """
        Raises:
            StudyError: there is none of that name (with suggestions).
        """
        rows = self._device_rows("SELECT name, json FROM devices WHERE name = ?", name)
        if not rows:
            self._refuse_device(name)
        return self._device_of(rows[0])

    def use_device(self, name: str | None) -> None:
        """Make plans for this device from now on: times of a step are then those of its target there.

        Args:
            name: None: for none.

        Raises:
            StudyError: there is none of that name (with suggestions).
        """
        require(StudyError, "name", name or "", str, "Pass a text, or None.")
        with self._store.transaction("devices") as write:
            if name is None:
                write.execute("UPDATE devices SET used = 0")
            else:
                changed = write.execute(
                    "UPDATE devices SET used = (SELECT max(used) + 1 FROM devices) WHERE name = ?", (name,)
                )
                if not changed.rowcount:
                    self._refuse_device(name)
            advance(write, "profile")

    def remove_device(self, name: str) -> None:
        """Forget a device, even a damaged one.

        Raises:
            StudyError: there is none of that name (with suggestions).
        """
        with self._store.transaction("devices") as write:
            removed = write.execute("DELETE FROM devices WHERE name = ?", (name,)).rowcount
            advance(write, "profile")
        if not removed:
            self._refuse_device(name)

    def _device_of(self, row: Any) -> DeviceProfile:
        with self._store.decoding(f"the device {row['name']!r}", "Remove it with Study.remove_device."):
            return DeviceProfile.from_json(row["json"], f"device {row['name']!r}")

    def _device_rows(self, sql: str, *values: Any) -> list[Any]:
        return self._store.read(sql, *values) if self._store.has_table("devices") else []

    def _refuse_device(self, name: str) -> NoReturn:
        known = [r["name"] for r in self._device_rows("SELECT name FROM devices ORDER BY id")]
        raise StudyError(
            f"The study {self.path} has no device {name!r}; it has {', '.join(known) or 'none'}."
            f"{suggest(name, known)}"
        )


def checked_device(device: DeviceProfile, facts: Mapping[str, Any]) -> DeviceProfile:
    """
    Raises:
        StudyError: it was measured with a kit of another task, or too little of it.
        PlanError: it has a plan of another model.
        ArtifactError: nothing runs the target that its plans were compiled for.
    """
    require_runnable(device.target, f"The plans of the device {device.name!r} were compiled")
    mine = {k: facts[k] for k in ("name", "fingerprint", "optimizer")}
    theirs = device.task.model_dump()
    if wrong := [k for k in mine if mine[k] != theirs[k]]:
        raise StudyError(
            f"The device {device.name!r} was measured with a kit of another task: its {' and '.join(wrong)} "
            f"{'differs' if len(wrong) == 1 else 'differ'} from this study's. Measure a kit that this study "
            "made: pockui device kit"
        )
    for choice in device.choices:
        if unknown := choice.keys() - facts["model"].keys():
            raise PlanError(
                f"The device {device.name!r} has a plan that trains {min(unknown)!r}, which the model lacks. "
                "Measure it again."
            )
    if len(device.plans()) < LEAST_TIMED_PLANS:
        raise StudyError(
            f"On the device {device.name!r} {len(device.plans())} of {len(device.choices)} plans were "
            f"measured, and a model needs {LEAST_TIMED_PLANS}. The command that measures it goes on where "
            "it was."
        )
    return device


def on_device(profile: Profile, device: DeviceProfile) -> Profile:
    """The profile with the costs that plans have on this device."""
    from ..profile.model_fits import fit_models

    return fit_models(profile, device.plans())
