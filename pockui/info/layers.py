"""The rows of the layer view: what each tensor gains and costs beside the head alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pockgraph.contribution import Contribution, Gain

from . import format as fmt
from .costs import COSTS, Cost
from .gains import COVERAGE_TEXT, Interval, estimated_interval, interval, seeds_text
from .layer_filter import BIASES, LAYER_KINDS, LayerFilter, LayerKind, layer_kind

if TYPE_CHECKING:
    from pockgraph.profile import Figures, Profile
    from pockgraph.profile.profile import TensorInfo

INTERVAL_ROOM = 0.4  # how far beyond the bars an axis goes for intervals, as a share of the bars' range
Order = Literal["network", "gain", "cost", "gain_per_cost"]
ORDERS: dict[str, Order] = {
    "Network order": "network",
    "Largest gain": "gain",
    "Largest cost": "cost",
    "Gain per cost": "gain_per_cost",
}


@dataclass(frozen=True)
class LayerRow:
    """One row.

    Attributes:
        id: a tensor's FQN, or `BIASES`.
        prefix, short: the name in two parts, the second to be emphasised.
        kind: "weight", "bias", "norm"; "biases" for the row of all biases.
        layer_kind: the kind of layer it belongs to. block: the part of the network; empty for `BIASES`.
        shape: of the tensor; empty for `BIASES`.
        steps: how many shares there are between frozen and whole; 1 for on or off.
        fixed: the head, trained in every plan.
        gains: trained share -> gain beside the head alone, as it was measured.
        estimates: the same as it is estimated from all that was measured and trained (`Forecaster.gains`);
            each `std` is what is not known of it.
        costs: key of `COSTS` -> what the whole tensor costs beside the head alone; None if unknown.
        depth: place in the forward pass.
    """

    id: str
    prefix: str
    short: str
    kind: str
    layer_kind: LayerKind
    block: str
    shape: tuple[int, ...]
    steps: int
    fixed: bool
    gains: Mapping[float, Gain]
    estimates: Mapping[float, Gain]
    costs: Mapping[str, float | None]
    depth: int

    @property
    def best(self) -> float:
        """The largest estimated gain; -inf if none was measured."""
        return max((g.mean for g in self.estimates.values()), default=-math.inf)

    def nearest(self, ratio: float) -> float:
        """The share that this row can be trained at which is nearest to `ratio`; halves go up."""
        return math.floor(ratio * self.steps + 0.5) / self.steps


def layer_rows(profile: Profile, contribution: Contribution, estimated: Contribution) -> tuple[LayerRow, ...]:
    """A row per tensor in the order of the forward pass, and one for all biases outside the head.

    Costs are differences to training the head alone, as gains are: a tensor's cost includes that
    backpropagation must reach it. One evaluation of `profile.figures` per tensor.

    Args:
        estimated: `Forecaster.gains`.
    """
    head = dict.fromkeys(contribution.head, 1.0)
    alone = profile.figures(head)
    rows = [
        LayerRow(
            id=row.fqn,
            prefix=_split(row)[0],
            short=_split(row)[1],
            kind=row.kind,
            layer_kind=layer_kind(row),
            block=row.block,
            shape=tuple(row.shape),
            steps=_steps(row),
            fixed=row.fqn in head,
            gains=gains_of(row.fqn, contribution),
            estimates=gains_of(row.fqn, estimated),
            costs=_beyond(alone, profile.figures(head | {row.fqn: 1.0})),
            depth=row.depth,
        )
        for row in profile.tensors
    ]
    biases = contribution.bias_order
    if biases:
        count = len(biases)
        rows.append(
            LayerRow(
                id=BIASES,
                prefix="",
                short="Last biases",
                kind="biases",
                layer_kind="bias",
                block="",
                shape=(),
                steps=count,
                fixed=False,
                gains=gains_of(BIASES, contribution),
                estimates=gains_of(BIASES, estimated),
                costs=_beyond(alone, profile.figures(head | dict.fromkeys(biases, 1.0))),
                depth=1 + max(row.depth for row in rows),
            )
        )
    return tuple(rows)


def gains_of(id: str, contribution: Contribution) -> dict[float, Gain]:
    """Trained share -> gain of a row."""
    if id != BIASES:
        return dict(contribution.weights.get(id, {}))
    count = len(contribution.bias_order)
    return {k / count: gain for k, gain in contribution.biases.items() if k}


def _split(row: TensorInfo) -> tuple[str, str]:
    """`blocks.3.`, `expand`: the block is what rows share; a weight goes by its layer's name."""
    name = row.fqn.removesuffix(".weight") if row.kind == "weight" else row.fqn
    prefix = f"{row.block}."
    if not name.startswith(prefix) or name[len(prefix) :].isdigit():
        return "", name
    return prefix, name[len(prefix) :]


