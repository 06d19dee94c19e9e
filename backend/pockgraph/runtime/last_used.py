"""Which Trainer and which checkpoint of an artefact were used last, for whoever names neither."""

from __future__ import annotations

import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import read_text, resolved, write_atomically
from .artifact_files import LAST_CHECKPOINT

if TYPE_CHECKING:
    from .trainer import Trainer

_MAX_NOTE_BYTES = 1 << 16
_loaded: weakref.WeakValueDictionary[Path, Trainer] = weakref.WeakValueDictionary()


def note_loaded(folder: Path, trainer: Trainer) -> None:
    """The trainer is the last one that this process loaded from `folder`."""
    _loaded[folder] = trainer


def last_trainer(folder: Path) -> Trainer | None:
    """The living Trainer that this process loaded last from `folder`."""
    trainer = _loaded.get(folder.resolve())
    return None if trainer is None or trainer.closed else trainer


def last_checkpoint(folder: Path) -> Path | None:
    """Where a Trainer of this artefact saved last, in this process or another."""
    try:
        return resolved(read_text(folder / LAST_CHECKPOINT, _MAX_NOTE_BYTES).strip())
    except (OSError, UnicodeDecodeError):
        return None


def note_last_checkpoint(folder: Path, path: Path) -> None:
    """A Trainer of this artefact saved to `path`."""
    with suppress(OSError):  # a convenience only: the artefact may lie on a read-only medium
        write_atomically(folder / LAST_CHECKPOINT, f"{path}\n".encode())
