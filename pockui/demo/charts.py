"""The report's drawings as inline SVG; colours come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ..info.format import percent, significant, size
from .results import RUNTIMES, Report

WIDTH, HEIGHT = 720, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
LABEL_HEIGHT, LETTER = 15, 6.4


@dataclass(frozen=True)
class Point:
    """A method on a runtime: metric over ms a step."""

    label: str
    runtime: str
    step_ms: float
    metric: float
    spread: float


def tradeoff_points(report: Report) -> list[Point]:
    return [
        Point(report.method(r.method).label, r.runtime, r.step_ms, r.mean, r.spread or 0.0)
        for r in report.rows
        if r.step_ms is not None and r.mean is not None
    ]


def tradeoff(report: Report) -> Markup:
    """Metric over time of a step, both measured; time is logarithmic."""
    points = tradeoff_points(report)
    if not points:
        return Markup("")
    low_x, high_x = _padded([math.log10(p.step_ms) for p in points], 0.12)
    ends = [p.metric + sign * p.spread for p in points for sign in (-1, 1)]
    low_y, high_y = _padded(ends, 0.12)

    def x(ms: float) -> float:
        return LEFT + (math.log10(ms) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y(metric: float) -> float:
        return HEIGHT - BOTTOM - (metric - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)

    parts = [_open(HEIGHT, "Accuracy over time of a step")]
    for tick in _ticks(low_y, high_y):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">'
            f"{percent(tick)}</text>"
        )
    for tick in _log_ticks(low_x, high_x):
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{significant(tick, 2)}</text>"
        )
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "ms a step (logarithmic, lower is better)</text>"
    )
    placed: list[tuple[float, float, float, float]] = []
    dots = [(x(p.step_ms), y(p.metric)) for p in points]
    placed += [(px - 7, py - 7, px + 7, py + 7) for px, py in dots]
    for p, (px, py) in zip(points, dots):
        title = f"{p.label}, {RUNTIMES[p.runtime]}: {percent(p.metric)} at {significant(p.step_ms)} ms"
        if p.spread:
            parts.append(
                f'<line class="whisker {p.runtime}" x1="{px:.1f}" x2="{px:.1f}" '
                f'y1="{y(p.metric - p.spread):.1f}" y2="{y(p.metric + p.spread):.1f}"/>'
            )
        parts.append(
            f'<circle class="dot {p.runtime}" cx="{px:.1f}" cy="{py:.1f}" r="5.5">'
            f"<title>{escape(title)}</title></circle>"
        )
        text = (
            p.label
            if p.runtime == "openvino"
            else f"{p.label}, {'eager' if p.runtime == 'eager' else 'compiled'}"
        )
        tx, ty, anchor = _free_place(px, py, len(text) * LETTER, placed)
        parts.append(
            f'<text class="label" x="{tx:.1f}" y="{ty:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def _open(height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" class="chart">'


def _free_place(
    px: float, py: float, width: float, placed: list[tuple[float, float, float, float]]
) -> tuple[float, float, str]:
    """Where a label beside a point overlaps nothing: right, left, above, below, then further off."""
    options = []
    for far in (0, 14, 28, 42):
        options += [
            (px + 10, py + 4 - far, "start"), (px - 10, py + 4 - far, "end"),
            (px, py - 12 - far, "middle"), (px, py + 21 + far, "middle"),
            (px + 10, py + 4 + far, "start"), (px - 10, py + 4 + far, "end"),
        ]  # fmt: skip
    chosen = options[0]
    for tx, ty, anchor in options:
        left = tx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        box = (left, ty - LABEL_HEIGHT + 4, left + width, ty + 4)
        inside = box[0] > LEFT and box[2] < WIDTH and box[1] > 0 and box[3] < HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in placed):
            placed.append(box)
            return tx, ty, anchor
        chosen = chosen if chosen != options[0] else (tx, ty, anchor)
    return chosen


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _padded(values: list[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * share or abs(high) * share or 1.0
    return low - pad, high + pad


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    raw = (high - low) / wanted
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    found = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= math.log10(m * 10.0**d) <= high]
    return found or [10 ** ((low + high) / 2)]


# ---------------------------------------------------------------- what learns


def plan_map(report: Report) -> Markup:
    """A row per method, a column per block of the network: which share of its numbers learns."""
    name_width, gap, row_height, top = 190, 2, 26, 24
    blocks = list(report.blocks)
    # Adapters stand beside the network's own tensors: of those, they train none.
    methods = [m for m in report.methods if m.ratios.keys() <= report.sizes.keys()]
    cell = (WIDTH - name_width) / max(len(blocks), 1)
    height = top + row_height * len(methods) + 22
    parts = [_open(height, "What learns, block by block")]
    parts.append(f'<text class="tick" x="{name_width}" y="14">input</text>')
    parts.append(f'<text class="tick" x="{WIDTH}" y="14" text-anchor="end">output</text>')
    for i, method in enumerate(methods):
        y = top + i * row_height
        parts.append(f'<text class="label" x="0" y="{y + 16}">{escape(method.label)}</text>')
        for j, block in enumerate(blocks):
            share, count = learning_share(report, method.key, block)
            place = (
                f'x="{name_width + j * cell:.1f}" y="{y}" width="{cell - gap:.1f}" height="{row_height - 5}"'
            )
            parts.append(f'<rect class="cell" {place}/>')
            if count:
                of = len(report.blocks[block])
                title = f"{block}: {count} of {of} tensors, {percent(share)} of its numbers"
                parts.append(
                    f'<rect class="learns" {place} opacity="{0.3 + 0.7 * share:.2f}">'
                    f"<title>{escape(title)}</title></rect>"
                )
    parts.append("</svg>")
    return Markup("".join(parts))


def learning_share(report: Report, key: str, block: str) -> tuple[float, int]:
    """The share of a block's numbers that learn, and how many of its tensors do at all."""
    ratios, fqns = report.method(key).ratios, report.blocks[block]
    learnt = sum(report.sizes[f] * ratios.get(f, 0.0) for f in fqns)
    return learnt / sum(report.sizes[f] for f in fqns), sum(f in ratios for f in fqns)


