"""Fixtures of the users' cases."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from artifact_files import artefact_copy, artefact_of  # noqa: F401  fixtures
from project_on_disk import built, project  # noqa: F401
from study_files import measured, study_file  # noqa: F401

from pockgraph.targets import target_names

HERE = Path(__file__).parent
TARGETS = target_names()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Each target by name; the fast suite takes each test, or each of its cases, to one of them, in turn."""
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files: dict[str, dict[str, dict[str, list[pytest.Function]]]] = {}  # file, test and case
    for item in items:
        chosen = any("target" in mark.args[0] for mark in item.iter_markers("parametrize"))
        if chosen or not isinstance(item, pytest.Function) or not item.path.is_relative_to(HERE):
            continue
        if "target" in item.fixturenames:
            values = [value for name, value in item.callspec.indices.items() if name != "target"]
            tests = files.setdefault(item.path.name, {}).setdefault(item.originalname, {})
            tests.setdefault(str(values), []).append(item)
    for file, tests in files.items():
        for test, cases in enumerate(tests.values(), zlib.crc32(file.encode())):
            for turn, on_each in enumerate(cases.values(), test):
                for item in on_each:
                    if item.callspec.params["target"] != TARGETS[turn % len(TARGETS)]:
                        item.add_marker(pytest.mark.slow)
