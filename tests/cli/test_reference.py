"""What moves a noisy machine is told apart from a step: waiting for a processor, and the machine's state."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from pockgraph.measure import StepFigures, figures_to_json, measure_interleaved
from pockgraph.measure.processor_time import ProcessorTime, net_ms
from pockgraph.measure.reference import Reference, Timing, reference_now

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long threads waited")
# Uses 20 ms of a processor in each of as many threads as it is told to, on the first processor only.
WORKER = """
import os, sys, threading, time
from pockgraph.measure import serve_steps
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

def compute():
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass

def step():
    threads = [threading.Thread(target=compute) for _ in range(int(sys.argv[1]))]
    for t in threads: t.start()
    for t in threads: t.join()

serve_steps(lambda: compute if sys.argv[1] == "1" else step)
"""
BUSY = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


@pytest.fixture
def busy_processor() -> Iterator[None]:
    """Two other processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    yield
    for other in others:
        other.kill()
        other.wait()


def measured(threads: int) -> StepFigures:
    command = (sys.executable, "-c", WORKER, str(threads))
    found = measure_interleaved({"a": command}, blocks=1, steps=8, warmup=1)["a"]
    assert isinstance(found, StepFigures), found
    return found


@LINUX
def test_waiting_for_a_busy_processor_is_no_time_of_the_step(busy_processor: None) -> None:
    found = measured(threads=1)
    assert found.net_time is not None
    assert found.net_time.median_ms == pytest.approx(20, rel=0.2)
    assert found.time.median_ms > 1.5 * found.net_time.median_ms
    assert found.undisturbed == found.net_time


@LINUX
def test_threads_that_wait_for_each_other_are_time_of_the_step() -> None:
    found = measured(threads=2)
    assert found.net_time is not None
    assert found.net_time.median_ms > 35


def test_without_an_account_of_waiting_there_is_no_net_time() -> None:
    assert net_ms(10.0, ProcessorTime(0.0, None), ProcessorTime(5.0, None)) is None
    assert net_ms(10.0, ProcessorTime(0.0, 0.0), ProcessorTime(5.0, 0.0)) == 10.0
    cores = os.cpu_count() or 1
    assert net_ms(10.0, ProcessorTime(0.0, 0.0), ProcessorTime(5.0, 5.0)) == pytest.approx(5.0)
    assert net_ms(10.0, ProcessorTime(0.0, 0.0), ProcessorTime(1.0, 2.0)) == pytest.approx(
        8.0
    )  # it slept, too
    assert net_ms(10.0, ProcessorTime(0.0, 0.0), ProcessorTime(10.0 * cores, 30.0 * cores)) == 10.0


def test_the_reference_is_kept_with_what_was_measured() -> None:
    found = measured(threads=1)
    assert found.reference is not None
    assert found.reference.samples == 4  # before the block and after it
    flat = figures_to_json(found)
    assert flat["step_net_ms"] == found.undisturbed.median_ms
    assert flat["step_per_reference"] == pytest.approx(found.undisturbed.median_ms / found.reference.ms)


def test_the_same_machine_is_in_the_same_state() -> None:
    first = reference_now()
    assert first.change_to(first) == ""
    assert Reference.model_validate_json(first.model_dump_json()) == first


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_another_state_is_told_in_words(factor: float) -> None:
    now = Reference(matmul=timing(1.0 * factor), stream=timing(2.0), samples=20)
    then = Reference(matmul=timing(1.0), stream=timing(2.0), samples=20)
    words = then.change_to(now)
    assert words == f"it computes in {factor:g} ms what took 1 ms ({factor - 1:+.0%})"
    both = then.change_to(Reference(matmul=now.matmul, stream=timing(2.0 * factor), samples=20))
    assert "moves memory" in both


def test_a_change_within_its_own_scatter_is_none() -> None:
    then = Reference(matmul=timing(1.0, scatter=0.3), stream=timing(2.0), samples=20)
    now = Reference(matmul=timing(1.4), stream=timing(2.1), samples=20)
    assert then.change_to(now) == now.change_to(then) == ""


def timing(ms: float, scatter: float = 0.02) -> Timing:
    return Timing.of([ms * (1 + scatter * place) for place in np.linspace(-1, 1, 5)])
