"""Fixtures of the users' cases."""

from __future__ import annotations

import pytest
from artefact_files import artefact_copy, artefact_of  # noqa: F401  fixtures
from project_on_disk import built, project  # noqa: F401
from study_files import measured, study_file  # noqa: F401

from pockgraph.targets import target_names


@pytest.fixture(params=target_names())
def target(request: pytest.FixtureRequest) -> str:
    """Each target by name."""
    return request.param
