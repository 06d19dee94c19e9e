"""Everything that can go wrong in a way a person can mend, as one small tree.

Each message says what happened, where (tensor name, source line, file) and what to do next.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PockError(Exception):
    """Base of every error this project raises on purpose."""


class TaskError(PockError):
    """The task itself cannot be trained: loss, metric, data or parameters."""


class CaptureError(PockError):
    """The model cannot be turned into one static graph."""


class PlanError(PockError):
    """A plan does not fit the model, or is not a plan."""


class BudgetError(PockError):
    """No plan meets the budget."""


class UnsupportedOperators(PockError):
    """A target lacks operators that the graph needs; all of them are listed."""


class ArtifactError(PockError):
    """An artefact or a checkpoint is missing, damaged, or made for something else."""


class ParityError(PockError):
    """A compiled step does not compute what eager PyTorch does, or it cannot be told."""


class BatchError(PockError):
    """A batch does not have the names, shapes or dtypes the step was compiled for."""


class NonFiniteBatch(BatchError):
    """A batch holds NaN or infinite values."""


class NonFiniteLoss(PockError):
    """The loss, or what a step would leave in the weights, is NaN or infinite.

    Attributes:
        loss: the step's, where it was one.
    """

    def __init__(self, message: str, loss: float = math.nan) -> None:
        super().__init__(message)
        self.loss = loss


class StudyError(PockError):
    """A study file cannot be opened, or belongs to another task."""


class LearnerError(PockError):
    """A learner's folder cannot be opened, is another artefact's, or lacks what is asked of it."""


def require(error: type[PockError], what: str, value: object, kind: type | tuple[type, ...], do: str) -> None:
    """Refuse an argument of another type, in words.

    Args:
        what: the argument's name.
        do: what to pass instead, as a sentence.

    Raises:
        PockError: of the class `error`.
    """
    if not isinstance(value, kind):
        raise error(f"{what} is a {type(value).__name__} ({str(value)[:40]!r}). {do}")


def suggest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'a' or 'b'?"` for a mistyped name; empty when nothing is near."""
    return f" Did you mean {near}?" if (near := _near(name, known)) else ""


def suggest_within(name: str, known: Iterable[str]) -> str:
    """As `suggest`, for one part of a longer sentence: `" (did you mean 'a' or 'b'?)"`."""
    return f" (did you mean {near}?)" if (near := _near(name, known)) else ""


def _near(name: str, known: Iterable[str]) -> str:
    return " or ".join(map(repr, difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)))


def listing(items: Sequence[str], limit: int = 8) -> str:
    """The first `limit` items, comma-separated, with a count of the rest."""
    shown = ", ".join(items[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")


_RUST_ERROR = re.compile(r"\(os error (\d{1,4})\)")  # as safetensors passes it on
_CPP_PLACE = re.compile(r"(Caught exception: )?Exception from \S+:\d+:?")


def reason(error: BaseException) -> str:
    """What somebody else's exception says, as a clause for one's own message: no numbers of errors, no
    paths of temporary files, no more than its first line, or the last where C++ says from where it came."""
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    system = error.strerror if isinstance(error, OSError) else None
    if found := _RUST_ERROR.search(str(error)):
        system = os.strerror(int(found[1]))
    if system:
        return f"{system[:1].lower()}{system[1:]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = [line for line in lines if not _CPP_PLACE.fullmatch(line)]
    if len(words) < len(lines):
        words.reverse()
    return words[0].rstrip(".:") if words else type(error).__name__


def violations(error: ValidationError, whole: str) -> str:
    """Every rule of a file's format that its contents break, with the place.

    Args:
        whole: what the file is, for rules that no single place breaks.
    """
    found = []
    for e in error.errors():
        where = ".".join(map(str, e["loc"]))
        if e["type"] == "missing":
            found.append(f"{where or whole}: it is missing")
        elif e["type"] == "extra_forbidden":
            found.append(f"{where or whole}: there is no such entry")
        elif e["type"] == "value_error":
            found.append(f"{where or whole}: {e['msg'].removeprefix('Value error, ').rstrip('.')}")
        else:
            said = e["msg"].replace("Input should be", "it must be")
            found.append(f"{where or whole}: {said}")
    return listing(found)
