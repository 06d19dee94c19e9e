"""Shared by all tests: helpers that are importable by name, and runs that repeat exactly.

The process that shares tests out to others reads this file before it starts them: torch is imported where a
test runs.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from compiled_steps import compiled, copied  # noqa: F401 — fixtures of the tests that run artefacts
from hypothesis import settings

pytest.register_assert_rewrite("oracle", "operator_contract", "project_on_disk", "runner_contract", "users")

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # of the runtime that some tests compare with

# The same examples on every machine; a fresh seed belongs to a fuzzing run, not to a gate.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=12)
settings.load_profile("repeatable")

# A shell lets what it starts in the background ignore Ctrl-C, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Of few tests, but long: they start servers and processes, wait for a browser, or train real networks.
LONG = {
    "test_experiment.py", "test_browser.py", "test_field_full_disk.py", "test_field_server.py",
    "test_convolutional.py", "test_cli_project.py", "test_cli_studies.py", "test_demo_tasks.py",
    "test_jobs.py", "test_own_task.py", "test_evidence.py", "test_cluster.py", "test_language.py",
    "test_exported_program.py", "test_workers.py", "test_device_profile.py", "test_policies.py",
    "test_cpp.py",
}  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files go to the processes first, so that none is left alone with one at the end."""
    if hasattr(config, "workerinput"):
        tests = Counter(item.path for item in items)
        items.sort(key=lambda i: (i.path.name not in LONG, -tests[i.path], i.path))


def pytest_collection_finish() -> None:
    """What libraries and the collection made stays: no search for garbage goes through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """No test sees what a disk holds after a power failure; one that is full is played by another `fsync`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        patch.setattr("pockgraph.store.store.SYNCHRONOUS", "OFF")
        patch.setattr("pockgraph.runtime.learner.database.SYNCHRONOUS", "OFF")
        yield


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    import torch

    torch.manual_seed(0)
