"""Users share a Trainer between threads, fork, close, press Ctrl-C and are killed by their system."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from users import MOMENTUM, batches, mlp, task

import pockgraph as pg
from pockgraph.errors import ArtifactError
from pockgraph.runtime import Trainer
from pockgraph.runtime.command import main

DATA = batches(8, 12, count=4)
Made = Callable[[str], pg.Artifact]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One artefact a target."""
    found: dict[str, pg.Artifact] = {}

    def make(target: str) -> pg.Artifact:
        if target not in found:
            torch.manual_seed(0)
            out = tmp_path_factory.mktemp("made") / target
            graph = pg.build(task(mlp(), DATA), MOMENTUM)
            found[target] = pg.compile(graph, target=target, out=out, parity=False)
        return found[target]

    return make


def states(artifact: pg.Artifact, steps: int) -> list[bytes]:
    """The weights before the first step and after each, of one batch."""
    trainer = artifact.trainer(threads=1)
    found = [packed(trainer.state())]
    for _ in range(steps):
        trainer.step(DATA[0])
        found.append(packed(trainer.state()))
    return found


def packed(state: dict[str, np.ndarray]) -> bytes:
    return b"".join(state[n].tobytes() for n in sorted(state))


def in_threads(*works: Callable[[], None]) -> None:
    """Run all at once; the first error of any is raised here."""
    failed: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=run, args=(w,)) for w in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_four_threads_step_one_trainer_and_no_step_is_lost_or_torn(made: Made, target: str) -> None:
    artifact, each = made(target), 15
    expected = states(artifact, 4 * each)
    trainer = artifact.trainer(threads=1)
    numbers: list[int] = []

    def work() -> None:
        numbers.extend(trainer.step(DATA[0]).step for _ in range(each))

    in_threads(*[work] * 4)
    assert sorted(numbers) == list(range(1, 4 * each + 1))
    assert packed(trainer.state()) == expected[-1]


def test_snapshots_that_are_taken_while_it_trains_are_of_one_step(
    made: Made, target: str, tmp_path: Path
) -> None:
    artifact, steps = made(target), 60
    expected = states(artifact, steps)
    trainer, other = artifact.trainer(threads=1), artifact.trainer(threads=1)
    net, seen = mlp(), []
    done = threading.Event()

    def train() -> None:
        for _ in range(steps):
            trainer.step(DATA[0])
            time.sleep(0.001)
        done.set()

    def snapshots() -> None:
        while not done.is_set():
            assert packed(trainer.state()) in expected
            other.load_checkpoint(trainer.save(tmp_path / "saved"))
            assert packed(other.state()) == expected[other.steps]
            artifact.merge_into(net, trainer)
            assert packed({n: p.detach().numpy() for n, p in net.named_parameters()}) in expected
            trainer.evaluate(DATA[:1])
            seen.append(other.steps)

    in_threads(train, snapshots)
    assert len(seen) > 2


def test_of_two_threads_that_save_to_one_place_the_later_state_stays(made: Made, tmp_path: Path) -> None:
    trainer = made("openvino").trainer(threads=1)

    def work() -> None:
        for _ in range(5):
            trainer.step(DATA[0])
            trainer.save(tmp_path / "saved")

    in_threads(work, work, work)
    other = made("openvino").trainer(threads=1)
    other.load_checkpoint(tmp_path / "saved")
    assert other.steps == 15
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_threads_load_at_once(made: Made, target: str) -> None:
    artifact = made(target)
    expected = states(artifact, 1)[-1]
    found: list[bytes] = []

    def work() -> None:
        with artifact.trainer(threads=1) as trainer:
            trainer.step(DATA[0])
            found.append(packed(trainer.state()))

    in_threads(*[work] * 4)
    assert found == [expected] * 4


def use_in_child(trainer: Trainer, path: Path, answers: multiprocessing.Queue) -> None:
    for use in (
        lambda: trainer.step(DATA[0]),
        lambda: trainer.evaluate(DATA[:1]),
        trainer.state,
        lambda: trainer.save(path),
        trainer.reset,
        lambda: trainer.load_checkpoint(path),
    ):
        try:
            use()
            answers.put("it went on")
        except Exception as e:
            answers.put(f"{type(e).__name__}: {e}")
    trainer.close()
    answers.put("end")


def test_a_forked_process_gets_an_error_for_its_parents_trainer(
    made: Made, target: str, tmp_path: Path
) -> None:
    trainer = made(target).trainer(threads=1)
    trainer.step(DATA[0])
    trainer.save(tmp_path / "saved")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with trainer._lock:  # as another thread may hold it when the process forks
        child = context.Process(target=use_in_child, args=(trainer, tmp_path / "saved", answers), daemon=True)
        child.start()
    said = [answers.get(timeout=60) for _ in range(7)]
    child.join(60)
    assert child.exitcode == 0
    assert said[-1] == "end"
    assert all("ArtifactError" in s and "fork" in s and "spawn" in s for s in said[:-1]), said
    trainer.step(DATA[0])


