"""Writing the folder, all or nothing; and bringing trained tensors home."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_task import CHOICES, Compile, Net, batches, make_graph, make_plan
from torch import nn

from pockgraph.artifact import Artifact
from pockgraph.artifact.compiler import compile as compile_graph
from pockgraph.errors import ArtifactError, PlanError
from pockgraph.optimizer import SGD
from pockgraph.plan import Plan
from pockgraph.runtime import Trainer, register_target
from pockgraph.targets.torch.target import Torch
from pockgraph.task import Task
from pockgraph.train_graph.builder import build


def write(out: Path, plan: str = "sparse") -> Artifact:
    return compile_graph(make_graph(), Plan.of(make_graph(), CHOICES[plan]), target="torch", out=out)


# ---------------------------------------------------------------- writing


def test_an_artefact_says_what_it_holds(compiled: Compile) -> None:
    artifact = Artifact.load(compiled("torch").path)
    manifest = artifact.manifest
    assert artifact.plan == make_plan()
    assert (manifest.task, manifest.target, manifest.optimizer["name"]) == ("tiny", "torch", "sgd")
    assert manifest.batch["x"].shape == (8, 3, 6, 6)
    assert [s.name for s in manifest.eval.outputs] == ["metric"]
    assert list(manifest.partial) == ["conv2.weight"]
    assert {"pockui", "torch", "openvino"} <= manifest.versions.keys()
    assert manifest.predicted["peak_bytes"] > manifest.predicted["extra_bytes"] > 0
    assert artifact.nbytes > 0
    assert "4 of 8 tensors" in repr(artifact)


def test_slots_have_the_graphs_names(compiled: Compile) -> None:
    manifest = compiled("torch", "sparse", "adamw").manifest
    small = make_graph("adamw").prune(make_plan("sparse", "adamw"))
    assert {s.name for s in small.state_slots} == {s.name for s in manifest.train.state}
    assert {s.name for s in small.outputs} == {s.name for s in manifest.train.outputs}
    assert {s.next_name for s in manifest.train.state} < {s.name for s in manifest.train.outputs}


def test_an_artefact_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "out").trainer().save(tmp_path / "saved")
    replaced = write(tmp_path / "out", "head")
    assert list(replaced.plan.tensors) == list(CHOICES["head"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "saved"]
    assert not (tmp_path / "out" / "last_checkpoint").exists()


def test_files_are_as_readable_as_the_users_others(tmp_path: Path) -> None:
    artifact = write(tmp_path / "out")
    saved = artifact.trainer().save(tmp_path / "saved")
    (tmp_path / "other").touch()
    expected = (tmp_path / "other").stat().st_mode
    files = [artifact.path / name for name in (*artifact.manifest.files, "manifest.json")]
    assert {p.stat().st_mode for p in (*files, saved)} == {expected}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out").trainer()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="is not empty and holds no artefact; nothing was written"):
        write(out)
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    write(out)
    write(out).trainer().save(out / "my.checkpoint")
    with pytest.raises(ArtifactError, match=r"holds my\.checkpoint beside an artefact"):
        write(out)
    with pytest.raises(ArtifactError, match="is not a folder"):
        write(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (out / "my.checkpoint").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_another_artefact_is_kept_where_the_caller_asks_for_that(tmp_path: Path) -> None:
    out = write(tmp_path / "out").path

    def recompile(kind: str, target: str = "torch") -> Artifact:
        plan = Plan.of(make_graph(), CHOICES[kind])
        return compile_graph(make_graph(), plan, target=target, out=out, parity=False, replace=False)

    recompile("sparse")
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match=r"another artefact: it trains .*replace=True \(--replace\)"):
        recompile("head")
    with pytest.raises(ArtifactError, match="its target is torch, not onnx"):
        recompile("sparse", target="onnx")
    assert (out / "manifest.json").read_bytes() == before
    (out / "plan.json").write_text("{}")
    with pytest.raises(ArtifactError, match="a damaged artefact"):
        recompile("sparse")
    assert list(tmp_path.iterdir()) == [out]


def test_an_artefact_that_somebody_else_wrote_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, out, real = write(tmp_path / "other", "head").path, tmp_path / "out", Torch.write

    def write_slowly(self: Torch, graph, folder, stem, options) -> None:
        real(self, graph, folder, stem, options)
        if other.exists():
            other.rename(out)

    monkeypatch.setattr(Torch, "write", write_slowly)
    with pytest.raises(ArtifactError, match="another artefact"):
        compile_graph(make_graph(), make_plan(), target="torch", out=out, parity=False, replace=False)
    assert list(Artifact.load(out).plan.tensors) == list(CHOICES["head"])
    assert list(tmp_path.iterdir()) == [out]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Torch.write

    def fail(self, graph, folder, stem, options) -> None:
        real(self, graph, folder, stem, options)
        if stem == "eval":
            raise OSError(28, "No space left on device")

    write(tmp_path / "old", "head")
    monkeypatch.setattr(Torch, "write", fail)
    for name in ("old", "new"):
        with pytest.raises(ArtifactError, match="no space left"):
            write(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert list(Artifact.load(tmp_path / "old").plan.tensors) == list(CHOICES["head"])


def test_an_error_while_it_is_written_names_the_folder_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self, graph, folder, stem, options) -> None:
        raise ArtifactError(f"{folder / stem} cannot be compiled. Choose another target.")

    monkeypatch.setattr(Torch, "write", fail)
    with pytest.raises(ArtifactError) as caught:
        write(tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'out' / 'train'} cannot")


def test_a_failed_swap_restores_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", "head")
    real, calls = os.rename, []

    def fail_second(source, target) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("the second rename fails")
        real(source, target)

    monkeypatch.setattr("pockgraph.files._swap", lambda a, b: False)
    monkeypatch.setattr("os.rename", fail_second)
    with pytest.raises(ArtifactError, match="the second rename fails"):
        write(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert list(Artifact.load(tmp_path / "out").plan.tensors) == list(CHOICES["head"])


def test_a_killed_write_leaves_the_old_artefact(tmp_path: Path) -> None:
    write(tmp_path / "out", "head")
    code = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/runtime"]
from pockgraph.targets.torch import Torch
real = Torch.write
def die(self, graph, folder, stem, options):
    real(self, graph, folder, stem, options)
    if stem == "eval":
        os.kill(os.getpid(), signal.SIGKILL)
Torch.write = die
from pathlib import Path
from test_runtime_artifact import write
write(Path(sys.argv[2]) / "out")
write(Path(sys.argv[2]) / "new")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "new").exists()
    assert list(Artifact.load(tmp_path / "out").plan.tensors) == list(CHOICES["head"])
    write(tmp_path / "out")  # what the kill left behind is in nobody's way
    Artifact.load(tmp_path / "out").trainer()


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d | {"schema": "pockui.artifact/9"}, "has schema 'pockui.artifact/9'; this version"),
        (lambda d: [d], "has schema None"),
        (lambda d: d | {"surprise": 1}, "surprise"),
        (lambda d: d | {"files": {"../../etc/passwd": d["files"]["plan.json"]}}, "not a plain file name"),
        (lambda d: d | {"files": {"nul\0l": d["files"]["plan.json"]}}, "not a plain file name"),
        (lambda d: d | {"files": {"x" * 300: d["files"]["plan.json"]}}, "not a plain file name"),
        (lambda d: d | {"files": {}}, "plan.json is not listed"),
        (lambda d: d | {"target": "opnvino"}, "Did you mean 'openvino'"),
    ],
)
def test_a_wrong_manifest_is_refused(copied: Callable[..., Path], change: Callable, words: str) -> None:
    folder = copied("torch")
    path = folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ArtifactError, match=words):
        Trainer.load(folder)


def test_a_target_that_is_registered_runs_its_artefacts(
    copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("torch")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"target": "torch"', '"target": "another"'))
    with pytest.raises(ArtifactError, match="target 'another', which this version cannot run"):
        Trainer.load(folder)
    monkeypatch.setattr("pockgraph.runtime.runner._MODULES", {})
    register_target("another", "pockgraph.targets.torch.runner")
    assert Trainer.load(folder, threads=1).step(batches(1)[0]).step == 1


def test_what_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no artefact folder"):
        Trainer.load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        Artifact(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(ArtifactError, match=r"Cannot read .*manifest\.json"):
        Artifact(tmp_path)


# ---------------------------------------------------------------- merging


def merged(artifact: Artifact, state=None) -> dict[str, np.ndarray]:
    """The parameters that merging changed."""
    net, before = Net(), dict(Net().named_parameters())
    artifact.merge_into(net, state)
    return {n: p.detach().numpy() for n, p in net.named_parameters() if not torch.equal(p, before[n])}


def test_merging_what_was_trained_last(copied: Callable[..., Path], tmp_path: Path) -> None:
    artifact = Artifact.load(copied("openvino"))
    (artifact.path / "last_checkpoint").unlink(missing_ok=True)
    trainer = artifact.trainer(threads=1)
    with pytest.raises(ArtifactError, match="Nothing was trained"):
        merged(artifact)

    trainer.step(batches(1)[0])
    trainer.save(tmp_path / "one step")
    after_one = trainer.state()
    trainer.step(batches(1)[0])
    after_two = trainer.state()

    def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
        assert found.keys() == CHOICES["sparse"].keys()
        assert all(np.array_equal(found[n], expected[n]) for n in expected)

    check(merged(artifact), after_two)
    check(merged(artifact, trainer), after_two)
    check(merged(artifact, after_two), after_two)
    check(merged(artifact, tmp_path / "one step"), after_one)
    del trainer
    gc.collect()
    check(merged(artifact), after_one)
    (tmp_path / "one step").unlink()
    with pytest.raises(ArtifactError, match="There is no file"):
        merged(artifact)


def test_merging_into_another_model_is_refused(compiled: Compile) -> None:
    artifact = compiled("torch")
    state = artifact.trainer().state()
    other = Net()
    other.head = nn.Linear(6, 5)
    other.extra = nn.Linear(2, 2)
    with pytest.raises(PlanError) as e:
        artifact.merge_into(other, state)
    assert "extra.weight" in str(e.value)
    assert "head.weight (4, 6) -> (5, 6)" in str(e.value)
    with pytest.raises(ArtifactError, match="no parameter or buffer nose"):
        artifact.merge_into(Net(), {"nose": np.zeros(3)})
    with pytest.raises(ArtifactError, match=r"head.bias \(3,\) instead of \(4,\)"):
        artifact.merge_into(Net(), {"head.bias": np.zeros(3)})
    with pytest.raises(ArtifactError, match="runs another artefact"):
        artifact.merge_into(Net(), compiled("torch", "head").trainer())


class Odd(nn.Module):
    """Has a parameter that is not used, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_merging_knows_unused_and_tied_tensors(tmp_path: Path) -> None:
    data = [(torch.randn(5, 4), torch.randn(5, 4))]
    task = Task(
        "odd",
        Odd(),
        lambda m, b: (m(b[0]) - b[1]).square().mean(),
        lambda m, b: -(m(b[0]) - b[1]).square().mean(1),
        data,
        data,
    )
    graph = build(task)
    artifact = compile_graph(graph, Plan.full(graph), target="torch", out=tmp_path / "out")
    trainer = artifact.trainer(threads=1)
    trainer.step(tuple(t.numpy() for t in data[0]))
    net = Odd()
    artifact.merge_into(net)
    assert net.first.weight is net.second.weight
    values = {k: v.numpy() for k, v in net.state_dict().items()}
    assert all(np.array_equal(values[k], v) for k, v in trainer.state().items())
    assert trainer.evaluate(data).samples == 5


# ---------------------------------------------------------------- loading


_LOAD = """
import sys
from pockgraph.runtime import Trainer
from pockgraph.runtime.process_memory import peak_resident_bytes, reset_peak, resident_bytes
from pockgraph.runtime.runner import import_runtime
import_runtime(sys.argv[1], "onnx")
reset_peak()
trainer = Trainer.load(sys.argv[1], threads=1)
print(peak_resident_bytes() - resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux says of a process's memory")
def test_loading_holds_no_second_copy_of_the_state(tmp_path: Path) -> None:
    """Weights and momentum are 67 MB; of them a device has to hold what it trains with, and no more."""
    net = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(8)))
    batch = {"x": torch.zeros(1, 1024)}
    task = Task(
        "wide", net, lambda m, b: m(b["x"]).square().mean(), lambda m, b: m(b["x"])[:, 0], [batch], [batch]
    )
    graph = build(task, SGD(lr=0.1, momentum=0.9))
    compile_graph(graph, target="onnx", out=tmp_path / "out", parity=False)
    command = [sys.executable, "-c", _LOAD, str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 20e6
