"""Fixtures of the users' cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from artefact_files import artefact_copy, artefact_of  # noqa: F401  fixtures
from project_on_disk import built, project  # noqa: F401
from study_files import measured, study_file  # noqa: F401

from pockgraph.targets import target_names

HERE = Path(__file__).parent
TARGETS = target_names()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Each target by name; of a test's own cases the fast suite takes each to one of them, in turn."""
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: dict[tuple[Path, str], dict[str, list[pytest.Item]]] = {}
    for item in items:
        chosen = any("target" in mark.args[0] for mark in item.iter_markers("parametrize"))
        if chosen or not isinstance(item, pytest.Function) or not item.path.is_relative_to(HERE):
            continue
        if "target" in item.fixturenames and hasattr(item, "callspec"):
            values = [value for name, value in item.callspec.indices.items() if name != "target"]
            cases.setdefault((item.path, item.originalname), {}).setdefault(str(values), []).append(item)
    for turn, of_one_test in enumerate(cases.values()):
        for number, on_each in enumerate(of_one_test.values() if len(of_one_test) > 1 else ()):
            for item in on_each:
                if item.callspec.params["target"] != TARGETS[(turn + number) % len(TARGETS)]:
                    item.add_marker(pytest.mark.slow)
