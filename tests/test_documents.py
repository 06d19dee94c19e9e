"""What we show people runs: README's example, and the notebooks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def test_the_readme_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[0]
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    before, after = map(float, re.findall(r"modelled peak ([\d.]+) -> ([\d.]+) MB", printed)[0])
    assert after < before
    assert float(re.findall(r"accuracy ([\d.]+)", printed)[0]) > 0.7  # of ten classes, after a hundred steps


def test_the_example_of_options_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.S)
    example = "\n".join(blocks)
    names: dict[str, object] = {}
    exec(compile(example, "training.md", "exec"), names)
    *checks, deviation = capsys.readouterr().out.splitlines()
    assert len(checks) == 3
    assert all("lowers everything" in line for line in checks)
    assert float(deviation) < 1e-4
    losses = names["losses"]
    assert isinstance(losses, list)
    assert losses


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
