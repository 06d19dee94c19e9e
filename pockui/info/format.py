"""Numbers with units, as people read them. Bytes are decimal: 1 MB is 1,000,000 bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MINUS = "−"
UNKNOWN = "–"


def significant(value: float, digits: int = 3) -> str:
    """`12.3`, `0.0123`, `1,230`: no exponent, thousands with commas."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else UNKNOWN
    value = float(f"{value:.{digits}g}")  # first: rounding may add a digit
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{abs(value):,.{decimals}f}"
    return (MINUS if value < 0 else "") + text


def _scaled(value: float | None, units: tuple[str, ...]) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    scale = 0
    while abs(value) >= 999.5 and scale < len(units) - 1:
        value, scale = value / 1000, scale + 1
    return f"{significant(value)} {units[scale]}"


def size(value: float | None) -> str:
    """Bytes as `12.3 MB`."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def flops(value: float | None) -> str:
    """Floating-point operations as `1.24 GFLOP`."""
    return _scaled(value, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"))


def milliseconds(value: float | None) -> str:
    """`0.84 ms`, `12.3 ms`, `1.20 s`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{significant(value)} ms" if value < 1000 else f"{significant(value / 1000)} s"


def duration(seconds: float | None) -> str:
    """`8 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(ratio: float | None) -> str:
    """0.125 as `12.5 %`."""
    if ratio is None:
        return UNKNOWN
    value = round(100 * ratio, 1)
    return f"{value:g} %"


def signed(value: float, digits: int = 3) -> str:
    """`+1.23`, `−0.40`, `0`."""
    text = significant(value, digits)
    return f"+{text}" if value > 0 else text


def change(value: float | None, reference: float | None) -> str:
    """How `value` differs from `reference`, in percent: `−62 %`."""
    if value is None or not reference or not math.isfinite(value / reference):
        return ""
    ratio = value / reference - 1
    if abs(ratio) < 0.0005:
        return "same"
    return f"{'+' if ratio > 0 else MINUS}{abs(100 * ratio):.{0 if abs(ratio) >= 0.0995 else 1}f} %"


def accuracy(values: Sequence[float | None]) -> str:
    """A share, as several trainings reached it: `97.3 ± 0.4 %`, with the sample standard deviation.

    Args:
        values: None for a training that diverged.
    """
    if not values:
        return UNKNOWN
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return f"{len(values) - len(known)} of {len(values)} diverged" if known else "diverged"
    spread = f" ± {100 * statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{100 * statistics.fmean(known):.1f}{spread} %"


class MetricScale:
    """How a task's metric is written: as percent where it is a share of samples, else as it is.

    Args:
        baseline: a value of the metric. Shares lie between 0 and 1; anything else is no share.
    """

    def __init__(self, baseline: float) -> None:
        self.is_share = 0 <= baseline <= 1
        self.factor = 100 if self.is_share else 1
        self.unit = "points" if self.is_share else ""

    def gain(self, value: float | None) -> str:
        """A difference: `+2.40 points`."""
        if value is None or not math.isfinite(value):
            return UNKNOWN
        scaled = value * self.factor
        text = f"{scaled:+.2f}".replace("-", MINUS) if abs(scaled) >= 0.005 else "0"
        return f"{text} {self.unit}".strip()

    def interval(self, low: float, high: float) -> str:
        """Where the metric lies: `91.0 to 95.2 %`."""
        return f"{self.level(low).removesuffix(' %')} to {self.level(high)}"

    def level(self, value: float | None) -> str:
        """The metric itself: `93.1 %`."""
        if value is None or math.isnan(value):
            return UNKNOWN
        if math.isinf(value):
            return "infinite" if value > 0 else f"{MINUS}infinite"
        return f"{100 * value:.1f} %" if self.is_share and abs(value) < 100 else significant(value, 4)
