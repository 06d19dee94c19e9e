"""Who is told how far an analysis is: a function, a bar, or nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from shapes_task import QUICK, QUICK_COUNT

from pockgraph.contribution import Progress
from pockgraph.errors import PockError, StudyError
from pockgraph.notebook_progress import told
from pockgraph.study import Study


def test_a_bar_counts_measurements_and_a_terminal_has_one_on_request(study: Study, capsys) -> None:
    study.analyze(**QUICK, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.split("\r")[-1]
    assert last.startswith("Measuring contribution: 100%")
    assert f"{QUICK_COUNT}/{QUICK_COUNT}" in last
    study.analyze(**QUICK)
    study.analyze(**QUICK, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_bar_follows_a_total_that_changes_and_names_what_is_done(capsys) -> None:
    with told(True, "Working") as tell:
        assert tell is not None
        tell(Progress(2, 8, "stem.weight", 75.0))
        tell(Progress(4, 5, "head", None))
    shown = capsys.readouterr().err
    assert "stem.weight, 01:15 left" in shown
    assert "80%" in shown
    assert "4/5" in shown
    assert shown.split("\r")[-1].rstrip().endswith("head]")


def test_in_a_notebook_the_bar_comes_by_itself_unless_unwanted(monkeypatch) -> None:
    made: list[str] = []

    @contextmanager
    def bar(description: str) -> Iterator[None]:
        made.append(description)
        yield None

    monkeypatch.setattr("pockgraph.notebook_progress._bar", bar)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", sys)
    for progress in (False, print):
        with told(progress, "unwanted") as tell:
            assert tell is (progress or None)
    assert made == []
    with told(None, "wanted"):
        assert made == ["wanted"]
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with told(None, "nothing to show it with") as tell:
        assert tell is None


def test_what_is_no_progress_and_a_bar_without_its_package_are_refused(study: Study, monkeypatch) -> None:
    with pytest.raises(StudyError, match=r"progress='yes' cannot be called.*True for a bar"):
        study.analyze(**QUICK, progress="yes")  # pyright: ignore
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(PockError, match=r"needs the package tqdm.*progress=False"):
        study.analyze(**QUICK, progress=True)
