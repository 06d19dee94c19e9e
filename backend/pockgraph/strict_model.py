"""The base of what files hold and people make, too: checked, immutable, without unknown fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from .errors import PockError, violations


def _require_whole(value: Any) -> Any:
    if isinstance(value, bool | float | str | bytes):
        raise ValueError("it must be a whole number")
    return value


# Neither True nor "0" nor 1.0, which pydantic would take; NumPy's integers are numbers like Python's.
only_whole = BeforeValidator(_require_whole)
Whole = Annotated[int, only_whole]


class Strict(BaseModel):
    """A pydantic model that refuses, when called with bad values, in this project's words.

    Attributes:
        refusal: the error that it raises then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    refusal: ClassVar[type[PockError]] = PockError

    if not TYPE_CHECKING:  # the fields are the arguments, as type checkers know

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as e:
                name = type(self).__name__
                raise self.refusal(
                    f"{name}(…) cannot take these values: {violations(e, name)}. "
                    f"help({name}) says what belongs there."
                ) from None

        # Else pydantic calls it for parts of a whole, whose error would not say which part.
        __init__.__pydantic_base_init__ = True
