"""What we show people runs: README's example, and the notebooks."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from tiny_task import Compile

from pockgraph.runtime import Learner, LearnerError

ROOT = Path(__file__).parents[1]


def test_the_readme_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(_blocks("README.md")[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    before, after = map(float, re.findall(r"modelled peak ([\d.]+) -> ([\d.]+) MB", printed)[0])
    assert after < before
    assert float(re.findall(r"accuracy ([\d.]+)", printed)[0]) > 0.7  # of ten classes, after a hundred steps


def test_the_example_of_options_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = "\n".join(_blocks("docs/training.md"))
    names: dict[str, object] = {}
    exec(compile(example, "training.md", "exec"), names)
    *checks, deviation = capsys.readouterr().out.splitlines()
    assert len(checks) == 3
    assert all("lowers everything" in line for line in checks)
    assert float(deviation) < 1e-4
    losses = names["losses"]
    assert isinstance(losses, list)
    assert losses


def test_the_examples_of_a_learner_run(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").symlink_to(compiled("onnx", predict="one").path)
    draw = np.random.default_rng(0)
    images = draw.normal(size=(30, 3, 6, 6)).astype(np.float32)
    corrections = itertools.cycle([None, 0, 1, 2, 3])
    given = {
        "x": images[0], "arriving": lambda: images, "ask": lambda answer: next(corrections),
        "on_battery": lambda: False, "nobody_is_here": lambda: True, "too_hot": lambda: None,
    }  # fmt: skip
    (readme,) = (b for b in _blocks("README.md") if "Learner.open" in b)
    names = dict(given)
    exec(compile(readme, "README.md", "exec"), names)
    status = names["learner"].status  # pyright: ignore
    with pytest.raises(LearnerError, match="closed"):
        status()
    assert capsys.readouterr().out == "0\n"
    with Learner.open("out", "learner", threads=1) as learner:
        held = learner.status()
        assert held["training_samples"] + held["held_out_samples"] == 24
    exec(compile(_blocks("docs/learning.md")[0], "learning.md", "exec"), dict(given))
    assert "deleted" in capsys.readouterr().out


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


@each_notebook
def test_notebooks_are_short_titled_listed_and_without_outputs(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "clear the outputs"
    assert content.cells[0].source.startswith("# ")
    assert len(code) <= 14
    assert max(len(cell.source.splitlines()) for cell in code) <= 45
    assert f"({notebook.name})" in (ROOT / "notebooks" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_notebook
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    NotebookClient(content, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    if any(".analyze(" in cell.source for cell in content.cells):
        states = json.dumps(content.metadata.widgets, ensure_ascii=False)
        assert re.search(r"Measuring\scontribution:\s+100%", states), "no progress bar"
