"""A learner answers, takes corrections, and promotes weights only where the held-out metric does not fall."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from learning import SETTINGS, kinds, opened, stream
from tiny_task import Compile

import pockgraph
from pockgraph.errors import ArtifactError, BatchError, LearnerError
from pockgraph.runtime import Learner, LearnerBudget, LearnerSettings, Predictor, Trainer

WHOLE = LearnerBudget(duty_ratio=1.0)


@pytest.fixture
def artifact(compiled: Compile) -> Path:
    return compiled("onnx", predict="one").path


@pytest.fixture
def taught(artifact: Path, tmp_path: Path) -> Learner:
    learner = opened(artifact, tmp_path / "learner")
    for sample in stream(60):
        learner.add(sample)
    return learner


def answers(learner: Learner | Predictor, count: int = 6) -> np.ndarray:
    x = np.stack([s["x"] for s in stream(count, seed=9)])
    found = learner.predict({"x": x})
    assert isinstance(found, np.ndarray)
    return found


@pytest.mark.parametrize("target", ["openvino", "onnx", "torch"])
def test_it_gets_better_and_a_restart_goes_on(compiled: Compile, tmp_path: Path, target: str) -> None:
    artifact = compiled(target, predict="one").path
    with opened(artifact, tmp_path / "learner") as learner:
        before = answers(learner)
        for sample in stream(60):
            learner.add(sample)
        assert learner.learn(3) == ["promoted"] * 3
        after, metric, step = answers(learner), learner.status()["metric"], learner.status()["step"]
        assert not np.array_equal(after, before)
        promoted = [e.facts for e in learner.journal() if e.kind == "promoted"]
        assert all(e["metric"] > e["metric_before"] for e in promoted)
        assert promoted[-1]["metric"] == metric
        saved = learner.save(tmp_path / "saved")
    assert np.array_equal(answers(Predictor.load(artifact, saved, threads=1)), after)
    with opened(artifact, tmp_path / "learner") as learner:
        assert np.array_equal(answers(learner), after)
        assert learner.learn() == ["promoted"]
        assert learner.status()["step"] > step


def test_held_out_samples_are_never_trained_on(taught: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: set[bytes] = set()
    step = Trainer.step

    def watched(self, batch, *args, **kwargs):
        trained.update(x.tobytes() for x in batch["x"])
        return step(self, batch, *args, **kwargs)

    monkeypatch.setattr(Trainer, "step", watched)
    taught.learn(2)
    held_out = taught._replay.load(taught._replay.numbers(True)).values()
    assert len(held_out) == taught.status()["held_out_samples"] > 10
    assert trained
    assert not trained & {s["x"].tobytes() for s in held_out}


def test_weights_that_get_worse_are_rolled_back_to_the_bit(
    artifact: Path, taught: Learner, tmp_path: Path
) -> None:
    taught.learn()
    before = answers(taught)
    state = taught._trainer.state()  # pyright: ignore
    taught.close()
    harmful = dataclasses.replace(SETTINGS, lr=30.0, round_steps=3)
    with opened(artifact, tmp_path / "learner", harmful) as learner:
        assert learner.learn(2) == ["rolled back", "waiting"]  # the same samples once more: nothing to gain
        assert np.array_equal(answers(learner), before)
        assert kinds(learner)[-3:] == ["trained", "rolled back", "waiting"]
        trainer = learner._trainer
        assert trainer is not None
        assert all(np.array_equal(a, state[n]) for n, a in trainer.state().items())
        (fell,) = [e.facts for e in learner.journal() if e.kind == "rolled back"]
        assert fell["metric"] < fell["metric_before"]
        learner.add(stream(61)[-1])
        assert learner.learn() == ["rolled back"]
        assert [g.number for g in learner.generations()] == [0, 1]


def test_labels_that_are_wrong_are_not_promoted_against_the_held_out_ones(
    artifact: Path, tmp_path: Path
) -> None:
    """What is trained on contradicts what is held out."""
    with opened(artifact, tmp_path / "learner") as learner:
        for sample, wrong in zip(stream(80), stream(80, shift=2)):
            key = learner.add(sample)
            if not learner._database.read("SELECT held_out FROM samples WHERE key = ?", key)[0][0]:
                learner.add(wrong, key)
        assert "promoted" not in learner.learn(4)
        assert learner.status()["generation"] == 0


@pytest.mark.parametrize(("enough", "outcome"), [(50, "rolled back"), (0, "promoted")])
def test_with_few_held_out_samples_more_must_be_seen(
    artifact: Path, tmp_path: Path, enough: int, outcome: str
) -> None:
    settings = dataclasses.replace(SETTINGS, round_steps=10, enough_held_out=enough)
    with opened(artifact, tmp_path / "learner", settings) as learner:
        for sample in stream(60):
            learner.add(sample)
        assert learner.learn() == [outcome]
        last = [e.facts for e in learner.journal() if e.kind == "trained"][-1]
        assert 0 < last["after"] - last["before"] < last["noise"]


def test_without_enough_held_out_samples_it_waits_and_says_so(artifact: Path, tmp_path: Path) -> None:
    with opened(artifact, tmp_path / "learner") as learner:
        for sample in stream(8):
            learner.add(sample)
        assert learner.learn(3) == ["waiting"]
        learner.learn()
        (event,) = [e for e in learner.journal() if e.kind == "waiting"]  # said once
        assert "10 held-out samples are needed, and there are" in event.facts["reason"]


def test_a_correction_of_the_same_inputs_replaces_them(artifact: Path, tmp_path: Path) -> None:
    with opened(artifact, tmp_path / "learner") as learner:
        (sample,) = stream(1)
        key = learner.add(sample)
        assert learner.add(sample | {"y": (sample["y"] + 1) % 4}) == key
        status = learner.status()
        assert status["training_samples"] + status["held_out_samples"] == 1
        assert learner.delete(key)
        assert not learner.delete(key)
        assert key not in {e.key for e in learner.journal()}
        assert kinds(learner) == ["deleted"]


def test_wrong_samples_change_nothing(taught: Learner) -> None:
    (sample,) = stream(1)
    before = taught.status()
    for wrong, words in (
        ({"x": sample["x"]}, "'y' is missing"),
        (sample | {"y": 7}, "7"),
        (sample | {"x": sample["x"][None]}, "instead of"),
        (sample | {"x": np.full((3, 6, 6), np.nan, np.float32)}, "nan"),
    ):
        with pytest.raises(BatchError, match=words):
            taught.add(wrong)
    for key in ("", "k" * 201, "a\0b", "\ud800", 3):
        with pytest.raises(BatchError, match="key="):
            taught.add(sample, key)  # pyright: ignore
    assert taught.status() == before


def test_a_few_generations_are_kept_and_can_be_gone_back_to(taught: Learner) -> None:
    found = {0: answers(taught)}
    for _ in range(5):
        if taught.learn() == ["promoted"]:
            found[taught.status()["generation"]] = answers(taught)
    kept = taught.generations()
    assert [g.number for g in kept] == [0, *sorted(found)[-3:]]
    assert len(list((taught.folder / "generations").iterdir())) == 3
    for generation in reversed(kept[:-1]):
        assert taught.revert(generation.number) == generation
        assert np.array_equal(answers(taught), found[generation.number])
    with pytest.raises(LearnerError, match=r"no generation 99.*\[0\]"):
        taught.revert(99)
    assert taught.learn() == ["promoted"]
    assert taught.status()["generation"] > max(found)


def test_a_damaged_generation_is_passed_over_and_said(artifact: Path, taught: Learner) -> None:
    taught.learn()
    before = answers(taught)
    taught.learn()
    newest = taught.generations()[-1]
    taught.close()
    assert newest.path is not None
    newest.path.write_bytes(newest.path.read_bytes()[:-50])
    with opened(artifact, taught.folder) as learner:
        assert np.array_equal(answers(learner), before)
        assert kinds(learner)[-1] == "damaged"
        assert learner.learn() == ["promoted"]


def test_drift_is_reported(artifact: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, max_samples=400, min_held_out=300)  # nothing is trained
    with opened(artifact, tmp_path / "learner", settings) as learner:
        found = learner.predict({"x": np.stack([s["x"] for s in stream(160)])})
        assert isinstance(found, np.ndarray)
        labels = found.argmax(1)
        for number, (sample, label) in enumerate(zip(stream(160), labels)):
            turned = label if number < 100 else (label + 2) % 4  # the world changes
            learner.add(sample | {"y": turned})
            if number == 99:
                learner.learn()
                assert "drift" not in kinds(learner)
        learner.learn()
        (event,) = [e for e in learner.journal(1000) if e.kind == "drift"]
        assert event.facts["now"] < event.facts["before"]


def test_answers_go_on_while_it_trains_each_from_one_generation(taught: Learner, artifact: Path) -> None:
    x = np.stack([s["x"] for s in stream(11, seed=9)])  # split into several batches
    seen: list[bytes] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = taught.predict({"x": x})
            assert isinstance(found, np.ndarray)
            seen.append(found.tobytes())

    whole = dataclasses.replace(taught.settings, keep_generations=50)
    taught.close()
    with opened(artifact, taught.folder, whole, budget=WHOLE) as learner:
        taught = learner
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        learner.start()
        with pytest.raises(LearnerError, match="stop"):
            learner.learn()
        fresh = iter(stream(400, seed=5))
        for _ in range(600):
            if learner.status()["generation"] >= 4 and len(set(seen)) > 1:
                break
            learner.add(next(fresh, stream(1)[0]))
            stop.wait(0.02)
        learner.stop()
        stop.set()
        for thread in threads:
            thread.join()
        assert learner.status()["failure"] == ""
        right = set()
        for generation in learner.generations():
            found = Predictor.load(artifact, generation.path, threads=1).predict({"x": x})
            assert isinstance(found, np.ndarray)
            right.add(found.tobytes())
        assert learner.status()["generation"] >= 4
        assert len(set(seen)) > 1
        assert set(seen) <= right


def test_a_round_that_fails_is_said_and_the_next_goes_on(
    artifact: Path, taught: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught.close()
    failed = threading.Event()
    step = Trainer.step

    def failing(self, *args, **kwargs):
        if not failed.is_set():
            failed.set()
            raise BatchError("an index is out of bounds.")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "step", failing)
    with opened(artifact, taught.folder, budget=WHOLE) as learner:
        learner._background._rest = lambda seconds: None
        learner.start()
        for _ in range(600):
            if learner.status()["generation"]:
                break
            threading.Event().wait(0.02)
        assert learner.status()["generation"]
        (event,) = [e for e in learner.journal(1000) if e.kind == "failed"]
        assert event.facts["reason"] == "an index is out of bounds."


@pytest.mark.parametrize("held_out", [True, False])
def test_one_sample_that_the_graph_refuses_does_not_end_all_rounds(
    taught: Learner, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    number = taught._replay.numbers(held_out)[3]
    (bad,) = taught._replay.load([number]).values()
    (row,) = taught._database.read("SELECT key FROM samples WHERE id = ?", number)
    step, evaluate = Trainer.step, Trainer.evaluate

    def check(batch) -> None:
        if any(np.array_equal(x, bad["x"]) for x in batch["x"]):
            raise BatchError("an index that is computed is out of bounds.")

    def checked_step(self, batch, *args, **kwargs):
        check(batch)
        return step(self, batch, *args, **kwargs)

    def checked_evaluate(self, batches):
        for batch in batches:
            check(batch)
        return evaluate(self, batches)

    monkeypatch.setattr(Trainer, "step", checked_step)
    monkeypatch.setattr(Trainer, "evaluate", checked_evaluate)
    with pytest.raises(BatchError, match="computed"):
        taught.learn()
    (event,) = [e for e in taught.journal(1000) if e.kind == "refused"]
    assert event.key == row["key"]
    assert number not in taught._replay.numbers(held_out)
    assert taught.learn() == ["promoted"]
    status = taught.status()
    assert status["training_samples"] + status["held_out_samples"] == 59


def test_a_process_that_ends_while_it_trains_ends_at_once_and_has_no_torch(
    artifact: Path, taught: Learner
) -> None:
    taught.close()
    code = """
