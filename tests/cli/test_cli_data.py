"""A task's data as a file, and a device that trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from projects import Cli  # pyright: ignore

STREAM = """
import itertools
import my_project
from dataclasses import replace



def batches():
    return itertools.cycle(my_project.task().train)


endless = replace(my_project.task(), train=batches)
"""


def test_an_artefact_trains_on_a_tasks_data_from_a_file(project: Path, cli: Cli) -> None:
    written = cli("data", "my_project:task", "--out", "data.npz", "--json")
    assert written.code == 0, written.err
    assert written.json["arrays"]["x"] == {"shape": [96, 1, 8, 8], "dtype": "float32"}
    import my_project  # pyright: ignore

    first = np.concatenate([b["x"] for b in my_project.task().epoch(0)])
    with np.load("data.npz") as file:
        assert sorted(file) == ["x", "y"]
        np.testing.assert_array_equal(file["x"], first)
    assert cli("data", "my_project:task", "--split", "eval", "--out", "test.npz").code == 0
    made = cli(
        "compile", "my_project:task", "--plan", "head", "--target", "torch", "--out", "out", "--no-parity"
    )
    assert made.code == 0, made.err
    by_file = cli("train", "out", "--data", "data.npz", "--steps", 6, "--eval", "test.npz", "--json")
    by_task = cli("train", "out", "my_project:task", "--steps", 6, "--json")
    assert by_file.code == 0, by_file.err
    for figure in ("loss", "first_loss", "metric", "samples"):
        assert by_file.json[figure] == by_task.json[figure]


def test_data_that_has_no_end_or_is_not_there(project: Path, cli: Cli) -> None:
    Path("streams.py").write_text(STREAM)
    refused = cli("data", "streams:endless")
    assert refused.code == 2
    assert "--batches N" in refused.err
    assert not Path("data.npz").exists()
    short = cli("data", "streams:endless", "--batches", 2, "--json")
    assert short.code == 0, short.err
    assert short.json["arrays"]["y"]["shape"] == [16]
    assert "'trian'" in cli("data", "my_project:task", "--split", "trian").err
    lost = cli("data", "my_project:task", "--out", "my_project.py/data.npz")
    assert lost.code == 2
    assert "Cannot write" in lost.err


def test_shards_are_written_for_a_stream_and_trained_on(project: Path, cli: Cli) -> None:
    Path("streams.py").write_text(STREAM)
    file = cli("data", "streams:endless", "--batches", 7)
    assert file.code == 0, file.err
    written = cli("data", "streams:endless", "--batches", 7, "--out", "shards/", "--json")
    assert written.code == 0, written.err
    assert written.json["arrays"]["x"] == {"shape": [56, 1, 8, 8], "dtype": "float32"}
    assert written.json["shards"] == 1
    assert cli("data", "streams:endless", "--batches", 7, "--out", "shards", "--shard-mb", 1).code == 0
    made = cli(
        "compile", "my_project:task", "--plan", "head", "--target", "torch", "--out", "out", "--no-parity"
    )
    assert made.code == 0, made.err
    by_file = cli("train", "out", "--data", "data.npz", "--steps", 6, "--eval", "data.npz", "--json")
    by_shards = cli("train", "out", "--data", "shards", "--steps", 6, "--eval", "shards", "--json")
    assert by_shards.code == 0, by_shards.err
    for figure in ("loss", "first_loss", "metric", "samples"):
        assert by_file.json[figure] == by_shards.json[figure]
    refused = cli("data", "streams:endless", "--batches", 1, "--out", "out/")
    assert refused.code == 2
    assert "something else than shards" in refused.err
