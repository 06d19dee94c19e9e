"""The report from a fixed comparison: every row is there, the losing and the missing ones too."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from projects import Cli  # pyright: ignore

from pockgraph.errors import PockError
from pockui.demo import charts
from pockui.demo import report as pages
from pockui.demo.results import Expected, ProcessPeak, Report, Row

FIXTURE = Path(__file__).with_name("report.json")


@pytest.fixture
def report() -> Report:
    return Report.load(FIXTURE)


@pytest.fixture
def predicted(report: Report) -> Report:
    """With predictions of three methods; one of them is wrong."""
    told = {
        "head": (Expected(metric=0.7, low=0.65, high=0.75, reached=(0.71, 0.69)), (90, 30, 1, 9, 128)),
        "auto": (Expected(metric=0.8, low=0.76, high=0.85, reached=(0.82, 0.75)), (92, 31, 12, 25, 200)),
        "full": (Expected(metric=0.81, low=0.75, high=0.88, reached=(None, None)), (95, 31, 27, 97, 247)),
    }

    def process(*megabytes: int) -> ProcessPeak:
        runtime, constants, state, activations, measured = (mb * 1_000_000 for mb in megabytes)
        return ProcessPeak(
            runtime_bytes=runtime, constants_bytes=constants, state_bytes=state,
            activations_bytes=activations, measured_bytes=measured,
        )  # fmt: skip

    methods = [
        m.model_copy(update={"expected": told[m.key][0], "process": process(*told[m.key][1])})
        if m.key in told
        else m
        for m in report.methods
    ]
    return report.model_copy(update={"methods": tuple(methods)})


def test_a_report_of_an_earlier_release_has_no_predictions(report: Report) -> None:
    assert pages.predictions(report) == []
    assert "<h2>Forecasts</h2>" not in pages.render(report)
    assert "Forecast" not in pages.markdown(report)


@pytest.mark.parametrize(("adapters", "names"), [(False, "selection not"), (True, "selection and LoRA not")])
def test_baselines_that_were_not_run_are_named(report: Report, adapters: bool, names: str) -> None:
    for ran in (True, False):
        settings = report.settings | {"baselines": ran, "adapters": adapters}
        said = pages.findings(report.model_copy(update={"settings": settings}))
        assert any(f"ElasticTrainer's {names} compared by --quick" in line for line in said) == (not ran)


def test_forecasts_stand_beside_what_was_reached(predicted: Report) -> None:
    (forecasts, _) = pages.predictions(predicted)
    assert [*map(list, forecasts.rows)] == [
        ["Head only", "70.0 %", "65.0 to 75.0 %", "70.0 ± 1.4 %", "2 of 2"],
        ["Automatic", "80.0 %", "76.0 to 85.0 %", "78.5 ± 4.9 %", "1 of 2"],
        ["Full fine-tuning", "81.0 %", "75.0 to 88.0 %", "diverged", "0 of 2"],
    ]
    said = " ".join(pages.findings(predicted))
    assert "3 of 6 trainings lie in the interval of their forecast, which is made for 9 of 10" in said
    assert "Outside: Automatic (forecast 76.0 to 85.0 %, reached 78.5 ± 4.9 %); Full" in said


def test_a_process_is_accounted_for_in_four_parts_beside_its_measured_peak(predicted: Report) -> None:
    (_, processes) = pages.predictions(predicted)
    heads = [column.removeprefix(">") for column in processes.columns[1:5]]
    assert heads == ["Runtime", "Constants", "State", "Activations"]
    assert [row[5:] for row in processes.rows] == [
        ("130 MB", "128 MB", "+1.6 %"),
        ("160 MB", "200 MB", "−20 %"),
        ("250 MB", "247 MB", "+1.2 %"),
    ]
    assert any("differ most for Automatic (−20 %)" in said for said in pages.findings(predicted))


def test_predictions_are_in_the_page_its_drawings_and_the_markdown(predicted: Report) -> None:
    page, text = pages.render(predicted), pages.markdown(predicted)
    for table in pages.predictions(predicted):
        assert f"<h2>{table.title}</h2>" in page
        for row in table.rows:
            assert f"| {' | '.join(row)} |" in text
            assert all(cell in page for cell in row)
    drawing = str(charts.process_chart(predicted))
    for part in ("runtime", "constants", "state", "activations"):
        assert drawing.count(f'class="{part}"') == 3
    assert drawing.count('class="measured"') == 3
    assert str(charts.forecast_chart(predicted)).count("<circle") == 4  # none for what diverged


def test_parts_of_a_process_stand_one_behind_the_other(predicted: Report) -> None:
    drawing = str(charts.process_chart(predicted))
    bars = re.findall(r'<rect class="\w+" x="([\d.]+)" y="(\d+)" width="([\d.]+)"', drawing)
    widest: dict[str, float] = {}
    for x, y, width in bars:
        assert float(x) >= widest.get(y, 0.0) - 0.11  # coordinates have one decimal
        widest[y] = float(x) + float(width)
    assert len(widest) == 3
    assert max(widest.values()) <= charts.WIDTH


def test_every_row_is_shown(report: Report) -> None:
    shown = pages.lines(report)
    assert len(shown) == len(report.rows)
    page = pages.render(report)
    for line in shown:
        assert line.metric in page
        assert line.step.partition(" [")[0] in page
    assert "InvalidCxxCompiler" in page


def test_markdown_has_every_row_and_every_finding(report: Report) -> None:
    text = pages.markdown(report)
    for row in pages.table(report):
        assert f"| {' | '.join('' if cell == pages.UNKNOWN else cell for cell in row)} |" in text
    for finding in pages.findings(report):
        assert f"- {finding}\n" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_ratios_are_to_full_fine_tuning_in_eager_pytorch(report: Report) -> None:
    full = report.row("full", "eager")
    auto = report.row("auto", "openvino")
    assert full is not None
    assert auto is not None
    assert report.reference == full
    assert report.speedup(full) == 1
    assert report.speedup(auto) == pytest.approx(88 / 22.4)
    assert report.memory_ratio(auto) == pytest.approx(31 / 131)


def test_findings_that_speak_against_the_automatic_plan_are_reported(report: Report) -> None:
    said = " ".join(pages.findings(report))
    assert "More accurate than the automatic plan: Full fine-tuning (+0.9 points)" in said
    assert "Faster a step than the automatic plan: Head only" in said
    assert (
        "Slower than full fine-tuning in eager PyTorch: Full fine-tuning on OpenVINO (0.95× as fast)" in said
    )
    assert "the smallest or largest that was tried for Head only, Full fine-tuning" in said
    assert "torch.compile has no figures: InvalidCxxCompiler" in said


def test_diverged_runs_are_not_averaged_away() -> None:
    assert pages.metric_text(Row(method="a", runtime="eager", metrics=(None, None))) == "diverged"
    partly = Row(method="a", runtime="eager", metrics=(0.9, None, 0.8))
    assert pages.metric_text(partly) == "1 of 3 diverged"
    assert partly.mean is None
    assert pages.metric_text(Row(method="a", runtime="eager", metrics=(0.5,))) == "50.0 %"


def test_page_stands_alone(predicted: Report) -> None:
    page = pages.render(predicted)
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org)", page)
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page

    class Balance(HTMLParser):
        open_tags: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br"):
                self.open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open_tags == []


def test_names_are_escaped(report: Report) -> None:
    data = json.loads(FIXTURE.read_text())
    data["title"] = "<script>alert(1)</script>"
    data["methods"][0]["label"] = "<b>Head</b>"
    page = pages.render(Report.model_validate(data))
    assert "<script>alert" not in page
    assert "<b>Head</b>" not in page


def test_labels_of_the_chart_do_not_overlap(report: Report) -> None:
    drawing = str(charts.tradeoff(report))
    boxes = []
    pattern = r'class="label" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<'
    for x, y, anchor, text in re.findall(pattern, drawing):
        width = len(text) * charts.LETTER
        left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
        boxes.append((left, float(y) - 11, left + width, float(y) + 4))
    assert len(boxes) == len(charts.tradeoff_points(report)) > 3
    for i, a in enumerate(boxes):
        assert a[0] > 0
        assert a[2] < charts.WIDTH
        for b in boxes[:i]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def test_plan_map_shades_by_share(report: Report) -> None:
    assert charts.learning_share(report, "full", "blocks.3") == (1.0, 4)
    share, count = charts.learning_share(report, "auto", "blocks.2")
    assert 0 < share < 0.5
    assert count == 1
    assert charts.learning_share(report, "head", "blocks.2") == (0.0, 0)


def test_report_command(tmp_path: Path, cli: Cli, predicted: Report) -> None:
    path = tmp_path / "report.json"
    predicted.save(path)
    result = cli("report", path)
    assert result.code == 0, result.err
    assert "Paper preset" in result.out
    assert "65.0 to 75.0 %" in result.out
    assert "Activations" in result.out
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert cli("report", tmp_path, "--json").json["rows"][0]["method"] == "head"


@pytest.mark.parametrize(
    ("name", "page"), [("v1.2", "v1.2.html"), ("v1.2.json", "v1.2.html"), ("v1.html", "v1.html.html")]
)
def test_the_page_keeps_the_whole_name_of_its_report(name: str, page: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / name
    path.write_text(FIXTURE.read_text())
    assert cli("report", path).code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, page])
    assert path.read_text() == FIXTURE.read_text()


def test_round_trip(predicted: Report, tmp_path: Path) -> None:
    predicted.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == predicted


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "pockui.plan/1"}'])
def test_no_report(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(PockError, match=r"not a valid report"):
        Report.load(tmp_path / "r.json")
