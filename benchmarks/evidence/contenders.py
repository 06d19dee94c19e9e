"""What is compared: ways of choosing what learns, all but three of them within one budget."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

import pockgraph as pg
from pockgraph.baselines.elastic import elastic
from pockgraph.baselines.importance import importance, trained_head
from pockgraph.baselines.low_rank import low_rank
from pockgraph.baselines.within_budget import last_biases
from pockgraph.profile import Profile
from pockgraph.train_graph import TrainGraph

BUDGET_SHARE = 0.5  # of the way from the head's memory to that of everything: the larger automatic plan's
PROBE_BATCHES = 16
LABELS = {
    "head": "Head only",
    "biases": "Last biases",
    "preset": "Paper preset",
    "elastic": "ElasticTrainer",
    "lora": "LoRA",
    "auto_small": "Automatic, same budget",
    "auto": "Automatic, half way to full",
    "full": "Full fine-tuning",
}


@dataclass(frozen=True)
class Contender:
    """A way of choosing, and what it chose.

    Attributes:
        key: of `LABELS`.
        graph: whose plan it is; LoRA's has a network of its own.
        peak_bytes: modelled.
        note: of how it came about.
    """

    key: str
    graph: TrainGraph
    plan: pg.Plan
    peak_bytes: int
    note: str = ""

    @property
    def id(self) -> str:
        """Of the network and what of it is trained."""
        facts = [self.graph.fingerprint, self.plan.to_json()]
        text = json.loads(facts[1])
        what = {k: text[k] for k in ("model", "tensors", "optimizer")}
        return hashlib.sha256(json.dumps([facts[0], what], sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Budgets:
    """Of the contenders that share one, and of the larger automatic plan.

    Attributes:
        kind: `"process_bytes"`, or `"peak_bytes"` where no process could be measured.
    """

    kind: str
    shared_bytes: int
    half_bytes: int

    @property
    def shared(self) -> pg.Budget:
        return pg.Budget(**{self.kind: self.shared_bytes})

    @property
    def half(self) -> pg.Budget:
        return pg.Budget(**{self.kind: self.half_bytes})


def budgets(profile: Profile, shared_mb: float | None) -> Budgets:
    """The preset's memory unless another is given, and half way from the head's to that of everything."""
    kind = "peak_bytes" if profile.memory is None else "process_bytes"
    full = {t.fqn: 1.0 for t in profile.tensors}
    head, most, preset = (
        getattr(profile.figures(choice), kind)
        for choice in (dict.fromkeys(profile.head, 1.0), full, profile.presets["preset"])
    )
    shared = preset if shared_mb is None else round(shared_mb * 1e6)
    return Budgets(kind, shared, round(head + BUDGET_SHARE * (most - head)))


def choose(key: str, study: pg.Study, within: Budgets, probe_rate: float) -> Contender:
    """What this way of choosing trains.

    Args:
        probe_rate: of the short training of the head that precedes ElasticTrainer's probe.

    Raises:
        PockError: nothing fits the budget, or the network has nothing of the kind.
    """
    graph, profile = study.graph, study.profile
    match key:
        case "head":
            plan = pg.Plan.head(graph)
        case "biases":
            plan = last_biases(profile, within.shared)
        case "preset":
            plan = pg.Plan.preset(graph)
        case "elastic":
            head = trained_head(graph, lr=probe_rate)
            batches = itertools.islice(study.task.epoch(seed=0), PROBE_BATCHES)
            scores = importance(graph, [study.task.rebuild(b) for b in batches], values=head)
            plan = elastic(profile, scores, within.shared)
        case "lora":
            optimizer: Any = graph.optimizer
            adapted, plan = low_rank(study.task, optimizer, within.shared, memory=profile.memory)
            return Contender(key, adapted, plan, adapted.peak_bytes, plan.provenance["made_by"])
        case "auto_small":
            plan = study.search(within.shared)
        case "auto":
            plan = study.search(within.half)
        case _:
            plan = pg.Plan.full(graph)
    made_by = plan.provenance.get("made_by", "") if key in ("biases", "elastic") else ""
    return Contender(key, graph, plan, graph.prune(plan).peak_bytes, made_by)
