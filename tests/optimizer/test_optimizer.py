"""Optimizers as graph nodes against torch.optim, alone and on a tensor of random gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from eager_loop import EagerLoop
from hypothesis import given
from hypothesis import strategies as st
from models import zoo
from oracle import ALL_OPTIMIZERS, PLANS, TOLERANCE, built, feed, next_state
from torch import fx

import pockgraph as pg
from pockgraph.errors import TaskError
from pockgraph.ir.graph import Builder, Graph, Role, Slot, meta_like, output_args
from pockgraph.ir.slot_names import EMA
from pockgraph.optimizer import OPTIMIZERS, Base, Optimizer, optimizer_from_dict
from pockgraph.optimizer.updates import Updates, scalar_state, tensor_state

aten = torch.ops.aten
SHAPE = (3, 4)
BIAS = (4,)
SHAPES = {"p": SHAPE, "bias": BIAS}


def update_graph(optimizer: Optimizer, shapes: dict[str, tuple[int, ...]]) -> Graph:
    """Some tensors, their gradients from the batch, and the updates alone."""
    slots = [Slot(Role.LR, "", (), "float32")]
    for fqn, shape in shapes.items():
        slots += [
            Slot(Role.BATCH, fqn, shape, "float32"),
            Slot(Role.PARAM, fqn, shape, "float32", trained=True),
        ]
        states = tensor_state(optimizer, shape).items()
        slots += [Slot(Role.OPT_STATE, fqn, s, "float32", key=k) for k, s in states]
    slots += [Slot(Role.OPT_STATE, "", (), "float32", key=k) for k in scalar_state(optimizer)]
    graph = fx.Graph()
    nodes = {}
    values = {}
    for slot in slots:
        nodes[slot.name] = graph.placeholder(slot.name.replace(":", "_"))
        nodes[slot.name].meta["val"] = meta_like(torch.empty(slot.shape))
        initial = scalar_state(optimizer).get(slot.key, 0.0) if not slot.fqn else 0.0
        start = start_of(slot.shape) if slot.trained or slot.key == EMA else None
        values[slot.name] = torch.full(slot.shape, initial) if start is None else start
    b = Builder(graph, "update")
    updates = Updates(optimizer, nodes["lr"], {k: nodes[f"opt_state:{k}"] for k in scalar_state(optimizer)})
    outputs = {Slot(Role.NEW_OPT_STATE, "", (), "float32", key=k): v for k, v in updates.begin(b).items()}
    of = {
        fqn: {s.key: nodes[s.name] for s in slots if s.role is Role.OPT_STATE and s.fqn == fqn}
        for fqn in shapes
    }
    grads = {fqn: updates.gradient(b, nodes[f"batch:{fqn}"], of[fqn]) for fqn in shapes}
    if optimizer.clip_norm is not None:
        updates.clip(b, [updates.square(b, fqn, g) for fqn, g in grads.items()])
    for fqn, shape in shapes.items():
        new, new_state = updates.update(b, fqn, nodes[f"trained:{fqn}"], grads[fqn], of[fqn])
        outputs[Slot(Role.NEW_PARAM, fqn, shape, "float32")] = new
        for k, v in new_state.items():
            outputs[Slot(Role.NEW_OPT_STATE, fqn, tuple(v.meta["val"].shape), "float32", key=k)] = v
    graph.output(tuple(outputs.values()))
    made = Graph(graph, tuple(slots), tuple(outputs), values)
    made.validate()
    return made


def start_of(shape: Sequence[int]) -> torch.Tensor:
    return torch.linspace(-1, 1, math.prod(shape)).reshape(tuple(shape))


def rules() -> st.SearchStrategy[Optimizer]:
    """Every optimizer, with all the options that are its own."""
    decay = st.sampled_from([0.0, 1e-4, 0.1])
    sgd = st.builds(pg.SGD, momentum=st.sampled_from([0.0, 0.5, 0.9]), weight_decay=decay)
    nesterov = st.builds(
        pg.SGD, momentum=st.sampled_from([0.5, 0.9]), weight_decay=decay, nesterov=st.just(True)
    )
    betas = st.tuples(st.sampled_from([0.0, 0.8, 0.9]), st.sampled_from([0.9, 0.999]))
    eps = st.sampled_from([1e-8, 1e-3])
    adam = st.builds(pg.Adam, betas=betas, eps=eps, weight_decay=decay, amsgrad=st.booleans())
    adamw = st.builds(pg.AdamW, betas=betas, eps=eps, weight_decay=decay)
    lion = st.builds(pg.Lion, betas=betas, weight_decay=decay)
    adafactor = st.builds(
        pg.Adafactor, beta2_decay=st.sampled_from([-0.8, -0.5]), d=st.sampled_from([1.0, 2.0]),
        eps=st.tuples(st.sampled_from([None, 1e-4]), st.sampled_from([1e-3, 0.9])), weight_decay=decay,
    )  # fmt: skip
    return st.one_of(sgd, nesterov, adam, adamw, lion, adafactor)


@st.composite
def optimizers(draw: st.DrawFn) -> Optimizer:
    """Every optimizer, with every option."""
    group = st.builds(
        pg.Group, st.sampled_from(["p", "bias", "*"]), st.sampled_from([0.0, 0.5, 3.0]),
        st.sampled_from([None, 0.0, 0.2]),
    )  # fmt: skip
    return replace(
        draw(rules()),  # pyright: ignore[reportArgumentType]
        groups=tuple(draw(st.lists(group, max_size=2))),
        clip_norm=draw(st.sampled_from([None, 0.3, 3.0])),
        accumulate=draw(st.integers(1, 3)),
        ema_decay=draw(st.sampled_from([None, 0.5, 0.99])),
    )


def gradients(steps: int) -> Iterator[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield {fqn: torch.randn(shape, generator=g) for fqn, shape in SHAPES.items()}


def states_of(optimizer: Optimizer, lrs: Sequence[float]) -> Iterator[dict[str, torch.Tensor]]:
    """All state before the first step, and after each."""
    graph = update_graph(optimizer, SHAPES)
    values: dict[str, torch.Tensor] = dict(graph.values)
    yield values
    for grads, lr in zip(gradients(len(lrs)), lrs):
        values = values | next_state(graph, feed(graph, values, grads, lr))
        yield values


def in_graph(optimizer: Optimizer, lrs: Sequence[float]) -> dict[str, torch.Tensor]:
    """Weights after the steps, and their averages as `fqn:ema`."""
    *_, values = states_of(optimizer, lrs)
    weights = {fqn: values[f"trained:{fqn}"] for fqn in SHAPES}
    averages = {f"{fqn}:{EMA}": values.get(f"opt_state:{fqn}:{EMA}", w) for fqn, w in weights.items()}
    return weights | averages


def in_torch(optimizer: Optimizer, lrs: Sequence[float], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    leaves = {fqn: start_of(shape).to(dtype).requires_grad_() for fqn, shape in SHAPES.items()}
    stepper = EagerLoop(optimizer, leaves)
    for grads, lr in zip(gradients(len(lrs)), lrs):
        stepper.zero_grad()
        for fqn, leaf in leaves.items():
            part = grads[fqn].to(dtype) / stepper.micro_batches
            leaf.grad = part if leaf.grad is None else leaf.grad + part
        stepper.step(lr)
    average = {f"{fqn}:{EMA}": a.detach() for fqn, a in stepper.average.items()}
    return {fqn: leaf.detach() for fqn, leaf in leaves.items()} | average


def rates(max_size: int = 12) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from([0.0, 1e-3, 0.1]), min_size=1, max_size=max_size)


def assert_updates_are_torchs(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    exact, eager = in_torch(optimizer, lrs, torch.float64), in_torch(optimizer, lrs, torch.float32)
    t = TOLERANCE[torch.float32]
    for name, got in in_graph(optimizer, lrs).items():
        start = start_of(got.shape)
        error, eager_error = (got.double() - exact[name]).norm(), (eager[name].double() - exact[name]).norm()
        allowed = t.update_ratio * (exact[name] - start).norm() + t.referee_factor * eager_error
        assert error <= allowed + len(lrs) * t.rounding_ratio * start.norm(), name


@given(rules(), rates(20))
def test_updates_are_torch_optims(optimizer: Optimizer, lrs: list[float]) -> None:
    assert_updates_are_torchs(optimizer, lrs)


@given(optimizers(), rates())
def test_what_stands_around_a_rule_is_pytorchs(optimizer: Optimizer, lrs: list[float]) -> None:
    assert_updates_are_torchs(optimizer, lrs)


@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_ten_steps_of_each_optimizer_are_torch_optims(name: str) -> None:
    assert_updates_are_torchs(ALL_OPTIMIZERS[name], [1e-2] * 10)


# ---------------------------------------------------------------- around the rule


@given(rules(), rates(5))
def test_clipping_far_above_the_norm_is_no_clipping(optimizer: Optimizer, lrs: list[float]) -> None:
    clipped = in_graph(replace(optimizer, clip_norm=1e30), lrs)  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(v, clipped[k]) for k, v in in_graph(optimizer, lrs).items())


def test_clipping_limits_the_norm_over_all_tensors() -> None:
    after = in_graph(pg.SGD(clip_norm=0.5), [1.0])
    moved = torch.stack([(after[fqn] - start_of(shape)).norm() for fqn, shape in SHAPES.items()]).norm()
    assert float(moved) == pytest.approx(0.5, rel=1e-5)


def test_one_micro_batch_is_no_accumulation() -> None:
    """Not a node, not a state more."""
    graph = update_graph(pg.AdamW(accumulate=1), SHAPES)
    assert graph.code() == update_graph(pg.AdamW(), SHAPES).code()
    assert pg.AdamW(accumulate=1).to_dict() == pg.AdamW().to_dict()


@given(optimizers(), st.integers(2, 4), rates(8))
def test_micro_steps_between_updates_change_nothing_but_the_sum(
    optimizer: Optimizer, n: int, lrs: list[float]
) -> None:
    """Weights, momentum, averages and counts stay bit for bit until the n-th step."""
    optimizer = replace(optimizer, accumulate=n)  # pyright: ignore[reportArgumentType]
    before: dict[str, torch.Tensor] = {}
    for step, after in enumerate(states_of(optimizer, lrs)):
        if step % n:
            moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
            assert moved == {"opt_state:micro_step", *(f"opt_state:{fqn}:accumulated" for fqn in SHAPES)}
        elif step:
            assert not after["opt_state:micro_step"]
        before = after


def test_accumulated_micro_batches_are_one_batch() -> None:
    """Without accumulation, the mean gradient: the same update."""
    graph = update_graph(pg.SGD(momentum=0.9), SHAPES)
    grads = list(gradients(3))
    mean = {fqn: torch.stack([g[fqn] for g in grads]).mean(0) for fqn in SHAPES}
    once = next_state(graph, feed(graph, graph.values, mean, 0.1))
    thrice = in_graph(pg.SGD(momentum=0.9, accumulate=3), [9.0, 9.0, 0.1])
    for fqn in SHAPES:
        torch.testing.assert_close(thrice[fqn], once[f"trained:{fqn}"])


def test_an_average_begins_with_the_initial_weights() -> None:
    after = in_graph(pg.SGD(ema_decay=0.75), [0.1])
    for fqn, shape in SHAPES.items():
        torch.testing.assert_close(after[f"{fqn}:{EMA}"], 0.75 * start_of(shape) + 0.25 * after[fqn])


def test_the_first_group_that_matches_counts() -> None:
    first = pg.Group("bias", lr_scale=0.0)
    after = in_graph(pg.SGD(groups=(first, pg.Group("*", lr_scale=2.0))), [0.1])
    plain = in_graph(pg.SGD(), [0.2])
    assert torch.equal(after["bias"], start_of(BIAS))
    torch.testing.assert_close(after["p"], plain["p"])


def test_all_gradients_are_alive_when_they_are_clipped_together() -> None:
    """The schedule says so, and the modelled peak with it: no update before the last gradient."""
    plain, clipped = built("mlp", "momentum"), built("mlp", "clip")
    nodes = [n for n in clipped.fx.nodes if n.op == "call_function"]
    order = {n: i for i, n in enumerate(nodes)}
    new = [order[n] for s, n in zip(clipped.outputs, output_args(clipped.fx)) if s.role is Role.NEW_PARAM]
    assert min(new) > max(order[n] for n in clipped.nodes("backward"))
    weights = sum(s.nbytes for s in clipped.inputs if s.trained)
    assert clipped.timeline.live_bytes[max(order[n] for n in clipped.nodes("backward"))] >= (
        clipped.timeline.resident_bytes + weights
    )
    assert clipped.peak_bytes > plain.peak_bytes


def test_a_thousand_steps_of_adamw_stay_exact() -> None:
    """The running bias corrections do not drift from `1 - beta**t`."""
    graph = update_graph(pg.AdamW(), {"p": (1,)})
    values = dict(graph.values)
    for _ in range(1000):
        values |= next_state(graph, feed(graph, values, {"p": torch.ones(1)}, 0.0))
    assert float(values["opt_state:bias_correction2"]) == pytest.approx(1 - 0.999**1000, rel=1e-5)
    assert float(values["opt_state:bias_correction1"]) == pytest.approx(1 - 0.9**1000, rel=1e-5)


@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_a_learning_rate_of_zero_moves_nothing(name: str) -> None:
    after = in_graph(ALL_OPTIMIZERS[name], [0.0, 0.0])
    assert all(torch.equal(after[fqn], start_of(shape)) for fqn, shape in SHAPES.items())


def test_defaults_are_torch_optims() -> None:
    for kind in (pg.SGD, pg.Adam, pg.AdamW, pg.Adafactor):
        theirs = getattr(torch.optim, kind.__name__)([torch.zeros(1)], lr=kind().lr).defaults
        shared = {f.name for f in fields(Base)}
        options = {k: v for k, v in vars(kind()).items() if k not in shared}
        assert options == {k: theirs[k] for k in options}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "adafactor", "everything"])
@pytest.mark.parametrize("plan", ["head", "half"])
def test_state_exists_for_what_is_trained_only(plan: str, optimizer: str) -> None:
    graph = built("mobilenet", optimizer)
    small = graph.prune(PLANS[plan](graph))
    rule = ALL_OPTIMIZERS[optimizer]
    trained = {s.fqn: s.shape for s in small.inputs if s.trained}
    assert trained.keys() == small.plan.tensors.keys()
    states = [s for s in small.inputs if s.role is Role.OPT_STATE]
    own = {fqn: tensor_state(rule, shape) for fqn, shape in trained.items()}
    expected = {(fqn, key, shape) for fqn, shapes in own.items() for key, shape in shapes.items()}
    expected |= {("", key, ()) for key in scalar_state(rule)}
    assert {(s.fqn, s.key, s.shape) for s in states} == expected
    for s in states:
        weight = small.values[f"trained:{s.fqn}"] if s.key == EMA else torch.zeros(s.shape)
        assert torch.equal(small.values[s.name], weight)
    nexts = {(s.fqn, s.key, s.shape) for s in small.outputs if s.role is Role.NEW_OPT_STATE}
    assert nexts == expected


def test_a_factored_state_is_a_row_and_a_column() -> None:
    """Also of the trained part, here four input channels of a linear layer."""
    graph = built("mlp", "adafactor")
    row = next(r for r in graph.tensors if r.kind == "weight")
    assert row.channel_dim == 1
    small = graph.prune(pg.Plan.of(graph, {row.fqn: [0, 2, 3, 5]}))
    shapes = {s.key: s.shape for s in small.inputs if s.role is Role.OPT_STATE and s.fqn}
    assert shapes == {"row_var": (row.shape[0], 1), "col_var": (1, 4)}
    assert small.timeline.state_bytes == 4 * (row.shape[0] + 4 + 1)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_building_with_an_optimizer_and_swapping_it_in_agree(name: str) -> None:
    """The other tests capture each model once and swap the optimizer."""
    assert pg.build(zoo("mlp"), ALL_OPTIMIZERS[name]).code() == built("mlp", name).code()


def test_the_optimizer_is_inside_the_graph() -> None:
    """Trap 4: an update outside the graph cannot be reordered. Here each stands where its gradient
    is made, before the gradients of earlier layers exist, so that no two gradients live at once."""
    graph = built("mlp", "adamw")
    updates = [i for i, n in enumerate(graph.nodes()) if n.meta["phase"] == "update" and n.meta["layer"]]
    backward = [i for i, n in enumerate(graph.nodes()) if n.meta["phase"] == "backward"]
    assert min(updates) < max(backward)
    order = {n: i for i, n in enumerate(graph.fx.nodes)}
    new = {s.fqn: order[n] for s, n in zip(graph.outputs, output_args(graph.fx)) if s.role is Role.NEW_PARAM}
    mms = [order[n] for n in graph.nodes("backward") if n.target is aten.mm.default]
    assert new["layers.4.weight"] < mms[-1]
    assert new["layers.4.weight"] < new["layers.2.weight"] < new["layers.0.weight"]


# ---------------------------------------------------------------- descriptions


@given(optimizers())
def test_an_optimizer_survives_a_plan_file(optimizer: Optimizer) -> None:
    described = json.loads(json.dumps(optimizer.to_dict()))
    assert optimizer_from_dict(described) == optimizer
    assert optimizer_from_dict(described).to_dict() == described
    assert optimizer.to_dict().keys() <= {"name", *(f.name for f in fields(type(optimizer)))}  # pyright: ignore


def test_options_that_are_not_in_use_are_not_written() -> None:
    """Plans and studies of before say the same as today's."""
    assert pg.SGD(lr=0.1).to_dict() == {
        "name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"name": "sdg"}, ["'sdg'", "Did you mean 'sgd'"]),
        ({}, ["sgd", "adamw", "adafactor"]),
        ({"name": "sgd", "momentun": 0.9}, ["momentun", "Did you mean 'momentum'"]),
        ({"name": "sgd", "clip_nrm": 1.0}, ["clip_nrm", "Did you mean 'clip_norm'"]),
        ({"name": "sgd", "groups": [{"pattern": "*", "lr_scael": 2.0}]}, ["lr_scael", "'lr_scale'"]),
        ({"name": "sgd", "groups": [{"lr_scale": 2.0}]}, ["needs a pattern"]),
        ({"name": "sgd", "groups": ["*.bias"]}, ["'*.bias'"]),
        ({"name": "sgd", "groups": "*.bias"}, ["list of groups"]),
        ({"name": "sgd", "lr": "fast"}, ["lr", "'fast'"]),
        ({"name": "sgd", "lr": math.nan}, ["lr", "nan"]),
        ({"name": "sgd", "accumulate": 0}, ["accumulate", "0"]),
        ({"name": "sgd", "accumulate": 1.5}, ["accumulate", "1.5"]),
        ({"name": "sgd", "clip_norm": 0}, ["clip_norm", "None"]),
        ({"name": "sgd", "clip_norm": math.inf}, ["clip_norm", "inf"]),
        ({"name": "sgd", "ema_decay": 1.0}, ["ema_decay", "below 1"]),
        ({"name": "adam", "betas": 0.9}, ["betas", "pair"]),
        ({"name": "lion", "betas": [0.9, 1.0]}, ["betas[1]", "below 1"]),
        ({"name": "adafactor", "eps": [None, None]}, ["eps[1]"]),
        ({"name": "adafactor", "d": 0.5}, ["1 or more"]),
        ({"name": "adafactor", "beta2_decay": 0.8}, ["beta2_decay"]),
    ],
)
def test_an_unknown_description_is_refused(described: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        optimizer_from_dict(described)
    assert all(s in str(caught.value) for s in says)


@given(st.sampled_from(sorted(OPTIMIZERS)), st.text("abcdefgz_", min_size=1, max_size=8))
def test_any_unknown_option_is_refused_by_name(name: str, option: str) -> None:
    if option not in {f.name for f in fields(OPTIMIZERS[name])}:
        with pytest.raises(TaskError, match=option):
            optimizer_from_dict({"name": name, option: 1.0})


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(TaskError, match="needs a momentum"):
        pg.SGD(nesterov=True)


@pytest.mark.parametrize(
    ("pattern", "hint"), [("*.bais", r"'\*\.bias'"), ("layers.0.weigth", "'layers.0.weight'")]
)
def test_a_group_of_no_tensor_is_refused(pattern: str, hint: str) -> None:
    grouped = pg.SGD(groups=(pg.Group(pattern, lr_scale=2.0),))
    with pytest.raises(TaskError, match=f"matches no trainable tensor.*{hint}"):
        pg.build(zoo("mlp"), grouped)
    graph = built("mlp")
    with pytest.raises(TaskError, match="matches no trainable tensor"):
        replace(graph, optimizer=grouped).prune(pg.Plan.head(graph))
