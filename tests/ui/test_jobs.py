"""Background work: planning in threads, training in processes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pockgraph.errors import BudgetError
from pockui.jobs import Jobs, Latest
from pockui.train_job import TrainSpec

WORKER = "pockui.train_job"


@pytest.fixture
def jobs():
    made = Jobs()
    yield made
    made.shutdown()


def _wait(until, seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _workers_find_tasks(worker_finds_task: None) -> None:
    """`echo_worker` and `ui_task` can be imported."""


def test_events_arrive_in_order_and_listeners_are_told(jobs) -> None:
    called = []
    job = jobs.start(
        "run", "echo_worker", {"events": [{"kind": "a", "n": 1}, {"kind": "b"}, {"kind": "a", "n": 2}]}
    )
    forget = job.listen(lambda: called.append(1))
    assert job.wait(20) == "done"
    assert [e["kind"] for e in job.events] == ["a", "b", "a"]
    assert job.last("a") == {"kind": "a", "n": 2}
    assert job.last("c") is None
    assert called
    forget()
    assert jobs.get(job.id) is job
    assert jobs.get("unknown") is None


def test_cancel_kills_within_a_second(jobs) -> None:
    job = jobs.start("run", "echo_worker", {"events": [{"kind": "a"}], "forever": True})
    _wait(lambda: job.last("a"))
    start = time.monotonic()
    job.cancel()
    assert job.status == "cancelled"
    job._process.wait(timeout=1)
    assert time.monotonic() - start < 1
    assert job.error == ""


def test_a_worker_that_is_given_time_tells_its_last_and_one_that_does_not_end_is_killed(jobs) -> None:
    willing = jobs.start("run", "echo_worker", {"events": [{"kind": "a"}], "last": {"kind": "z"}})
    deaf = jobs.start("run", "echo_worker", {"events": [{"kind": "a"}], "forever": True})
    _wait(lambda: willing.last("a") and deaf.last("a"))
    for job, wait_s in ((willing, 20.0), (deaf, 0.5)):
        job.cancel(wait_s)
        assert job.status == "cancelled"
        assert job.error == ""
    _wait(lambda: willing.last("z"))
    deaf._process.wait(timeout=10)
    assert (willing.status, deaf.status) == ("cancelled", "cancelled")


def test_an_error_event_is_told_as_it_is(jobs) -> None:
    spec = {"events": [{"kind": "error", "message": "Use a lower lr."}], "code": 1}
    job = jobs.start("run", "echo_worker", spec)
    assert job.wait(20) == "failed"
    assert job.error == "Use a lower lr."


def test_a_crash_shows_the_last_words(jobs) -> None:
    job = jobs.start("run", "echo_worker", {"crash": "out of luck"})
    assert job.wait(20) == "failed"
    assert "ended with code 1" in job.error
    assert "out of luck" in job.error


def test_shutdown_ends_what_still_runs(jobs) -> None:
    job = jobs.start("run", "echo_worker", {"forever": True})
    jobs.shutdown()
    assert job.status == "cancelled"


def test_a_run_reports_losses_metric_and_result(jobs, state, tmp_path) -> None:
    spec = TrainSpec(
        reference="ui_task:task", plan=state.plan.to_json(), target="torch", out=str(tmp_path / "artifact"),
        steps=5, lr=0.05, measure=False,
    )  # fmt: skip
    job = jobs.start("run", WORKER, spec.to_dict())
    assert job.wait(60) == "done", job.error
    assert [e["when"] for e in job.events if e["kind"] == "metric"] == ["before", "after"]
    result = job.last("result")
    assert [step for step, _ in result["losses"]] == [1, 2, 3, 4, 5]
    assert Path(result["checkpoint"]).is_file()
    assert (tmp_path / "artifact" / "manifest.json").is_file()


def test_the_worker_tells_errors_and_ends_with_the_server(jobs, state, tmp_path) -> None:
    spec = TrainSpec(
        reference="ui_task:tusk", plan=state.plan.to_json(), target="torch", out=str(tmp_path / "a"), steps=5
    )
    wrong = jobs.start("run", WORKER, spec.to_dict())
    left = jobs.start("run", WORKER, replace(spec, reference="ui_task:task", steps=10**6).to_dict())
    assert wrong.wait(60) == "failed"
    assert "Did you mean 'task'" in wrong.error
    _wait(lambda: left.last("loss"))
    left._process.stdin.close()  # what the system does when the server is gone
    assert left._process.wait(timeout=20) != 0
    _wait(lambda: left.last("stopped"))
    assert Path(left.last("stopped")["checkpoint"]).is_file()


def test_only_the_newest_of_many_requests_is_computed() -> None:
    gate, answers, computed = threading.Event(), [], []
    with ThreadPoolExecutor(1) as pool:
        latest = Latest(pool)

        def compute(i: int) -> int:
            gate.wait(5)
            computed.append(i)
            return i

        for i in range(5):
            latest.submit(lambda i=i: compute(i), answers.append)
            time.sleep(0.02)
        gate.set()
        _wait(lambda: 4 in answers)
    assert computed == [0, 4]
    assert answers == [0, 4]


def test_an_expected_error_is_an_answer_and_a_bug_does_not_block() -> None:
    answers = []
    with ThreadPoolExecutor(1) as pool:
        latest = Latest(pool)

        def fail(error: Exception) -> None:
            raise error

        latest.submit(lambda: fail(BudgetError("too small")), answers.append)
        _wait(lambda: answers)
        latest.submit(lambda: fail(ZeroDivisionError("a bug")), answers.append)
        time.sleep(0.1)
        latest.submit(lambda: "fine", answers.append)
        _wait(lambda: len(answers) == 2)
    assert isinstance(answers[0], BudgetError)
    assert answers[1] == "fine"
