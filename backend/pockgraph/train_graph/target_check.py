"""(TrainGraph, target) -> Check: every operator that stands in the way, and the nearest plan that compiles.

Before → after, where only the backward pass of `blocks.1` is not supported:

    train everything    →    train from `blocks.2` up

A tensor's gradient needs what lies between it and the loss, so freezing those whose gradients wait for
an unsupported operator removes it. What the loss itself, or the metric, computes stays in every plan,
unless it depends on weights alone: once these are frozen it is folded into a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from ..errors import listing
from ..ir.graph import Graph, Role
from ..ir.reachability import ancestors, served_outputs
from ..passes import Pipeline
from ..plan import Plan
from ..targets import Target, Unsupported, get_target, target_names

if TYPE_CHECKING:
    from .train_graph import TrainGraph

MANY = 4  # operators with one reason, on several lines, up to which each is told by itself


@dataclass(frozen=True)
class Problem(Unsupported):
    """An operator of a plan's graphs that the target cannot lower.

    Attributes:
        needed_by: `"loss"`, `"metric"` or `"prediction"` (then every plan needs it), `"gradients"` or
            `"update"`.
    """

    needed_by: str

    def __str__(self) -> str:
        return f"{super().__str__()} (needed by the {self.needed_by})"


@dataclass(frozen=True)
class Check:
    """Whether a plan compiles for a target, and if not, what does.

    Attributes:
        target: its name.
        problems: every operator in the way, in schedule order; empty when the plan compiles.
        plan: the nearest plan that compiles: that which was checked, without the tensors whose
            gradients need an unsupported operator. None when there is none.
        advice: what to do, in a sentence or two; empty when the plan compiles.
        other_targets: targets installed here that lower the plan as it is.
    """

    target: str
    problems: tuple[Problem, ...]
    plan: Plan | None
    advice: str = ""
    other_targets: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tensors = None if self.plan is None else list(self.plan.tensors)
        return {
            "target": self.target, "ok": self.ok,
            "problems": [{k: v for k, v in asdict(p).items() if k != "node"} for p in self.problems],
            "advice": self.advice, "trainable": tensors, "other_targets": list(self.other_targets),
        }  # fmt: skip

    def __str__(self) -> str:
        if self.ok:
            trained = 0 if self.plan is None else len(self.plan.tensors)
            return (
                f"Target {self.target!r} lowers everything that this plan needs ({trained} tensors trained)."
            )
        count = len(self.problems)
        lines = "\n".join(f"  - {line}" for line in _lines(self.problems))
        head = f"Target {self.target!r} cannot lower {count} operator{'s' * (count > 1)}:"
        text = f"{head}\n{lines}\n{self.advice}"
        if self.other_targets:
            text += f" As it is, it compiles for {listing([repr(t) for t in self.other_targets])}."
        return text

    __repr__ = __str__


def _lines(problems: Sequence[Problem]) -> list[str]:
    """What stands in the way, in schedule order; many operators with one reason take one line."""
    by_reason: dict[str, list[Problem]] = {}
    for p in problems:
        by_reason.setdefault(p.reason, []).append(p)
    lines = []
    for reason, alike in by_reason.items():
        sources = list(dict.fromkeys(p.source for p in alike if p.source))
        if len(alike) <= (MANY if len(sources) > 1 else 1):
            lines += map(str, alike)
            continue
        ops = list(dict.fromkeys(p.op for p in alike))
        layers = list(dict.fromkeys(repr(p.layer) for p in alike if p.layer))
        named = f"layer{'s' * (len(layers) > 1)} {listing(layers)}" if layers else ""
        where = filter(None, (named, listing(sources)))
        needed = listing(list(dict.fromkeys(p.needed_by for p in alike)))
        lines.append(f"{listing(ops)} ({', '.join(where)}): {reason} (needed by the {needed})")
    return lines


def check(graph: TrainGraph, target: Target | str) -> Check:
    """Ask a target about a training graph and its evaluation, as they are after the shared passes.

    Raises:
        PockError: there is no such target.
    """
    lowering = get_target(target) if isinstance(target, str) else target
    pipeline = lowering.pipeline({})
    train, evaluation = pipeline.start(graph, "train"), pipeline.start(graph.evaluation(), "eval")
    return check_lowered(graph, lowering, train, evaluation, _predictions(graph, pipeline))


def _predictions(graph: TrainGraph, pipeline: Pipeline) -> list[Graph]:
    return [pipeline.start(p.graph, p.stem) for p in graph.prediction_graphs()]


def check_lowered(
    graph: TrainGraph, target: Target | str, train: Graph, evaluation: Graph, predictions: Sequence[Graph]
) -> Check:
    """`check`, for those who have run the passes: the graphs are as in `check`."""
    lowering = get_target(target) if isinstance(target, str) else target
    obstacles = [*_in_training(lowering, train), *_in_forward(lowering, evaluation, predictions)]
    if not obstacles:
        return Check(lowering.name, (), graph.plan)
    problems = tuple(dict.fromkeys(o.problem for o in obstacles))
    plan, stuck = _nearest_plan(graph, lowering, obstacles)
    advice = _why_none(stuck, graph) if plan is None else _how(plan, graph)
    others = tuple(
        name
        for name in target_names()
        if name != lowering.name and _lowers(name, (train, evaluation, *predictions))
    )
    return Check(lowering.name, problems, plan, advice, others)


def _lowers(name: str, graphs: Iterable[Graph]) -> bool:
    try:
        other = get_target(name)
    except ModuleNotFoundError:  # its compiler is not installed
        return False
    return not any(other.unsupported(g) for g in graphs)


# ---------------------------------------------------------------- what stands in the way


@dataclass(frozen=True)
class _Obstacle:
    """An unsupported node, and what would have to be frozen to be rid of it.

    Attributes:
        blocked: tensors to freeze; empty when nothing helps.
    """

    problem: Problem
    blocked: frozenset[str]


def _in_training(target: Target, graph: Graph) -> list[_Obstacle]:
    found = _unsupported_nodes(target, graph)
    if not found:
        return []
    by_loss = ancestors(graph.results["loss"])
    needs = served_outputs(graph)
    slots = graph.outputs
    trained = frozenset(s.fqn for s in graph.inputs if s.trained)
    obstacles = []
    for node, what in found:
        if node in by_loss:
            obstacles.append(_Obstacle(_problem(what, "loss"), _foldable(graph, node)))
            continue
        waiting = {s.fqn for i, s in enumerate(slots) if needs[node] >> i & 1}
        # An optimizer's state that all tensors share has no name: nothing is updated without it.
        blocked = trained if "" in waiting else frozenset(waiting)
        by = "update" if node.meta["phase"] == "update" else "gradients"
        obstacles.append(_Obstacle(_problem(what, by), blocked))
    return obstacles


def _in_forward(target: Target, evaluation: Graph, predictions: Sequence[Graph]) -> list[_Obstacle]:
    return [
        _Obstacle(_problem(what, needed_by), _foldable(graph, node))
        for graph, needed_by in [(evaluation, "metric"), *((p, "prediction") for p in predictions)]
        for node, what in _unsupported_nodes(target, graph)
    ]


def _problem(what: Unsupported, needed_by: str) -> Problem:
    return Problem(what.op, what.layer, what.source, what.reason, what.node, needed_by)


def _unsupported_nodes(target: Target, graph: Graph) -> list[tuple[fx.Node, Unsupported]]:
    nodes = {n.name: n for n in graph.nodes()}
    return [(nodes[u.node], u) for u in target.unsupported(graph)]


def _foldable(graph: Graph, node: fx.Node) -> frozenset[str]:
    """The trained tensors that `node` is computed from, if from nothing else that varies."""
    inputs = dict(zip(graph.placeholders.values(), graph.inputs, strict=True))
    varying = [
        inputs[n] for n in ancestors(node) if n in inputs and (inputs[n].is_state or _given(inputs[n]))
    ]
    return frozenset() if any(map(_given, varying)) else frozenset(s.fqn for s in varying)


def _given(slot: Any) -> bool:
    return slot.role in (Role.BATCH, Role.LR)


# ---------------------------------------------------------------- what compiles instead


def _nearest_plan(
    graph: TrainGraph, target: Target, obstacles: Sequence[_Obstacle]
) -> tuple[Plan | None, Sequence[_Obstacle]]:
    """The plan without the blocked tensors, checked again until nothing is left; or None, and why."""
    plan, pipeline = graph.plan, target.pipeline({})
    while obstacles:
        hopeless = [o for o in obstacles if not o.blocked]
        blocked = frozenset().union(*(o.blocked for o in obstacles))
        rest = {fqn: t for fqn, t in plan.tensors.items() if fqn not in blocked}
        if hopeless or not rest:
            return None, hopeless or obstacles
        plan = plan.model_copy(
            update={"tensors": rest, "predicted": {}, "measured": {}, "provenance": {"made_by": "check"}}
        )
        small = graph.prune(plan)
        obstacles = [
            *_in_training(target, pipeline.start(small, "train")),
            *_in_forward(target, pipeline.start(small.evaluation(), "eval"), _predictions(small, pipeline)),
        ]
    return plan, ()


def _why_none(stuck: Sequence[_Obstacle], graph: TrainGraph) -> str:
    """Why no tensor can be trained."""
    needed = {o.problem.needed_by for o in stuck}
    ops = listing(sorted({o.problem.op for o in stuck}))
    if "loss" in needed:
        return (
            f"The forward pass needs {ops}, whatever is trained, so no plan helps: rewrite those lines of "
            "the model or the loss."
        )
    if needed <= {"metric", "prediction"}:
        what = " and the ".join(sorted(needed))
        return (
            f"The {what} needs {ops}, whatever is trained, so no plan helps: rewrite those lines of the "
            f"model or the {what}."
        )
    if needed == {"update"}:
        return (
            f"The update of the optimizer {graph.optimizer.name!r} needs {ops} for every tensor, so no plan "
            "helps: choose another optimizer."
        )
    return (
        f"Every gradient of this plan passes through {ops}, so no part of the plan compiles: rewrite those "
        "lines of the model or the loss, or train tensors nearer to the loss."
    )


def _how(plan: Plan, graph: TrainGraph) -> str:
    kept, count = set(plan.tensors), f"{len(plan.tensors)} of its {len(graph.plan.tensors)} tensors"
    tensors = [r for r in graph.tensors if r.fqn in graph.plan.tensors]
    where = next(i for i, r in enumerate(tensors) if r.fqn in kept)
    if all(r.fqn in kept for r in tensors[where:]):
        first = tensors[where]
        whole = [
            name
            for name, part in ((first.block, "block"), (first.layer, "layer"))
            if name and all(r.fqn in kept for r in tensors if getattr(r, part) == name)
        ]
        return f"Train from `{(whole or [first.fqn])[0]}` up, {count}, and it compiles."
    frozen = [r.fqn for r in tensors if r.fqn not in kept]
    if len(frozen) <= len(kept):
        return f"Freeze {listing(frozen)} (train {count}), and it compiles."
    return f"Train {listing([r.fqn for r in tensors if r.fqn in kept])} ({count}), and it compiles."
