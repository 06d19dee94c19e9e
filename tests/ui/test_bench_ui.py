"""The browser benchmark, on a small study."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_it_reports_drags_and_loads(chromium, study_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "ui.md"
    command = [
        sys.executable,
        "benchmarks/ui.py",
        "--parts",
        "loads",
        "drags",
        "--moves",
        "4",
        "--loads",
        "1",
    ]
    done = subprocess.run(
        [*command, "--study", str(study_path), "--out", str(out)], cwd=ROOT, capture_output=True, text=True,
        timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    drags = re.findall(r"^\| (peak memory budget|bar)[^|]*\| (\d+) \| (\d+) \|.* ([1-4]) of 4", text, re.M)
    assert len(drags) == 4  # each with the measured rows, and with all
    assert all(0 < int(p50) <= int(p95) for _, p50, p95, _ in drags)
    loads = re.findall(r"^\| (first|again)[^|]*\|(.*)\|$", text, re.M)
    first_byte, shown = (float(cell) for cell in loads[0][1].split("|")[:2])
    assert 0 < first_byte < shown
    assert "| requests to other machines | 0 |" in text
    assert "| tracebacks in the server's log | 0 |" in text
