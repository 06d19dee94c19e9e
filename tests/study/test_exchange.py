"""Studies as files: what goes out comes in again, and nothing that is foreign or damaged does."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shapes_task import OPTIMIZER, QUICK, make_shapes, make_task, stop_after

from pockgraph.errors import PockError, StudyError
from pockgraph.plan import Plan
from pockgraph.study import Run, Study, TargetParity
from pockgraph.study.exchange import export_study, import_study

SETTINGS = {**QUICK, "tensors": "blocks.1*", "ratios": (1.0,), "bias_counts": (1,)}
LOSSES = (2.5, math.pi, 1e-300, math.inf, math.nan)
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed"
)
TABLES = ["csv", pytest.param("parquet", marks=needs_pyarrow)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with something of everything."""
    study = Study(tmp_path_factory.mktemp("template") / "shapes.db", make_shapes(), OPTIMIZER)
    study.analyze(**SETTINGS)
    assert study.profile
    head, whole = Plan.head(study.graph), Plan.full(study.graph)
    study.save_plan("head", head)
    study.save_plan('all, of "it"', whole)
    study.verify(head, seeds=[0])
    study.add_run(Run(whole, name="diverged; = 1+1\nline", status="failed", error="no", losses=LOSSES))
    study.add_parity(TargetParity("openvino", "head", True, {"loss": 1e-7}))
    study.close()
    return study.path


@pytest.fixture
def full(template: Path, tmp_path: Path, one_build) -> Iterator[Study]:
    with Study(shutil.copy(template, tmp_path / "shapes.db"), make_shapes()) as study:
        yield study


def known(study: Study) -> str:
    """All that a study says, as text, so that NaN equals NaN."""
    runs = [{**r.__dict__, "id": None} for r in study.runs()]
    measurements = [{**m.__dict__, "id": None} for m in study.measurements()]
    return repr(
        (dict(study.facts), measurements, study.contribution, study.plans(), runs, study.parities(),
         study.profile)
    )  # fmt: skip