def _steps(row: TensorInfo) -> int:
    return 1 if row.channel_dim is None else row.shape[row.channel_dim]


def _beyond(alone: Figures, figures: Figures) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for key in COSTS:
        low, high = getattr(alone, key), getattr(figures, key)
        out[key] = None if low is None or high is None else high - low
    return out


def ratios_of(choice: Mapping[str, float], contribution: Contribution) -> dict[str, float]:
    """Row id -> trained share: the plan's choice, and the share of biases that are trained."""
    shares = dict(choice)
    if contribution.bias_order:
        trained = sum(1 for fqn in contribution.bias_order if choice.get(fqn))
        shares[BIASES] = trained / len(contribution.bias_order)
    return shares


def chosen(id: str, ratio: float, contribution: Contribution) -> dict[str, float]:
    """FQN -> share that setting one row means; 0 stands for frozen."""
    if id != BIASES:
        return {id: ratio}
    k = round(ratio * len(contribution.bias_order))
    return {fqn: 1.0 if i < k else 0.0 for i, fqn in enumerate(contribution.bias_order)}


def select_rows(
    rows: Sequence[LayerRow],
    asked: LayerFilter,
    *,
    order: Order = "network",
    cost: str = "peak_bytes",
    trained: Collection[str] = (),
) -> tuple[LayerRow, ...]:
    """The rows to show.

    Args:
        order: by gain per cost, tensors that were not measured come last.
        cost: key of `COSTS`, for the orders that need one.
        trained: ids to show although they were not measured.

    Raises:
        PlanError: what is asked for is no regular expression.
    """
    keys = {
        "network": lambda r: r.depth,
        "gain": lambda r: -r.best,
        "cost": lambda r: -(r.costs[cost] or 0),
        "gain_per_cost": lambda r: -r.best / max(r.costs[cost] or 0, 1e-9) if r.estimates else math.inf,
    }
    return tuple(sorted(asked.rows(rows, trained), key=keys[order]))


# ---------------------------------------------------------------- for the component


def component_rows(rows: Sequence[LayerRow], cost: Cost, metric: fmt.MetricScale) -> list[dict[str, Any]]:
    """What `LayerBars.rows` takes."""
    return [
        {
            "id": row.id,
            "prefix": row.prefix,
            "short": row.short,
            "fixed": row.fixed,
            "counted": row.kind == BIASES,
            "steps": row.steps,
            "marks": sorted({0.0, 1.0, *row.estimates}) if row.steps > 1 else [0.0, 1.0],
            "gains": [
                [ratio, gain.mean, *estimated_interval(gain)] for ratio, gain in sorted(row.estimates.items())
            ],
            "cost": max(row.costs[cost.key] or 0, 0),
            "tip": _tip(row, metric),
        }
        for row in rows
    ]


def _tip(row: LayerRow, metric: fmt.MetricScale) -> list[list[str]]:
    lines = []
    if row.kind == BIASES:
        lines.append(["What", f"biases outside the head, {row.steps} in all, counted from the output"])
    else:
        channels = f", {row.steps} channels" if row.steps > 1 else ", on or off"
        lines.append(["What", f"{row.kind} {'×'.join(map(str, row.shape))}{channels}"])
    for ratio, gain in sorted(row.estimates.items(), reverse=True):
        where = f"{round(ratio * row.steps)} biases" if row.kind == BIASES else fmt.percent(ratio)
        lines.append([f"Gain at {where}", _beside_measured(gain, row.gains.get(ratio), metric)])
    if row.gains:
        lines.append(["Measured with", seeds_text(next(iter(row.gains.values())))])
    for kind in COSTS.values():
        if row.costs[kind.key] is not None and not row.fixed:
            lines.append([f"{kind.title}, whole", f"+{kind.text(row.costs[kind.key])}"])
    if row.fixed:
        lines.append(["", "The head: trained in every measurement and every plan."])
    return lines


