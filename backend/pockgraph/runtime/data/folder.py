"""What folders of samples have in common: a file `data.json` that says what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from ...errors import BatchError, PockError, reason, violations
from ...files import parse_json, read_text
from ...strict_model import Strict

INDEX = "data.json"
MAX_INDEX_BYTES = 1 << 26


class Index(Strict):
    """What `data.json` holds."""

    refusal: ClassVar[type[PockError]] = BatchError

    @classmethod
    def parse(cls, folder: Path, index: dict[str, Any]) -> Self:
        """Validate what `read_index` read.

        Raises:
            BatchError: naming what is wrong in the file.
        """
        try:
            return cls.model_validate_json(json.dumps(index), strict=True)
        except ValidationError as e:
            raise BatchError(f"{folder / INDEX} is not valid: {violations(e, 'file')}. Correct it.") from None


def read_index(folder: Path) -> dict[str, Any]:
    """The JSON object of `folder/data.json`.

    Raises:
        BatchError: there is none, or it is none.
    """
    path = folder / INDEX
    try:
        found = parse_json(read_text(path, MAX_INDEX_BYTES))
    except FileNotFoundError:
        raise BatchError(
            f"{folder} has no {INDEX}, which says what a folder of data holds. Pass one that `pockui data` "
            "wrote, or write that file for a folder of images: docs/training.md, 'Data for a device'."
        ) from None
    except (OSError, ValueError) as e:
        raise BatchError(f"Cannot read {path}: {reason(e)}. Correct it, or write the folder again.") from None
    if not isinstance(found, dict):
        raise BatchError(f"{path} holds no JSON object. Write one, as docs/training.md shows.")
    return found