# ---------------------------------------------------------------- predicted beside measured

NAMES, ROW_HEIGHT, AXIS = 190, 28, 40  # width of a row's name; heights


def forecast_chart(report: Report) -> Markup:
    """A row per method: the forecast with its interval, and the trainings as dots."""
    shown = [(m.label, m.expected) for m in report.methods if m.expected is not None]
    if not shown:
        return Markup("")
    values = [v for _, e in shown for v in (e.low, e.high, *e.reached) if v is not None]
    low, high = _padded(values, 0.04)
    place, parts = _rows("Forecasts and what was reached", [label for label, _ in shown], low, high)
    bottom = 8 + ROW_HEIGHT * len(shown)
    parts += [_tick(place(tick), bottom, percent(tick)) for tick in _ticks(low, high)]
    for i, (label, expected) in enumerate(shown):
        y = 8 + ROW_HEIGHT * i + ROW_HEIGHT / 2
        title = f"{label}: forecast {percent(expected.metric)}, {percent(expected.low)} to "
        title = escape(f"{title}{percent(expected.high)}")
        left, right = place(expected.low), place(expected.high)
        parts.append(
            f'<rect class="interval" x="{left:.1f}" y="{y - 5:.1f}" width="{max(right - left, 1):.1f}" '
            f'height="10" rx="5"><title>{title}</title></rect>'
            f'<line class="expected" x1="{place(expected.metric):.1f}" x2="{place(expected.metric):.1f}" '
            f'y1="{y - 7:.1f}" y2="{y + 7:.1f}"/>'
        )
        for reached in expected.reached:
            if reached is not None:
                title = escape(f"{label}: reached {percent(reached)}")
                parts.append(
                    f'<circle class="dot openvino" cx="{place(reached):.1f}" cy="{y:.1f}" r="4">'
                    f"<title>{title}</title></circle>"
                )
    parts.append("</svg>")
    return Markup("".join(parts))


def process_chart(report: Report) -> Markup:
    """A row per method: the predicted parts of its process's memory in a stack, and the measured peak."""
    shown = [(m.label, m.process) for m in report.methods if m.process is not None]
    if not shown:
        return Markup("")
    most = 1.06 * max(max(p.predicted_bytes, p.measured_bytes) for _, p in shown)
    place, parts = _rows("Memory of the process, by what holds it", [label for label, _ in shown], 0.0, most)
    bottom = 8 + ROW_HEIGHT * len(shown)
    parts += [_tick(place(tick), bottom, size(tick)) for tick in _ticks(0.0, most)]
    for i, (label, process) in enumerate(shown):
        y, start = 8 + ROW_HEIGHT * i + 6, 0.0
        for part, nbytes in process.parts.items():
            title = escape(f"{label}: {part} {size(nbytes)}")
            width = max(place(start + nbytes) - place(start) - 1, 0)
            parts.append(
                f'<rect class="{part}" x="{place(start):.1f}" y="{y}" width="{width:.1f}" '
                f'height="{ROW_HEIGHT - 12}"><title>{title}</title></rect>'
            )
            start += nbytes
        x, title = place(process.measured_bytes), escape(f"{label}: measured {size(process.measured_bytes)}")
        parts.append(
            f'<line class="measured" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 4}" y2="{y + ROW_HEIGHT - 8}">'
            f"<title>{title}</title></line>"
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def _rows(
    label: str, names: Sequence[str], low: float, high: float
) -> tuple[Callable[[float], float], list[str]]:
    """Where a value stands, and the beginning of a drawing with a row for each name."""

    def place(value: float) -> float:
        return NAMES + (value - low) / (high - low) * (WIDTH - NAMES - RIGHT)

    parts = [_open(8 + ROW_HEIGHT * len(names) + AXIS, label)]
    for i, name in enumerate(names):
        y = 8 + ROW_HEIGHT * i + ROW_HEIGHT / 2 + 4
        parts.append(f'<text class="label" x="0" y="{y:.1f}">{escape(name)}</text>')
    return place, parts


def _tick(x: float, bottom: float, text: str) -> str:
    """A line through all rows, with its value below."""
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom:.1f}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{text}</text>'
    )
