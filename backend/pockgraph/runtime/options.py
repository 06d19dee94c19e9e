"""Options of a Trainer or a Predictor, checked. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ArtifactError, BatchError, listing, suggest
from .manifest import Manifest

MAX_THREADS = 4096
OnNonfinite = Literal["error", "skip"]


def checked_policy(value: Any) -> OnNonfinite:
    """`value`, if it says what to do about a step that is not finite.

    Raises:
        BatchError: it does not; with suggestions.
    """
    known = get_args(OnNonfinite)
    if value not in known:
        raise BatchError(
            f"on_nonfinite={value!r} is none of {', '.join(map(repr, known))}.{suggest(str(value), known)}"
        )
    return value


def checked_seed(seed: int) -> int:
    """
    Raises:
        ArtifactError: it is no integer.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ArtifactError(f"seed={seed!r}: a seed is an integer.")
    return seed


def checked_threads(threads: int | None) -> int | None:
    """
    Raises:
        ArtifactError: it is no number of threads.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
        raise ArtifactError(
            f"threads={threads}: at least one thread is needed, and at most {MAX_THREADS}. "
            "Leave it out for all cores."
        )
    return threads


def require_allowed(folder: Path, manifest: Manifest, allow_native_code: bool) -> None:
    """Refuse machine code that was not allowed.

    Raises:
        ArtifactError: naming the files that hold it.
    """
    if manifest.native_code and not allow_native_code:
        raise ArtifactError(
            f"{folder} holds native code ({listing(list(manifest.native_code))}), which can do whatever "
            "you can. If you trust who compiled it, pass allow_native_code=True (--allow-native-code); "
            "artefacts of mode 'eager' hold none."
        )
