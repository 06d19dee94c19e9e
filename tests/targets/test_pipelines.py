"""What happens to a graph between pruning and writing, target by target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PLANS, built

import pockgraph as pg
from pockgraph.errors import PockError
from pockgraph.ir.graph import Role
from pockgraph.targets import get_target, target_names

SHARED = ["fold_constants", "fold_scale", "guard_indices"]
OWN: list[tuple[str, dict[str, str], list[str]]] = [
    ("onnx", {}, ["legalize", "flatten_update"]),
    ("openvino", {}, ["legalize", "flatten_update"]),
    ("openvino", {"precision": "bf16"}, ["legalize", "flatten_update"]),
    ("torch", {}, ["legalize"]),
    ("torch", {"mode": "compile"}, ["legalize"]),
    ("torch", {"precision": "bf16"}, ["legalize", "lower_precision"]),
]


@pytest.mark.parametrize(("target", "options", "own"), OWN)
def test_a_compilation_prints_and_dumps_every_pass_of_its_target(
    target: str, options: dict[str, str], own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    graph = built("mlp", "momentum")
    small = graph.prune(PLANS["half"](graph))
    monkeypatch.setenv("POCK_DEBUG", "1")
    monkeypatch.setenv("POCK_DUMP", str(tmp_path / "dump"))
    pg.compile(small, target=target, out=tmp_path / "out", options=options, parity=False)
    names = {
        stem: [f"{stem}-{i:02d}-{n}" for i, n in enumerate([*SHARED, *own])] for stem in ("train", "eval")
    }
    printed = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    for stem, steps in names.items():
        assert [line for line in printed if line.startswith(stem)] == steps
    files = sorted((tmp_path / "dump").iterdir())
    assert [f.stem for f in files] == [*names["eval"], *names["train"]]
    for file in files:
        compile(file.read_text(), str(file), "exec")


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("name", ["mobilenet", "transformer"])
def test_a_finished_graph_takes_and_gives_what_its_step_does(name: str, target: str) -> None:
    graph = built(name, "adamw")
    lowering = get_target(target)
    pipeline = lowering.pipeline({})
    start = pipeline.start(graph.prune(PLANS["eighth"](graph)), "train")
    finished = pipeline.finish(start, "train")
    assert not lowering.unsupported(finished)
    assert finished.outputs == start.outputs
    given = lambda g: [s for s in g.inputs if s.is_state or s.role in (Role.BATCH, Role.LR, Role.SEED)]  # noqa: E731
    assert given(finished) == given(start)
    again = pipeline.finish(finished, "train")
    assert again.code() == finished.code(), "it is not done at once"


def test_products_are_in_the_precision_that_is_asked_for() -> None:
    pipeline = get_target("torch").pipeline({"precision": "bf16"})
    graph = pipeline.finish(pipeline.start(built("mlp"), "train"), "train")
    dtypes = {n.meta["val"].dtype for n in graph.nodes("forward") if "mm" in str(n.target)}
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("onnx", {"precision": "bf16"}, r"'onnx' has no option 'precision'"),
        ("openvino", {"precision": "f8"}, r"has no precision 'f8'"),
        ("torch", {"mod": "eager"}, r"Did you mean 'mode'"),
        ("torch", {"mode": "eagr"}, r"Did you mean 'eager'"),
    ],
)
def test_options_are_refused_before_any_pass_runs(
    target: str, options: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    graph = built("mlp")
    monkeypatch.setenv("POCK_DEBUG", "1")
    with pytest.raises(PockError, match=words):
        pg.compile(graph, target=target, out=tmp_path / "out", options=options)
    assert "fold_constants" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