import sys
from pathlib import Path
from learning import opened
from pockgraph.runtime import LearnerBudget
learner = opened(Path(sys.argv[1]), Path(sys.argv[2]), budget=LearnerBudget(duty_ratio=1.0))
learner.start()
while not learner.status()["step"]:
    pass
assert "torch" not in sys.modules
"""
    here = os.pathsep.join([str(Path(pockgraph.__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code, artifact, taught.folder],
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    with opened(artifact, taught.folder) as learner:
        assert learner.status()["generation"]


def test_a_full_disk_changes_nothing(taught: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    before, accepted = answers(taught), list[str]()
    pages = taught._database.read("PRAGMA page_count")[0][0]
    taught._database.read(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LearnerError, match=r"full.*has room"):
        _fill(taught, accepted)
    assert kinds(taught) == []
    assert [e.key for e in taught.journal(1000)][60:] == accepted
    assert taught.status()["training_samples"] + taught.status()["held_out_samples"] == 60 + len(accepted)
    taught._database.read("PRAGMA max_page_count = 1000000")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ArtifactError, match=r"(?i)no space left"):
            taught.learn()
    assert np.array_equal(answers(taught), before)
    assert taught.status()["generation"] == 0
    assert list((taught.folder / "generations").iterdir()) == []
    assert taught.learn() == ["promoted"]


def _fill(learner: Learner, accepted: list[str]) -> None:
    for sample in stream(130, seed=3):
        accepted.append(learner.add(sample))


def full(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_fork_is_refused(taught: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as a child of this process finds it
    for call in (lambda: taught.add(stream(1)[0]), taught.status, lambda: answers(taught)):
        with pytest.raises((LearnerError, ArtifactError), match="fork"):
            call()


def test_a_folder_is_one_artefacts_and_one_learners(
    taught: Learner, compiled: Compile, tmp_path: Path
) -> None:
    with pytest.raises(LearnerError, match="in use by another learner"):
        opened(taught.artifact, taught.folder)
    taught.close()
    taught.close()
    for call in (taught.learn, taught.start, lambda: answers(taught), lambda: taught.add(stream(1)[0])):
        with pytest.raises(LearnerError, match="closed"):
            call()
    with pytest.raises(LearnerError, match="belongs to another artefact"):
        opened(compiled("onnx", plan="head", predict="one").path, taught.folder)
    with pytest.raises(LearnerError, match=r"made with held_out_ratio 0\.3, not 0\.5"):
        opened(taught.artifact, taught.folder, LearnerSettings(held_out_ratio=0.5))
    with pytest.raises(LearnerError, match=r"label='z'.*Those of task 'tiny' are: y"):
        opened(taught.artifact, tmp_path / "other", LearnerSettings(label="z"))
    with pytest.raises(LearnerError, match=r"room for 2 samples of 440 bytes.*at least 3520"):
        opened(taught.artifact, tmp_path / "other", LearnerSettings(max_bytes=1000))
    opened(taught.artifact, taught.folder).close()


def test_without_a_prediction_it_learns_and_says_how_to_answer(compiled: Compile, tmp_path: Path) -> None:
    with opened(compiled("onnx").path, tmp_path / "learner") as learner:
        for sample in stream(60):
            learner.add(sample)
        assert learner.learn() == ["promoted"]
        with pytest.raises(ArtifactError, match="predict=lambda"):
            answers(learner)
