"""Fixtures of the users' cases."""

from __future__ import annotations

import pytest

from pockgraph.targets import target_names

pytest.register_assert_rewrite("users")


@pytest.fixture(params=target_names())
def target(request: pytest.FixtureRequest) -> str:
    """Each target by name."""
    return request.param