def test_a_closed_trainer_says_so(made: Made, target: str, tmp_path: Path) -> None:
    with made(target).trainer(threads=1) as trainer:
        trainer.step(DATA[0])
    trainer.close()
    for use in (lambda: trainer.step(DATA[0]), trainer.state, lambda: trainer.save(tmp_path / "x")):
        with pytest.raises(ArtifactError, match=r"was closed\. Load the artefact again"):
            use()


def test_a_step_that_was_interrupted_is_not_saved(
    made: Made, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = made(target).trainer(threads=1)
    trainer.step(DATA[0])
    trainer.save(tmp_path / "saved")
    real = trainer._runner.step

    def interrupted(*args: object) -> float:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer._runner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.step(DATA[0])
    with pytest.raises(ArtifactError, match=r"at step 2 was interrupted.*load_checkpoint"):
        trainer.save(tmp_path / "saved")
    trainer.load_checkpoint(tmp_path / "saved")
    assert packed(trainer.state()) == states(made(target), 1)[-1]


TWO_CLOSED_THEN_A_SIGNAL = """
import gc, os, signal, sys
from pockgraph.runtime import Trainer

first, second = Trainer.load(sys.argv[1]), Trainer.load(sys.argv[1])
first.close()
gc.collect()
second.close()
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(os.name == "nt", reason="no signal stacks")
def test_a_signal_after_trainers_were_closed_in_their_order_is_handled(made: Made, target: str) -> None:
    """OpenVINO's CPU plugin leaves the freed signal stack of one `Core` behind the other."""
    command = [sys.executable, "-c", TWO_CLOSED_THEN_A_SIGNAL, str(made(target).path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n", "")


def use_in_fork(path: Path, answers: Any) -> None:
    for threads in (None, 1):
        try:
            trainer = Trainer.load(path, threads=threads)
            trainer.step(DATA[0])
            answers.put(packed(trainer.state()))
        except ArtifactError as e:
            answers.put(str(e))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_loads_an_artefact_or_says_why_not(made: Made, target: str) -> None:
    """Where the runtime's threads are those of the process, waiting for them would have no end."""
    right = states(made(target), 1)[-1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=use_in_fork, args=(made(target).path, answers), daemon=True)
    child.start()
    any_threads, one_thread = answers.get(timeout=60), answers.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    if target == "onnx":
        assert any_threads == one_thread == right
    else:
        assert "forked" in any_threads
        assert "'spawn'" in any_threads
        assert one_thread == (right if target == "torch" else any_threads)


@pytest.mark.slow
def test_a_hundred_loads_and_closes_leave_nothing_behind(made: Made, target: str) -> None:
    process, sizes = psutil.Process(), []
    for i in range(100):
        with made(target).trainer(threads=1) as trainer:
            trainer.step(DATA[0])
            trainer.evaluate(DATA[:1])
        if i in (29, 99):
            sizes.append((process.memory_info().rss, process.num_threads(), process.num_fds()))
    (rss, threads, files), (rss_after, threads_after, files_after) = sizes
    assert (threads_after, files_after) == (threads, files)
    assert rss_after - rss < 0.05 * rss + 4e6


# ---------------------------------------------------------------- the device's command


def run_device(folder: Path, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pockgraph.runtime", str(folder), "--threads", "1", *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(Path(pg.__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    arrays = {k: np.concatenate([b[k].numpy() for b in DATA]) for k in ("x", "y")}
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_its_system_stops_has_saved(
    made: Made, npz: Path, tmp_path: Path, number: signal.Signals
) -> None:
    saved = tmp_path / "saved"
    run = run_device(
        made("onnx").path, "--data", npz, "--steps", 10**9, "--every", 1, "--save", saved, "--json"
    )
    with run as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["step"] == 1
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (128 + number, "")
    done = json.loads(out.splitlines()[-1])
    trainer = made("onnx").trainer(threads=1)
    trainer.load_checkpoint(saved)
    assert trainer.steps == done["step"] >= 1


def test_a_run_that_is_killed_has_its_last_checkpoint_and_the_next_one_sweeps(
    made: Made, npz: Path, tmp_path: Path
) -> None:
    saved, artifact = tmp_path / "saved", made("onnx")
    args = ("--data", npz, "--every", 1, "--save", saved, "--save-every", 1, "--json")
    with run_device(artifact.path, "--steps", 10**9, *args) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["step"] == 12:
                process.kill()
                break
    trainer = artifact.trainer(threads=1)
    trainer.load_checkpoint(saved)
    assert trainer.steps >= 10
    with run_device(artifact.path, "--steps", 2, "--resume", saved, *args) as process:
        assert process.wait(60) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz", "saved"]
    resumed = artifact.trainer(threads=1)
    resumed.load_checkpoint(saved)
    for step in itertools.count():
        if step == resumed.steps:
            break
        if step == 0:
            trainer.reset()
        trainer.step(DATA[step % len(DATA)])
    assert packed(trainer.state()) == packed(resumed.state())


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1.5", "0s", "s"])
def test_a_save_interval_that_cannot_be_read_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["out", "--data", "data.npz", "--steps", "1", f"--save-every={text}"])
    assert end.value.code == 2
    assert "neither steps (500) nor seconds (60s)" in capsys.readouterr().err
