"""What a test needs that a machine may lack."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, required: str) -> NoReturn:
    """Skip, or fail where the environment variable `required` says that the test must run.

    Args:
        what: is missing, in words.
    """
    if os.environ.get(required):
        pytest.fail(f"{required} is set, and {what}")
    pytest.skip(what)
