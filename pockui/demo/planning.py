"""What the demo compares: ways of choosing what learns, each as a plan."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pockgraph as pg
from pockgraph.baselines.elastic import elastic
from pockgraph.baselines.importance import importance, trained_head
from pockgraph.baselines.low_rank import low_rank

from .settings import TUNING_SEED, Settings

PROBE_BATCHES = 16  # of ElasticTrainer's selection
BUDGET_SHARE = 0.5
BUDGET_RULE = "half way between the modelled peak of training the head and of training everything"


class PlannedMethod(NamedTuple):
    """A way of choosing what learns, with the plan it leads to.

    Attributes:
        graph: where the network is another one than the study's, as with adapters.
    """

    label: str
    rule: str
    plan: pg.Plan
    graph: pg.TrainGraph | None = None


def planned_methods(study: pg.Study, settings: Settings) -> tuple[int, dict[str, PlannedMethod]]:
    """The automatic plan's budget in bytes, and what is compared, by key; the study keeps the plans."""
    graph = study.graph
    head, full, preset = pg.Plan.head(graph), pg.Plan.full(graph), pg.Plan.preset(graph)
    head_peak, full_peak, preset_peak = (graph.prune(p).peak_bytes for p in (head, full, preset))
    budget = round(head_peak + BUDGET_SHARE * (full_peak - head_peak))
    k = sum(r.kind == "bias" for r in graph.tensors) // 2
    biases = pg.Plan.last_k_biases(graph, k)
    auto = study.search(pg.Budget(peak_bytes=budget))
    scheme = "the scheme PockEngine reports for this kind of network"
    found = {
        "head": PlannedMethod("Head only", "the new classifier", head),
        "biases": PlannedMethod(f"Last {k} biases", "the head and the last half of all biases", biases),
        "preset": PlannedMethod("Paper preset", scheme, preset),
    }
    if settings.baselines:
        found |= _baselines(study, settings, preset_peak)
    found["auto"] = PlannedMethod("Automatic", _rule(budget, "modelled peak"), auto)
    if settings.equal_memory:
        small = study.search(pg.Budget(peak_bytes=preset_peak))
        rule = _rule(preset_peak, "modelled peak, the preset's")
        found["auto_small"] = PlannedMethod("Automatic, preset's memory", rule, small)
    found["full"] = PlannedMethod("Full fine-tuning", "every tensor", full)
    for method in found.values():
        if method.graph is None:
            study.save_plan(method.label, _with_figures(graph, method.plan))
    return budget, found


def _baselines(study: pg.Study, settings: Settings, peak_bytes: int) -> dict[str, PlannedMethod]:
    """How others choose, within a modelled peak: the preset's."""
    graph, task, within = study.graph, study.task, pg.Budget(peak_bytes=peak_bytes)
    head = trained_head(graph, lr=settings.rates[len(settings.rates) // 2], seed=TUNING_SEED)
    batches = [task.rebuild(b) for b in itertools.islice(task.epoch(TUNING_SEED), PROBE_BATCHES)]
    chosen = elastic(study.profile, importance(graph, batches, values=head), within)
    rule = f"what ElasticTrainer selects within {peak_bytes / 1e6:.1f} MB modelled peak, the preset's"
    found = {"elastic": PlannedMethod("ElasticTrainer", rule, chosen)}
    if settings.adapters:
        adapted, plan = low_rank(task, graph.optimizer, within)
        rule = f"{plan.provenance['made_by'].partition(',')[0]}: what the preset's modelled peak allows"
        found["lora"] = PlannedMethod("LoRA", rule, plan, adapted)
    return found


def _with_figures(graph: pg.TrainGraph, plan: pg.Plan) -> pg.Plan:
    small = graph.prune(plan)
    figures = {"peak_bytes": small.peak_bytes, "extra_bytes": small.extra_bytes, "flops": small.flops}
    return plan.model_copy(update={"predicted": {**figures, **plan.predicted}})


def _rule(budget: int, what: str) -> str:
    return f"best measured contribution within {budget / 1e6:.1f} MB {what}"
