"""What each tensor gains and costs, as a table for other programs: a row for each trained share."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from pockgraph.contribution import Gain

from .costs import COSTS
from .gains import estimated_interval, interval
from .layers import LayerRow

COLUMNS = (
    "tensor", "kind", "shape", "head", "planned_ratio", "ratio", "gain", "gain_low", "gain_high", "gain_std",
    "seeds", "estimate", "estimate_low", "estimate_high", *(f"whole_{key}" for key in COSTS),
)  # fmt: skip


def contribution_csv(rows: Sequence[LayerRow], ratios: Mapping[str, float]) -> str:
    """The contribution table: `COLUMNS`, what is not known is empty.

    `gain` is of the metric itself, over the head alone, as measured, with its 95 % interval over seeds.
    `estimate` is what searches count, with the interval of `INTERVAL_COVERAGE`. `whole_…` is what
    the whole tensor costs beside the head alone, in bytes, operations and milliseconds. The row `biases`
    stands for the last biases, a share of all. A tensor without measurements has one row.

    Args:
        rows: of the layer view. ratios: row id -> share that the current plan trains.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        planned = 1.0 if row.fixed else ratios.get(row.id, 0.0)
        about = (row.id, row.kind, "×".join(map(str, row.shape)), "yes" if row.fixed else "no", planned)
        costs = [None if row.fixed else row.costs[key] for key in COSTS]
        for ratio in sorted({*row.gains, *row.estimates}):
            measured, estimated = _measured(row.gains.get(ratio)), _estimated(row.estimates.get(ratio))
            writer.writerow([*about, ratio, *measured, *estimated, *costs])
        if not (row.gains or row.estimates):
            writer.writerow([*about, None, *_measured(None), *_estimated(None), *costs])
    return text.getvalue()


def _measured(gain: Gain | None) -> tuple[float | None, ...]:
    """Mean, both ends of its interval, standard deviation, seeds."""
    if gain is None:
        return (None,) * 5
    low, high = interval(gain) or (None, None)
    return gain.mean, low, high, None if gain.seeds < 2 else gain.std, gain.seeds


def _estimated(gain: Gain | None) -> tuple[float | None, ...]:
    """Mean, and both ends of its interval."""
    return (None,) * 3 if gain is None else (gain.mean, *estimated_interval(gain))
