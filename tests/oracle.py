"""The oracle: eager PyTorch autograd and `torch.optim`, and the contract that every form of a
training graph has to meet.

A tensor counts as right by one rule for all tests; a float64 run of the same steps is the referee:

    |ours - f64| <= update_ratio |f64 - initial| + referee_factor |eager - f64| + rounding

where `rounding` is what storing a weight in its dtype costs, once a step. Eager PyTorch's own error is one
draw of many: where it is not enough, the largest one of runs whose weights start a last bit away counts,
up to `widest_ratio` of what training changed, or `RESIDUE_RATIO` of what it changed most elsewhere (a bias
ahead of a batch norm moves by rounding alone).

Some gradients are zero but for rounding: of an attention key's bias, of a bias ahead of a batch norm.
AdamW and its like divide rounding by rounding there, and two correct float32 programs differ by as much as
such an update can be, `reach`. The loss does not depend on these tensors; what the metric makes of them
eager PyTorch says, given the weights that we arrived at.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import ZOO, zoo
from torch import Tensor, fx, nn
from truth import Steps, Truth, eager_gradients, indices, metric_given

import pockgraph as pg
from pockgraph.capture import trace_loss
from pockgraph.ir.graph import Graph, Role
from pockgraph.optimizer import Optimizer
from pockgraph.plan import Trained
from pockgraph.prng import step_keys
from pockgraph.task.batch import Batch, as_named
from pockgraph.train_graph import TrainGraph


@dataclass(frozen=True)
class Tolerance:
    """How far a correct program of one dtype may be from the oracle.

    Attributes:
        loss_ratio: error of a loss or metric, relative to its size.
        update_ratio: error of a trained tensor, relative to the norm of what training changed.
        referee_factor: times the error that eager PyTorch itself makes.
        rounding_ratio: of the tensor's norm, per step.
        widest_ratio: the most that the error of eager PyTorch allows for, relative to what training changed.
    """

    loss_ratio: float
    update_ratio: float
    referee_factor: float
    rounding_ratio: float
    widest_ratio: float = 0.05


# Of what activations and gradients are computed in. Weights and their update are float32 in each, and
# the eager run that a lower precision is compared with computes under `torch.autocast`.
TOLERANCE = {
    torch.float32: Tolerance(1e-5, 1e-4, 2.0, 2.0**-24),
    # One unit that rounds to the other side of a ReLU's edge moves a small tensor by a tenth of its update.
    torch.bfloat16: Tolerance(2e-2, 2e-2, 2.5, 2.0**-24, 0.1),
    torch.float16: Tolerance(5e-3, 2e-2, 2.5, 2.0**-24, 0.1),
}

# A gradient smaller than this share of the largest one, in float64, is rounding in float32.
ROUNDING_RATIO = 1e-6
# What rounding may move a tensor that does not move otherwise, relative to the one that moves most.
RESIDUE_RATIO = 1e-5


# ---------------------------------------------------------------- running a graph without any target


def feed(graph: Graph, values: Mapping[str, Tensor], batch: Batch, lr: float, step: int = 0) -> list[Tensor]:
    """The graph's outputs for one batch, computed by `torch.fx` operator by operator."""
    given = {Role.BATCH: lambda s: batch[s.fqn], Role.LR: lambda s: torch.tensor(lr),
             Role.SEED: lambda s: torch.from_numpy(step_keys(0, step))}  # fmt: skip
    inputs = [given.get(s.role, lambda s: values[s.name])(s) for s in graph.inputs]
    with torch.no_grad():
        return list(fx.Interpreter(nn.Module(), graph=graph.fx).run(*inputs))