def test_json_round_trip_is_exact(full: Study, tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    export_study(full, first)
    made = import_study(tmp_path / "copy.db", first)
    assert made.made
    assert (made.runs, made.plans) == (2, 2)
    with Study(tmp_path / "copy.db") as copy:
        assert known(copy) == known(full)
        export_study(copy, second)
    assert first.read_bytes() == second.read_bytes()
    json.loads(first.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    with Study(tmp_path / "copy.db", make_shapes()) as copy:
        before = copy.progress()
        copy.analyze(**SETTINGS)  # nothing is left to measure
        assert copy.progress() == before


def test_what_is_there_is_not_added_again(full: Study, tmp_path: Path) -> None:
    export_study(full, tmp_path / "a.json")
    before = known(full)
    added = import_study(full.path, tmp_path / "a.json")
    assert (added.made, added.runs, added.measurements, added.plans) == (False, 0, 0, 0)
    assert added.known == len(full.runs()) + full.progress()[0]
    assert known(full) == before


@pytest.mark.parametrize("format", TABLES)
def test_runs_as_a_table_go_into_another_copy_of_the_study(full: Study, tmp_path: Path, format: str) -> None:
    file = tmp_path / f"runs.{format}"
    export_study(full, file)
    with Study(tmp_path / "other.db", make_shapes(), OPTIMIZER) as other:
        other.add_run(Run(Plan.head(other.graph), name="its own"))
        assert import_study(other.path, file).runs == 2
        assert import_study(other.path, file).known == 2
        mine = [{**r.__dict__, "id": None} for r in full.runs()]
        assert repr([{**r.__dict__, "id": None} for r in other.runs()[1:]]) == repr(mine)


@pytest.mark.parametrize("format", TABLES)
def test_measurements_as_a_table_spare_another_copy_the_measuring(
    full: Study, tmp_path: Path, format: str
) -> None:
    file = tmp_path / f"measurements.{format}"
    export_study(full, file, "measurements")
    with Study(tmp_path / "other.db", make_shapes(), OPTIMIZER) as other:
        with pytest.raises(RuntimeError):
            other.analyze(**SETTINGS, progress=stop_after(3, RuntimeError()))
        added = import_study(other.path, file)
        assert (added.measurements, added.known) == (full.progress()[0] - 3, 3)
        assert other.contribution == full.contribution
        before = other.measurements()
        other.analyze(**SETTINGS)
        assert other.measurements() == before


def test_a_spreadsheet_reads_what_each_tensor_gained(full: Study, tmp_path: Path) -> None:
    export_study(full, tmp_path / "m.csv", "measurements")
    with (tmp_path / "m.csv").open(newline="", encoding="utf-8") as f:
        rows = [r for r in csv.DictReader(f) if r["fqn"] == "blocks.1.0.weight" and r["purpose"] != "tuning"]
    gain = full.contribution.weights["blocks.1.0.weight"][1.0]
    assert sum(float(r["gain"]) for r in rows) / len(rows) == pytest.approx(gain.mean)
    assert {r["task"] for r in rows} == {"shapes"}


# ---------------------------------------------------------------- refusals


def test_another_tasks_file_is_refused_with_the_differences(full: Study, tmp_path: Path) -> None:
    for name, table in (("a.json", "runs"), ("r.csv", "runs"), ("m.csv", "measurements")):
        export_study(full, tmp_path / name, table)
    with Study(tmp_path / "other.db", make_task("bars", classes=5)) as other:
        for name in ("a.json", "r.csv", "m.csv"):
            with pytest.raises(StudyError, match="of another task than the study") as e:
                import_study(other.path, tmp_path / name)
            assert "'name' is shapes instead of bars" in str(e.value)
        with pytest.raises(StudyError, match=r"'head.weight' is \[4, 8\] instead of \[5, 8\]"):
            import_study(other.path, tmp_path / "a.json")
        assert (other.runs(), other.plans(), other.measurements()) == ([], {}, [])


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "cut off": lambda d: None,
    "of another program": lambda d: d.clear(),
    "of a later version": lambda d: d.update(schema="pockui.study/2"),
    "without facts": lambda d: d["facts"].pop("model"),
    "a status that there is none of": lambda d: d["analyses"][0]["measurements"][0].update(status="x"),
    "a text for a metric": lambda d: d["runs"][0].update(metric="high"),
    "a field of a later version": lambda d: d["runs"][0].update(colour="red"),
    "a run of another model": lambda d: d["runs"][0]["plan"]["model"].update(more=[3]),
    "a run without a plan": lambda d: d["runs"][0].pop("plan"),
    "a plan that trains what is not there": lambda d: d["plans"][0]["plan"]["tensors"].update(
        nothing={"dim": None, "channels": None}
    ),
    "a profile that is none": lambda d: d["documents"].update(profile={"rows": 3}),
    "a list for an object": lambda d: d.update(plans={}),
    "nested without end": lambda d: d["analyses"][0].update(head="deep"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_and_changes_nothing(full: Study, tmp_path: Path, case: str) -> None:
    file = tmp_path / "a.json"
    export_study(full, file)
    data = json.loads(file.read_text())
    DAMAGE[case](data)
    text = json.dumps(data).replace('"deep"', "[" * 100_000)
    file.write_text(text[: len(text) // 2] if case == "cut off" else text)
    before, files = known(full), set(os.listdir(tmp_path))
    for study in (full.path, tmp_path / "new.db"):
        with pytest.raises(StudyError, match=r"a\.json"):
            import_study(study, file)
    assert known(full) == before
    assert set(os.listdir(tmp_path)) == files


CELLS: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "a column is missing": lambda rows: [r.pop("seed") for r in rows],
    "a text for a number": lambda rows: rows[0].update(lr="fast"),
    "a cell that is no JSON": lambda rows: rows[0].update(plan="{"),
    "a status that there is none of": lambda rows: rows[0].update(status="x"),
    "two tasks": lambda rows: rows[0].update(fingerprint="0"),
    "no rows": lambda rows: rows.clear(),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_damaged_table_is_named_and_changes_nothing(full: Study, tmp_path: Path, case: str) -> None:
    file = tmp_path / "a.csv"
    export_study(full, file)
    with file.open(newline="", encoding="utf-8") as f:
        rows: list[dict[str, Any]] = list(csv.DictReader(f))
    names = list(rows[0])
    CELLS[case](rows)
    with file.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, [n for n in names if not rows or n in rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    before = known(full)
    with pytest.raises(StudyError, match=r"a\.csv"):
        import_study(full.path, file)
    assert known(full) == before


def test_a_run_of_another_model_in_a_table_is_refused(full: Study, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    export_study(full, file)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('""stem.weight"": [8, 1', '""stem.weight"": [9, 1'), encoding="utf-8")
    with pytest.raises(StudyError, match=r"a\.csv.*another model"):
        import_study(full.path, file)


def test_measurements_that_cannot_be_compared_are_not_joined(full: Study, tmp_path: Path) -> None:
    export_study(full, tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text())
    data["analyses"][0]["lr"] = 0.7
    (tmp_path / "a.json").write_text(json.dumps(data))
    before = known(full)
    with pytest.raises(StudyError, match="cannot be joined"):
        import_study(full.path, tmp_path / "a.json")
    assert known(full) == before


def test_a_study_that_is_being_analysed_is_left_alone(full: Study, tmp_path: Path) -> None:
    export_study(full, tmp_path / "a.json")
    with full._store.transaction() as write:
        write.execute("UPDATE analyses SET holder = ?", (f"{os.uname().nodename}:{os.getppid()}:x",))
    with pytest.raises(StudyError, match="is being analysed by process"):
        import_study(full.path, tmp_path / "a.json")


def test_other_plans_of_the_same_name_stay(full: Study, tmp_path: Path) -> None:
    export_study(full, tmp_path / "a.json")
    whole = Plan.full(full.graph)
    full.save_plan("head", whole)
    assert import_study(full.path, tmp_path / "a.json").other_plans == ("head",)
    assert full.plan("head") == whole


def test_names_that_do_not_say_how_are_refused(full: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"It ends in \.json, \.csv, \.parquet.*Did you mean '\.json'"):
        export_study(full, tmp_path / "a.jsn")
    with pytest.raises(StudyError, match="runs and measurements"):
        export_study(full, tmp_path / "a.csv", "plans")  # pyright: ignore
    with pytest.raises(StudyError, match="Cannot read"):
        import_study(full.path, tmp_path / "none.json")
    export_study(full, tmp_path / "r.csv")
    with pytest.raises(StudyError, match="There is no study"):
        import_study(tmp_path / "none.db", tmp_path / "r.csv")
    assert not list(tmp_path.glob("*.jsn"))


def test_parquet_without_pyarrow_says_what_to_install(full: Study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PockError, match=r"pip install 'pockui\[parquet\]'"):
        export_study(full, tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(PockError, match=r"pip install 'pockui\[parquet\]'"):
        import_study(full.path, tmp_path / "b.parquet")
    assert not (tmp_path / "a.parquet").exists()


@needs_pyarrow
def test_a_damaged_parquet_file_is_named(full: Study, tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StudyError, match=r"Cannot read .*b\.parquet"):
        import_study(full.path, tmp_path / "b.parquet")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pockgraph.study import Study
from pockgraph.study.exchange import export_study, import_study
export_study(Study(sys.argv[1]), sys.argv[2])
print(import_study(sys.argv[3], sys.argv[2]).runs)
"""


def test_it_works_where_torch_is_absent(full: Study, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *(str(tmp_path / n) for n in ("shapes.db", "a.json", "n.db"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