def _beside_measured(gain: Gain, measured: Gain | None, metric: fmt.MetricScale) -> str:
    """An estimated gain with its interval, and what was measured."""
    said = f"{metric.gain(gain.mean)} ± {metric.factor * (estimated_interval(gain).high - gain.mean):.2f}"
    if measured is None:
        return said
    known = interval(measured)
    spread = f" ± {metric.factor * (known.high - measured.mean):.2f}" if known else ""
    return f"{said}; measured {metric.gain(measured.mean).removesuffix(metric.unit).strip()}{spread}"


def component_scale(rows: Sequence[LayerRow], cost: Cost, metric: fmt.MetricScale) -> dict[str, Any]:
    """What `LayerBars.scale` takes: the ends of both axes over `rows`.

    Pass all rows, whatever the filter says, so that filtering moves no bar.
    """
    gains = [gain for row in rows for gain in row.estimates.values()]
    means = [0.0, *(gain.mean for gain in gains)]
    room = (max(means) - min(means)) or 1.0
    intervals: list[Interval] = [estimated_interval(gain) for gain in gains]
    # What is hardly known has an enormous interval; it is cut rather than bars made invisible.
    low = max(min([*means, *(i.low for i in intervals)]), min(means) - INTERVAL_ROOM * room)
    high = min(max([*means, *(i.high for i in intervals)]), max(means) + INTERVAL_ROOM * room)
    unit = f", {metric.unit}" if metric.unit else ""
    return {
        "gain_low": low,
        "gain_high": high,
        "cost_high": max((row.costs[cost.key] or 0 for row in rows if not row.fixed), default=0),
        "gain_title": f"← Gain{unit}",
        "gain_help": "How much the metric gains on validation data when this tensor learns beside the head, "
        "estimated from all that was measured and trained, as searches count it. Pale: the whole tensor; "
        f"full: at the share chosen now; thin line: the interval that holds the gain in {COVERAGE_TEXT}. As "
        "it was measured: on the card of each row, and in the table.",
        "cost_title": f"{cost.title} →",
        "cost_help": f"What training this tensor beside the head alone adds. {cost.help} "
        "Pale: the whole tensor; full: at the share chosen now.",
    }


TABLE_COSTS = ("peak_bytes", "flops", "step_ms")
TABLE_COLUMNS = (
    "Tensor", "Layer", "Shape", "Trained", "Gain, whole", "Measured", *(COSTS[k].title for k in TABLE_COSTS)
)  # fmt: skip


def table(
    rows: Sequence[LayerRow], ratios: Mapping[str, float], metric: fmt.MetricScale
) -> list[tuple[str, ...]]:
    """The same data as text, a line per row, in the order of `TABLE_COLUMNS`."""
    return [
        (
            row.id if row.kind != BIASES else f"last {row.steps} biases",
            LAYER_KINDS[row.layer_kind],
            "×".join(map(str, row.shape)),
            "head" if row.fixed else _share(row, ratios.get(row.id, 0.0)),
            _beside_measured(row.estimates[max(row.estimates)], None, metric)
            if row.estimates
            else fmt.UNKNOWN,
            metric.gain(row.gains[max(row.gains)].mean) if row.gains else fmt.UNKNOWN,
            *(COSTS[k].text(None if row.fixed else row.costs[k]) for k in TABLE_COSTS),
        )
        for row in rows
    ]


def _share(row: LayerRow, ratio: float) -> str:
    if row.kind == BIASES:
        return f"{round(ratio * row.steps)} of {row.steps}"
    return fmt.percent(ratio) if ratio else "frozen"