def next_state(graph: Graph, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Input slot name -> its next value."""
    role = {
        Role.NEW_PARAM: Role.PARAM, Role.NEW_BUFFER: Role.BUFFER, Role.NEW_OPT_STATE: Role.OPT_STATE
    }  # fmt: skip
    return {
        replace(s, role=role[s.role], trained=s.role is Role.NEW_PARAM).name: value
        for s, value in zip(graph.outputs, outputs, strict=True)
        if s.role in role
    }


def run_steps(
    graph: TrainGraph, train: Graph, evaluation: Graph, batches: Sequence[Batch], lrs: Sequence[float]
) -> Steps:
    """Take steps with `train`, which is `graph` or what passes made of it."""
    values, losses = dict(train.values), []
    for step, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):
        outputs = feed(train, values, batch, lr, step)
        losses.append(float(outputs[0]))
        values |= next_state(train, outputs)
    metric = feed(evaluation, {**evaluation.values, **values}, batches[0], 0.0)[0]
    weights = {fqn: whole(graph, fqn, values[f"trained:{fqn}"]) for fqn in graph.plan.tensors}
    return Steps(losses, weights | {s.fqn: values[s.name] for s in train.inputs if s.changes}, metric)


def whole(graph: TrainGraph, fqn: str, trained: Tensor) -> Tensor:
    """A trained tensor in its full shape."""
    how = graph.plan.tensors[fqn]
    if how.dim is None:
        return trained
    return graph.initial(fqn).index_copy(how.dim, indices(how.channels), trained)


# ---------------------------------------------------------------- judging


def assert_equal_steps(
    got: Steps, truth: Truth, graph: TrainGraph, dtype: torch.dtype = torch.float32
) -> None:
    """Our steps and eager PyTorch's are the same."""
    t, expected = TOLERANCE[dtype], truth.float32
    for step, (a, b) in enumerate(zip(got.losses, expected.losses, strict=True)):
        assert abs(a - b) <= t.loss_ratio * abs(b), f"loss of step {step}: {a}, eager PyTorch {b}"
    assert got.weights.keys() == expected.weights.keys()
    noise = _noise(truth, graph)
    for fqn, exact in truth.float64.weights.items():
        nowhere = torch.zeros_like(exact, dtype=torch.bool)
        _assert_equal_weight(fqn, got, truth, graph, t, noise.get(fqn, nowhere))
    assert got.metric.shape == expected.metric.shape
    metric = expected.metric
    if noise and graph.optimizer.ema_decay is None:
        metric = metric_given(graph, got.weights, as_named(next(iter(graph.task.train))))
    rounding = (expected.metric.double() - truth.float64.metric.double()).abs().max()
    allowed = t.loss_ratio * metric.abs().max() + t.referee_factor * rounding
    assert (got.metric - metric).abs().max() <= allowed, "metric"


def _assert_equal_weight(
    fqn: str, got: Steps, truth: Truth, graph: TrainGraph, t: Tolerance, noise: Tensor
) -> None:
    before = graph.gradients.values
    initial = before.get(f"param:{fqn}", before.get(f"buffer:{fqn}"))
    assert initial is not None
    initial, exact = initial.double(), truth.float64.weights[fqn].double()

    def errors(run: Steps) -> Tensor:
        return run.weights[fqn].double() - exact

    def size(values: Tensor) -> float:
        return float(values[~noise].norm())

    if noise.any():
        off = float(errors(got)[noise].abs().max())
        assert off <= truth.float32.reach, f"{fqn}: off by {off:.3g} where only rounding moves it"
    error, eager_error = size(errors(got)), size(errors(truth.float32))
    update = size(exact - initial)
    rounding = len(truth.lrs) * t.rounding_ratio * size(initial)
    least = t.update_ratio * update + rounding
    if error > least + t.referee_factor * eager_error:
        nudged = max(size(errors(run)) for run in truth.nudged)
        widest = max(t.widest_ratio * update, RESIDUE_RATIO * _largest_update(truth, graph))
        eager_error = max(eager_error, min(nudged, widest / t.referee_factor))
    allowed = least + t.referee_factor * eager_error
    assert error <= allowed, f"{fqn}: off by {error:.3g}, update {update:.3g}, eager {eager_error:.3g}"


def _largest_update(truth: Truth, graph: TrainGraph) -> float:
    """The norm of the tensor that training moves most."""
    moved = [exact.double() - graph.initial(fqn).double() for fqn, exact in truth.float64.weights.items()
             if fqn in graph.plan.tensors]  # fmt: skip
    return max((float(m.norm()) for m in moved), default=0.0)


def _noise(truth: Truth, graph: TrainGraph) -> dict[str, Tensor]:
    """FQN -> where a gradient is rounding and nothing else, for optimizers that make an update of it."""
    if not truth.float32.reach:
        return {}
    gradients = truth.float64.gradients
    largest = max((float(g.abs().max()) for g in gradients.values()), default=0.0)
    found = {}
    for fqn, exact in gradients.items():
        small = exact.abs() <= ROUNDING_RATIO * largest
        # Zero in both runs is no rounding (a token that the batch lacks), unless all around it is.
        moves = (exact != 0) | (truth.float32.gradients[fqn] != 0)
        rounding = small if small.all() and moves.any() else small & moves
        how = graph.plan.tensors[fqn]
        if how.dim is not None:
            nowhere = torch.zeros(graph.plan.model[fqn], dtype=torch.bool)
            rounding = nowhere.index_copy(how.dim, indices(how.channels), rounding)
        if rounding.any():
            found[fqn] = rounding
    return found


def assert_frozen_unchanged(got: Steps, graph: TrainGraph) -> None:
    """The channels that a plan leaves out are the model's, bit for bit."""
    for fqn, how in graph.plan.tensors.items():
        initial = graph.initial(fqn)
        if how.dim is not None:
            frozen = indices(sorted({*range(initial.shape[how.dim])} - {*how.channels}))  # pyright: ignore
            after = got.weights[fqn].index_select(how.dim, frozen)
            assert torch.equal(after, initial.index_select(how.dim, frozen)), f"{fqn}: frozen channels moved"


# ---------------------------------------------------------------- the cases

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": pg.SGD(lr=0.1),
    "momentum": pg.SGD(lr=0.1, momentum=0.9),
    "nesterov": pg.SGD(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": pg.AdamW(lr=1e-2),
}
# The other rules, and what stands around a rule; each for some models on every target.
BIASES_OR_NORMS = "*.[bn]*"  # some of Llama's and T5's tensors, too, which have no biases
MORE_OPTIMIZERS: dict[str, Optimizer] = {
    "adam": pg.Adam(lr=1e-2, weight_decay=0.1),
    "amsgrad": pg.Adam(lr=1e-2, amsgrad=True, ema_decay=0.5),
    "lion": pg.Lion(lr=1e-3, weight_decay=0.1),
    "adafactor": pg.Adafactor(lr=1e-2, weight_decay=0.1),
    "groups": pg.SGD(
        lr=0.1, momentum=0.9, weight_decay=0.1,
        groups=(pg.Group(BIASES_OR_NORMS, lr_scale=2.0, weight_decay=0.0), pg.Group("*", lr_scale=0.5)),
    ),
    "clip": pg.SGD(lr=0.1, momentum=0.9, clip_norm=0.05),
    "accumulate": pg.AdamW(lr=1e-2, accumulate=2),
    "everything": pg.Adafactor(
        lr=1e-2, weight_decay=0.1, accumulate=2, clip_norm=0.05, ema_decay=0.9,
        groups=(pg.Group(BIASES_OR_NORMS, lr_scale=2.0, weight_decay=0.0),),
    ),
}  # fmt: skip
ALL_OPTIMIZERS = OPTIMIZERS | MORE_OPTIMIZERS


def parts(graph: TrainGraph, ratio: float) -> dict[str, float]:
    return {r.fqn: ratio for r in graph.tensors if r.channel_dim is not None}


PLANS: dict[str, Callable[[TrainGraph], pg.Plan]] = {
    "full": pg.Plan.full,
    "head": pg.Plan.head,
    "biases": lambda g: pg.Plan.last_k_biases(g, 3),
    "preset": pg.Plan.preset,
    "half": lambda g: pg.Plan.of(g, parts(g, 0.5)),
    "eighth": lambda g: pg.Plan.of(g, parts(g, 0.125), channels="random", seed=3),
}


def last(graph: TrainGraph) -> pg.Plan:
    """A convolution or matrix, a norm and the head, in part, and the last bias whole."""
    *several, bias = graph.tensors[-5:]
    return pg.Plan.of(graph, dict.fromkeys((r.fqn for r in several), 0.5) | {bias.fqn: 1.0})


MORE_PLANS: dict[str, Callable[[TrainGraph], pg.Plan]] = {"last": last}


@functools.cache
def built(model: str, optimizer: str = "sgd") -> TrainGraph:
    """The training graph of a zoo task. Captured once; an optimizer only adds nodes to it."""
    if optimizer == "sgd":
        return pg.build(zoo(model), OPTIMIZERS["sgd"])
    graph = replace(built(model), optimizer=ALL_OPTIMIZERS[optimizer])
    return graph.prune(pg.Plan.full(graph))


@dataclass(frozen=True)
class Case:
    model: str
    plan: str
    optimizer: str

    def __str__(self) -> str:
        return f"{self.model}-{self.plan}-{self.optimizer}"


ALL_CASES = tuple(itertools.starmap(Case, itertools.product(ZOO, PLANS, OPTIMIZERS)))


# Every model with every plan, and every optimizer with each of them: what an optimizer adds to a graph
# does not depend on the model, so the whole product is checked once and this elsewhere.
def covering(models: Iterable[str]) -> tuple[Case, ...]:
    return tuple(
        Case(model, plan, list(OPTIMIZERS)[(i + j) % len(OPTIMIZERS)])
        for i, model in enumerate(models)
        for j, plan in enumerate(PLANS)
    )


COVERING_CASES = covering(ZOO)
# The further optimizers; mobilenet's half and the transformer's eighth hold tensors of all kinds, whole
# and in part: convolutions, matrices, vectors.
OPTIMIZER_CASES = tuple(
    Case(*(("mobilenet", "half") if i % 2 else ("transformer", "eighth")), optimizer)
    for i, optimizer in enumerate([*MORE_OPTIMIZERS, "adafactor"])
)
# The same of a few tensors: what a target makes of a rule does not depend on how many follow it.
SMALL_OPTIMIZER_CASES = tuple(replace(case, plan="last") for case in OPTIMIZER_CASES)


def sampled(models: Iterable[str], start: int = 0) -> tuple[Case, ...]:
    """One case for each model; plans and optimizers take turns, from the plan number `start` on."""
    plans, optimizers = list(PLANS), list(OPTIMIZERS)
    return tuple(
        Case(model, plans[i % len(plans)], optimizers[i % len(optimizers)])
        for i, model in enumerate(models, start)
    )


def lrs_for(optimizer: Optimizer) -> list[float]:
    """A rate that changes with every step."""
    return [optimizer.lr, optimizer.lr * 0.5, optimizer.lr * 0.8]


@functools.cache
def traced(model: str) -> Graph:
    """Loss and gradients as captured, before they are made canonical."""
    return trace_loss(zoo(model)).graph


@functools.cache
def pruned(model: str, optimizer: str, plan_json: str) -> TrainGraph:
    """A plan's graph, shared by all that read it."""
    return built(model, optimizer).prune(pg.Plan.from_json(plan_json))


@functools.cache
def truth_of(model: str, optimizer: str, plan_json: str, dtype: torch.dtype = torch.float32) -> Truth:
    """Eager PyTorch's steps, under autocast for less than float32."""
    task, rule, plan = zoo(model), ALL_OPTIMIZERS[optimizer], pg.Plan.from_json(plan_json)
    autocast = None if dtype == torch.float32 else dtype
    return Truth(task, plan, rule, list(task.train), lrs_for(rule), autocast)


@st.composite
def choices(draw: st.DrawFn, graph: TrainGraph) -> dict[str, float | list[int] | Trained]:
    """What `Plan.of` takes: some tensors, whole or by explicit channels of any dimension; never nothing."""
    rows = draw(st.lists(st.sampled_from(graph.tensors), min_size=1, max_size=6, unique_by=lambda r: r.fqn))
    choice: dict[str, float | list[int] | Trained] = {}
    for row in rows:
        dim = draw(st.sampled_from([None, row.channel_dim, *range(len(row.shape))]))
        if dim is None:
            choice[row.fqn] = 1.0
            continue
        channel = st.integers(0, row.shape[dim] - 1)
        channels = draw(st.lists(channel, min_size=1, max_size=row.shape[dim], unique=True))
        plain = dim == row.channel_dim and draw(st.booleans())
        choice[row.fqn] = channels if plain else Trained(dim=dim, channels=tuple(sorted(channels)))
    return choice


class TrainingContract:
    """Three steps, each with its own batch and learning rate, equal eager PyTorch's.

    Inherit it in a test class and say in `run` how a training graph is run. `cases` may be fewer.
    """

    cases: Sequence[Case] = ALL_CASES
    plans: Mapping[str, Callable[[TrainGraph], pg.Plan]] = PLANS | MORE_PLANS
    dtype: torch.dtype = torch.float32  # of the tolerance
    drawn_plans: int = 12

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        """Take the steps of `graph` (a plan's graph) and evaluate the first batch."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=str)

    def test_steps_equal_eager_pytorch(self, case: Case) -> None:
        graph = built(case.model, case.optimizer)
        self.check(self.plans[case.plan](graph), case)

    def test_any_plan_equals_eager_pytorch(self) -> None:
        # What stands around a rule is compared with plans of its own.
        cells = sorted({(c.model, c.optimizer) for c in self.cases if c.optimizer in OPTIMIZERS})

        @given(data=st.data())
        @settings(max_examples=self.drawn_plans, suppress_health_check=[*HealthCheck])
        def one(data: st.DataObject) -> None:
            model, optimizer = data.draw(st.sampled_from(cells))
            graph = built(model, optimizer)
            plan = pg.Plan.of(graph, data.draw(choices(graph)))
            self.check(plan, Case(model, "drawn", optimizer))

        one()

    def check(self, plan: pg.Plan, case: Case) -> None:
        small = pruned(case.model, case.optimizer, plan.to_json())
        rule = ALL_OPTIMIZERS[case.optimizer]
        got = self.run(small, list(zoo(case.model).train), lrs_for(rule))
        truth = truth_of(case.model, case.optimizer, plan.to_json(), self.dtype)
        assert_equal_steps(got, truth, small, self.dtype)
        assert_frozen_unchanged(got, small)


# ---------------------------------------------------------------- single gradients


def assert_equal_gradients(graph: Graph, task: pg.Task) -> None:
    """The GRAD outputs of `graph` are autograd's, judged as weights are."""
    t = TOLERANCE[torch.float32]
    batch = as_named(next(iter(task.train)))
    outputs = zip(graph.outputs, feed(graph, graph.values, batch, 0.0))
    got = {s.fqn: value for s, value in outputs if s.role is not Role.NEW_BUFFER}
    reference, referee = eager_gradients(task, batch), eager_gradients(task, batch, torch.float64)
    got.pop("")
    assert got.keys() == reference.keys()
    typical = sum(g.norm() for g in referee.values()) / len(referee)
    for fqn, exact in referee.items():
        error, eager_error = (got[fqn].double() - exact).norm(), (reference[fqn].double() - exact).norm()
        allowed = t.update_ratio * exact.norm() + t.referee_factor * eager_error + t.rounding_ratio * typical
        assert error <= allowed, f"{fqn}: gradient off by {error:.3g} of {exact.norm():.3g}"
