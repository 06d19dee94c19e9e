"""The evidence: the whole way on tiny pairs, stopped and resumed; what its log says; which goals are met."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks.evidence import report  # noqa: E402
from benchmarks.evidence.__main__ import main  # noqa: E402
from benchmarks.evidence.fetch import ASSETS, asset  # noqa: E402
from benchmarks.evidence.log import Log, opened, read  # noqa: E402
from benchmarks.evidence.pairs import PAIRS  # noqa: E402
from benchmarks.evidence.results import goals, pairs_of  # noqa: E402
from pockui.demo.data import AssetMissing  # noqa: E402


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def evidence(folder: Path, *options: str) -> Done:
    """The command, run in this process: four others that import torch would take longer than what they do."""
    command = ["evidence", "--smoke", "--threads", "1", "--build", str(folder), *options]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", command)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    return Done(code, out.getvalue(), err.getvalue())


def kinds(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in read(folder / "evidence.jsonl"):
        found[row["kind"]] = found.get(row["kind"], 0) + 1
    return found


TINY = ("--pair", "tiny-texts", "--budget", "1000")  # MB of a process: room for every method


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison with one seed."""
    folder = tmp_path_factory.mktemp("evidence")
    done = evidence(folder, *TINY, "--seeds", "1")
    assert done.code == 0, done.err
    for label in ("Head only", "Last biases", "Paper preset", "ElasticTrainer", "LoRA", "Full fine-tuning"):
        assert f"| {label} |" in done.out
    return folder


def test_a_tiny_transformer_is_compared_and_what_was_stopped_goes_on(compared: Path, tmp_path: Path) -> None:
    made = kinds(compared)
    assert made["run"] == made["measured"] == made["plan"] == 8
    assert made["trial"] == 16
    folder = shutil.copytree(compared, tmp_path / "stopped")
    log = folder / "evidence.jsonl"
    log.write_text(log.read_text() + '{"kind": "run", "pair": "ti')  # killed while it wrote
    done = evidence(folder, *TINY, "--seeds", "2", "--out", str(tmp_path / "page.md"))
    assert done.code == 0, done.err
    after = kinds(folder)
    assert after["run"] == 16  # the other seed, and nothing twice
    assert {k: after[k] for k in ("trial", "plan", "measured")} == {
        k: made[k] for k in ("trial", "plan", "measured")
    }
    assert "2 seeds" in (tmp_path / "page.md").read_text()


def test_pairs_that_fail_are_reported_and_the_others_go_on(compared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(compared, tmp_path / "compared")
    (folder / "tiny-images").write_text("no folder")
    done = evidence(folder, "--seeds", "1", "--budget", "0.0001")
    assert done.code == 1
    assert "tiny-images: stopped: FileExistsError" in done.out
    assert "Full fine-tuning" in done.out  # of the other pair, in which nothing fits that budget
    assert "fits" in done.out
    assert kinds(folder)["done"] == kinds(compared)["done"] + 1


def rows(**metrics: list[float | None]) -> list[dict[str, Any]]:
    """A log of one pair, with these metrics for each method's seeds."""
    found: list[dict[str, Any]] = []
    for key, values in metrics.items():
        base = {"pair": "p", "method": key, "plan": key, "steps": 1, "tuning_steps": 1}
        found.append(
            {
                "kind": "plan",
                **base,
                "budget": "process_bytes",
                "budget_bytes": 1,
                "half_bytes": 1,
                "peak_bytes": 1,
                "note": "",
            }
        )
        found += [{"kind": "run", **base, "rate": 0.1, "seed": n, "metric": v} for n, v in enumerate(values)]
    return found


def test_goals_are_differences_of_means_with_paired_intervals() -> None:
    log = rows(
        auto=[0.90, 0.92], full=[0.905, 0.925], auto_small=[0.80, 0.90], preset=[0.81, 0.93], lora=[0.7, 0.7]
    )
    against_full, against_preset, against_lora = goals(pairs_of(log))
    assert against_full.difference == pytest.approx(-0.005)
    assert against_full.high == pytest.approx(-0.005)
    assert against_preset.difference == pytest.approx(-0.02)
    assert not against_preset.met
    assert not against_preset.is_clear
    assert (against_preset.low, against_preset.high) == pytest.approx((-0.1471, 0.1071), abs=1e-4)
    assert against_lora.met
    page = report.markdown(log, {}, "command")
    assert "Missed: p, against the preset, same budget, by 2.00 points." in page
    assert "against full | -0.50 |" in page


def test_a_diverged_run_has_no_mean_and_is_said() -> None:
    log = rows(auto=[0.9, None], full=[0.9, 0.9])
    assert goals(pairs_of(log)) == []
    assert "1 of 2 diverged" in report.markdown(log, {}, "command")


def test_what_an_earlier_plan_gave_does_not_count() -> None:
    log = rows(full=[0.9])
    changed = {**log[0], "plan": "another"}
    assert pairs_of([*log, changed])["p"].methods["full"].metrics == {}
    assert pairs_of([*log, changed, *log])["p"].methods["full"].metrics == {0: 0.9}


def test_a_log_has_one_writer_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "run", "seed": 0}\n{"kind": "ru')
    with opened(path) as log:
        log.add(kind="run", seed=1)
        with pytest.raises(BlockingIOError), opened(path):
            pass
    assert [row["seed"] for row in Log(path).rows] == [0, 1]
    assert json.loads(path.read_text().splitlines()[-1]) == {"kind": "run", "seed": 1}


def test_absent_data_is_named_with_the_command_that_fetches_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.evidence.fetch.FOLDER", tmp_path)
    with pytest.raises(AssetMissing, match=r"benchmarks\.evidence\.fetch stamps"):
        asset("stamps")


def test_every_pair_names_assets_that_exist() -> None:
    assert {name for pair in PAIRS.values() for name in pair.assets} == set(ASSETS)
    assert len(PAIRS) >= 8


def test_an_unknown_pair_is_refused(tmp_path: Path) -> None:
    done = evidence(tmp_path, "--pair", "watches")
    assert done.code == 2
    assert "tiny-images, tiny-texts" in done.err
