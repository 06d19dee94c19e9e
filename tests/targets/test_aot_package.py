"""A graph as machine code in a file, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import fx

from pockgraph.errors import ArtifactError, PockError
from pockgraph.ir.graph import aten
from pockgraph.targets.torch.aot_package import compile_package, load_package


def step() -> fx.Graph:
    """w, x -> sum(x·w), and w −= x·w, in place."""
    graph = fx.Graph()
    w, x = graph.placeholder("w"), graph.placeholder("x")
    y = graph.call_function(aten.mm.default, (x, w))
    loss = graph.call_function(aten.sum.default, (y,))
    graph.call_function(aten.copy_.default, (w, graph.call_function(aten.sub.Tensor, (w, y))))
    graph.output((loss,))
    return graph


@pytest.mark.slow  # PyTorch's headers take a C++ compiler most of a minute
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler here")
def test_a_package_updates_its_inputs(tmp_path: Path) -> None:
    path = tmp_path / "train.pt2"
    compile_package(step(), [torch.zeros(3, 3), torch.zeros(3, 3)], path)
    function = load_package(path)
    w, x = torch.randn(3, 3), torch.randn(3, 3)
    expected = w.clone()
    for _ in range(2):
        y = x @ expected
        torch.testing.assert_close(function(w, x)[0], y.sum())
        expected -= y
        torch.testing.assert_close(w, expected)


def test_what_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    with pytest.raises(PockError, match=r"AOTInductor cannot compile train: .* Use mode 'eager'"):
        compile_package(step(), [torch.zeros(3, 3), torch.zeros(2, 2)], tmp_path / "train.pt2")


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.pt2"
    path.write_bytes(b"PK no zip at all")
    with pytest.raises(ArtifactError, match=r"cannot load .*train\.pt2: .* Compile the artefact again"):
        load_package(path)
