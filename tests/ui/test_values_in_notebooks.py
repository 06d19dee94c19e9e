"""What a notebook shows of the engine's values: short, escaped, true."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

import pockgraph as pg
from pockgraph.notebook_html import size_text, summary

WEIGHT = "blocks.1.0.weight"


@pytest.fixture(scope="module")
def values(study_path, tmp_path_factory):
    from ui_task import task

    study = pg.Study(study_path, read_only=True)
    plan = study.search(pg.Budget())
    path = tmp_path_factory.mktemp("artefact") / "a"
    artifact = pg.compile(pg.build(task(), pg.SGD(lr=0.05)), plan, target="onnx", out=path)
    frontier = study.frontier()
    yield {
        "study": study, "plan": plan, "profile": study.profile, "contribution": study.contribution,
        "artifact": artifact, "frontier": frontier,
    }  # fmt: skip
    study.close()


def test_each_is_a_table_of_ten_rows_at_most_and_well_formed(values) -> None:
    for name, value in values.items():
        shown = value._repr_html_()
        ElementTree.fromstring(shown)
        assert len(shown) < 6000, name
        assert shown.count("<tr>") <= 11, name
        if name != "study":
            assert shown.count("<tr>") >= 3, name
        assert "script" not in shown
        assert "<svg" in shown, name


def test_reprs_are_a_line(values) -> None:
    for name in ("plan", "profile", "contribution", "study", "artifact"):
        assert len(repr(values[name])) < 300, name
        assert "\n" not in repr(values[name])
    plan = values["plan"]
    assert f"{len(plan.tensors)} of {len(plan.model)} tensors trained" in str(plan)
    assert isinstance(values["frontier"], list)


def test_what_is_said_is_what_is_there(values) -> None:
    plan = values["plan"].model_copy(update={"predicted": {}})
    assert re.search(r"<td>head.weight</td><td>[\d×]+</td><td>100 %</td>", plan._repr_html_())
    best = max(g.mean for gains in values["contribution"].weights.values() for g in gains.values())
    assert f"<td>{best:+.4f}</td>" in values["contribution"]._repr_html_()
    full = values["profile"].figures({t.fqn: 1.0 for t in values["profile"].tensors})
    artifact = values["artifact"]
    peak = size_text(artifact.plan.predicted["peak_bytes"])
    assert f"<td>modelled peak</td><td>{peak}</td>" in artifact._repr_html_()
    assert f"<td>full</td><td>{size_text(full.peak_bytes)}</td>" in values["profile"]._repr_html_()


def test_names_are_escaped_rows_are_counted_and_infinite_values_left_out() -> None:
    shown = summary(
        "<b>x", ("<i>",), [(f"<u>{i}",) for i in range(25)], [1.0, math.inf, math.nan, 2.0], "a < b"
    )
    ElementTree.fromstring(shown)
    assert "&lt;u&gt;9<" in shown
    assert "&lt;u&gt;10<" not in shown
    assert "and 15 more" in shown
    assert len(re.findall(r"[\d.]+,[\d.]+", shown)) == 2


def test_sizes_have_three_digits_and_a_unit_that_fits() -> None:
    sizes = {96: "96.0 B", 239_400: "239 kB", 999_600: "1.00 MB", 22_500_000: "22.5 MB", 4.2e9: "4.2 GB"}
    assert {size: size_text(size) for size in sizes} == sizes
