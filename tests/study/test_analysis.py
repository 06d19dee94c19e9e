"""Measuring contribution: what is measured, on which data, and that the numbers mean what they say."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from models import zoo
from shapes_task import BATCH, OPTIMIZER, QUICK, make_shapes, make_task, samples
from torch import nn

from pockgraph import passes
from pockgraph.contribution import Candidate, Gain, Measurement, analysis, tabulate
from pockgraph.contribution.activation_cache import Forward, choose_cuts, union_bytes
from pockgraph.contribution.candidates import (
    MAX_BIAS_COUNTS,
    Settings,
    candidates,
    choice_of,
    head_of,
    quick_settings,
)
from pockgraph.contribution.compiled_finetuning import CompiledBackend
from pockgraph.contribution.data import Data, fresh_values, with_validation
from pockgraph.contribution.eager_finetuning import EagerBackend
from pockgraph.contribution.finetuning import finetune
from pockgraph.contribution.gains import HEAD
from pockgraph.errors import NonFiniteLoss, StudyError, TaskError
from pockgraph.ir.graph import Role, aten
from pockgraph.optimizer import SGD
from pockgraph.passes.optimize.pointwise_as_matmul import PointwiseAsMatmul
from pockgraph.plan import Plan, presets
from pockgraph.profile.profiler import profile_of
from pockgraph.study import Study
from pockgraph.task import Batches, Task
from pockgraph.train_graph import builder as autodiff

GIGABYTE = 1 << 30


@pytest.fixture(scope="module")
def graph():
    return autodiff.build(make_shapes(), OPTIMIZER)


@functools.cache
def transformer():
    return autodiff.build(zoo("transformer"), SGD(lr=0.1))


# ---------------------------------------------------------------- the table


def measured(candidate: Candidate, seed: int, metric: float | None, status: str = "done") -> Measurement:
    return Measurement(0, "contribution", candidate, seed, status, 0.1, 1, "", metric, 0.0, 0.0, 0.0, "")  # pyright: ignore


def test_a_gain_is_the_difference_to_the_head_alone_with_the_same_seed() -> None:
    w, b = Candidate("weight", "w", 0.5), Candidate("bias_k", k=3)
    rows = [measured(HEAD, 0, 0.5), measured(HEAD, 1, 0.7), measured(w, 0, 0.6), measured(w, 1, 0.9)]
    c = tabulate([*rows, measured(b, 0, 0.4), measured(b, 7, 1.0)], ["h"], ["x"])
    assert c is not None
    assert c.weights["w"][0.5].mean == pytest.approx(0.15)
    assert c.weights["w"][0.5].std == pytest.approx(0.05 * 2**0.5)
    assert c.biases[3] == Gain.of([0.4 - 0.5])
    assert (c.head, c.bias_order) == (("h",), ("x",))


def test_a_candidate_that_diverged_with_one_seed_has_no_gain() -> None:
    w = Candidate("weight", "w", 1.0)
    rows = [measured(HEAD, s, 0.5) for s in (0, 1)]
    c = tabulate([*rows, measured(w, 0, 0.9), measured(w, 1, None, "diverged")], [], [])
    assert c is not None
    assert c.weights == {}
    assert c.diverged == (w,)
    assert tabulate([measured(w, 0, 0.9)], [], []) is None


@pytest.mark.parametrize("metric", [math.inf, -math.inf, math.nan])
def test_an_infinite_metric_in_a_study_is_no_gain(metric: float) -> None:
    w = Candidate("weight", "w", 1.0)
    rows = [measured(HEAD, 0, 0.5), measured(HEAD, 1, metric), measured(w, 0, metric)]
    c = tabulate(rows, [], [])
    assert c is not None
    assert c.baseline.mean == 0.5
    assert c.weights == {}
    assert w in c.diverged
    with pytest.raises(StudyError, match="cannot be compared with others"):
        Gain.of([metric])


# ---------------------------------------------------------------- what is measured


def test_every_weight_at_each_ratio_and_ends_of_blocks(graph) -> None:
    found = candidates(graph, head_of(graph, make_shapes()), Settings(ratios=(0.5, 1.0, 0.01, 0.02)))
    weights = [(c.fqn, c.ratio) for c in found if c.kind == "weight"]
    assert ("stem.weight", 1.0) in weights  # one input channel: every ratio means all of it
    assert [r for f, r in weights if f == "stem.weight"] == [1.0]
    assert [r for f, r in weights if f == "blocks.0.0.weight"] == [1.0, 0.5, 0.02]  # .01 is one channel too
    assert [c.k for c in found if c.kind == "bias_k"] == [1, 2, 3]


def test_bias_counts_are_thinned_out_and_end_with_all() -> None:
    many = transformer()
    found = candidates(many, tuple(presets.head(many)), Settings())
    counts = [c.k for c in found if c.kind == "bias_k"]
    assert len(counts) <= MAX_BIAS_COUNTS
    assert counts[-1] == len(presets.biases(many))


def test_patterns_and_counts_are_checked(graph) -> None:
    head = head_of(graph, make_shapes())
    assert {c.fqn for c in candidates(graph, head, Settings(tensors=("blocks.*",), bias_counts=()))} == {
        "blocks.0.0.weight",
        "blocks.1.0.weight",
    }
    with pytest.raises(StudyError, match=r"matches no weight outside the head\. Did you mean 'stem.weight'"):
        candidates(graph, head, Settings(tensors=("stem.weigth",)))
    with pytest.raises(StudyError, match="has 3 biases outside the head, got 4"):
        candidates(graph, head, Settings(bias_counts=(4,)))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"ratios": (0.0,)}, {"ratios": (1.5,)}, {"lr": -1.0},
     {"lr": (0.1, 0.0)}, {"lr": ()}, {"batches": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(StudyError, match="Cannot analyse"):
        Settings(**wrong)


def test_quick_settings_fit_the_profile(graph) -> None:
    quick = quick_settings(profile_of(graph))
    assert quick["batches"] == 200 // BATCH
    # Without a pointwise convolution, the first one of each block.
    assert quick["tensors"] == ("stem.weight", "blocks.0.0.weight", "blocks.1.0.weight")
    text = transformer()
    assert all(len(text.tensor(f).shape) == 2 for f in quick_settings(profile_of(text))["tensors"])


# ---------------------------------------------------------------- data


def test_without_validation_the_last_fifth_of_train_is_held_back() -> None:
    base = make_shapes()
    plain = Task(base.name, base.model, base.loss, base.metric, list(base.train), list(base.eval))
    split = with_validation(plain)
    assert len(list(split.train)) == 10
    assert len(list(split.validation or ())) == 2
    assert with_validation(base) is base
    lone = Task(base.name, base.model, base.loss, base.metric, list(base.train)[:1], list(base.eval))
    with pytest.raises(TaskError, match="too few training batches"):
        with_validation(lone)


def test_a_fifth_of_shuffled_samples_is_drawn_not_cut_off() -> None:
    base = make_shapes()
    data = samples()
    by_class = torch.argsort(data["y"], stable=True)
    arrays = {k: v[by_class] for k, v in data.items()}
    shuffled = Task(
        base.name, base.model, base.loss, base.metric, Batches(arrays, BATCH, shuffle=True), base.eval
    )
    split = with_validation(shuffled)
    held = list(split.validation or ())
    assert len(torch.cat([b["y"] for b in held]).unique()) == 4
    train = {tuple(x.flatten().tolist()) for b in split.train for x in b["x"]}
    assert not any(tuple(x.flatten().tolist()) in train for b in held for x in b["x"])
    again = list(with_validation(shuffled).validation or ())
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(held, again))


def test_a_ragged_validation_batch_is_padded_and_cut(graph) -> None:
    base = make_shapes()
    whole = list(base.validation or ())
    ragged = [whole[0], {k: v[:3] for k, v in whole[1].items()}]
    data = Data(Task(base.name, base.model, base.loss, base.metric, base.train, base.eval, ragged), 2)
    backend = EagerBackend(graph, data, [presets.head(graph)], 1, GIGABYTE)
    tuner = backend.prepare(Plan.head(graph))
    tuner.reset({})
    assert [len(v) for v in tuner.evaluate()] == [BATCH, 3]
    with torch.no_grad():
        expected = [base.metric(base.model, b) for b in ragged]
    assert np.array_equal(np.concatenate(list(tuner.evaluate())), torch.cat(expected).numpy())


def test_a_fresh_head_is_drawn_per_seed_as_torch_draws_it() -> None:
    task = make_shapes()
    before = torch.random.get_rng_state()
    a, again, b = (fresh_values(task, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(a) == {"head.weight", "head.bias"}
    assert all(torch.equal(a[k], again[k]) and not torch.equal(a[k], b[k]) for k in a)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(8, 4)
    torch.testing.assert_close(a["head.weight"], layer.weight.detach())
    torch.testing.assert_close(a["head.bias"], layer.bias.detach())


def test_fresh_layers_of_other_kinds() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.table = nn.LayerNorm(3), nn.Embedding(5, 3)
            self.scale = nn.Parameter(torch.ones(3))

    def fresh(name: str) -> dict[str, torch.Tensor]:
        base = make_shapes()
        task = Task("t", Net(), base.loss, base.metric, base.train, base.eval, fresh=(name,))
        return fresh_values(task, 0)

    assert fresh("norm.*")["norm.weight"].tolist() == [1, 1, 1]
    assert fresh("norm.*")["norm.bias"].tolist() == [0, 0, 0]
    assert fresh("table.weight")["table.weight"].std() > 0.5
    with pytest.raises(TaskError, match="cannot draw 'scale' anew"):
        fresh("scale")


# ---------------------------------------------------------------- the numbers


def plain_finetune(graph, plan: Plan, data: Data, seed: int, lr: float) -> tuple[list[float], np.ndarray]:
    """The pruned graph step by step, with nothing clever: what every backend must equal."""
    step, metric = passes.run(graph.prune(plan)), passes.run(graph.prune(plan).evaluation())
    state = {s.name: step.values[s.name] for s in step.state_slots}

    def call(g, batch):
        module = torch.fx.GraphModule(nn.Module(), g.fx)
        args = [
            batch[s.fqn] if s.role is Role.BATCH else torch.tensor(lr) if s.role is Role.LR
            else state.get(s.name, g.values.get(s.name))
            for s in g.inputs
        ]  # fmt: skip
        with torch.no_grad():
            return dict(zip((s.name for s in g.outputs), module(*args), strict=True))

    losses = []
    for batch in data.train(seed):
        out = call(step, batch)
        losses.append(float(out.pop("loss")))
        state.update({k.replace("new_param", "trained").replace("new_opt", "opt"): v for k, v in out.items()})
    values = [call(metric, b)["metric"][:n] for b, n in data.validation()]
    return losses, torch.cat(values).numpy()


# U-Net has convolutions, as MobileNet has.
@pytest.mark.parametrize(
    "name", [pytest.param("mobilenet", marks=pytest.mark.slow), "unet", "twice", "transformer", "tied"]
)
def test_cached_activations_change_no_bit(name: str) -> None:
    task = with_validation(zoo(name))
    graph = transformer() if name == "transformer" else autodiff.build(task, SGD(lr=0.05, momentum=0.9))
    head = presets.head(graph)
    ratios = {r.fqn: 0.5 if r.channel_dim is not None else 1.0 for r in graph.tensors}
    plans = [head, *(head | {fqn: ratio} for fqn, ratio in list(ratios.items())[:: max(1, len(ratios) // 4)])]
    data = Data(task, 2)
    cached, uncached = (EagerBackend(graph, data, plans, 1, limit) for limit in (GIGABYTE, 0))
    assert [c.position for c in uncached.train.cuts] == [0]
    assert len(cached.train.cuts) > 1
    for choice in plans:
        plan = Plan.of(graph, choice)
        found = []
        for backend, _ in itertools.product((uncached, cached), range(2)):
            tuner = backend.prepare(plan)
            tuner.reset({})
            found.append((list(tuner.train(0, 0.05)), np.concatenate(list(tuner.evaluate())).tolist()))
        assert all(f == found[0] for f in found)
        losses, values = plain_finetune(graph, plan, data, 0, 0.05)
        assert found[0][0] == pytest.approx(losses, rel=1e-5)
        np.testing.assert_allclose(found[0][1], values, rtol=1e-4, atol=1e-5)


def test_pointwise_convolutions_on_few_pixels_become_matrix_products() -> None:
    graph = autodiff.build(zoo("mobilenet"), SGD(lr=0.05))
    step = passes.run(graph.prune(Plan.full(graph)))
    fewer = PointwiseAsMatmul()(step)
    fewer.validate()
    count = [sum(n.target is aten.convolution.default for n in g.nodes()) for g in (step, fewer)]
    assert count[0] - count[1] >= 4  # forward and backward
    assert PointwiseAsMatmul(pixels=0)(step).code() == step.code()


def test_cuts_keep_to_their_limit_and_late_plans_get_late_cuts(graph) -> None:
    forward = Forward(graph.gradients)
    plans = [presets.head(graph), *([r.fqn] for r in graph.tensors)]
    everything = choose_cuts(forward, plans, GIGABYTE)
    assert choose_cuts(forward, plans, 0)[1:] == ()
    for limit in (1000, 5000, 10_000, union_bytes(everything[1:])):
        assert union_bytes(choose_cuts(forward, plans, limit)[1:]) <= limit
    positions = [c.position for c in everything]
    assert positions == sorted(set(positions))
    assert forward.position(["head.weight"]) >= positions[-1] > forward.position(["stem.weight"])
    for cut in everything:
        forward.suffix(cut).validate()


def test_activations_are_not_kept_when_a_seed_draws_other_values_each_time(graph) -> None:
    base = make_shapes()
    noisy = Batches(base.train.arrays, BATCH, transform=lambda b: {**b, "x": b["x"] + torch.rand(1)})
    data = Data(Task(base.name, base.model, base.loss, base.metric, noisy, base.eval, base.validation), 2)
    assert not data.is_repeatable()
    backend = EagerBackend(graph, data, [presets.head(graph)], 1, GIGABYTE)
    assert [c.position for c in backend.train.cuts] == [0]


def test_activations_kept_by_a_cancelled_pass_are_used_by_the_next(graph) -> None:
    data = Data(make_shapes(), 4)
    backend = EagerBackend(graph, data, [presets.head(graph)], 1, GIGABYTE)
    tuner = backend.prepare(Plan.head(graph))
    tuner.reset({})
    next(iter(tuner.train(0, 0.1)))
    tuner.reset({})
    losses = plain_finetune(graph, Plan.head(graph), data, 0, 0.1)[0]
    assert list(tuner.train(0, 0.1)) == pytest.approx(losses, rel=1e-5)


def test_the_compiled_backend_agrees(graph) -> None:
    task, data = make_shapes(), Data(make_shapes(), 3)
    plan = Plan.of(graph, presets.head(graph) | {"blocks.0.0.weight": 0.5})
    fresh = fresh_values(task, 1)
    results = []
    for backend in (
        EagerBackend(graph, data, [plan.tensors], 1, GIGABYTE),
        CompiledBackend(graph, data, "openvino"),
    ):
        tuner = backend.prepare(plan)
        results.append([finetune(tuner, fresh, seed, 0.1, lambda: None) for seed in (0, 0)])
        tuner.close()
    for eager, compiled in zip(*results):
        assert compiled.loss == pytest.approx(eager.loss, rel=1e-4)
        assert compiled.metric == pytest.approx(eager.metric)
    assert results[0][0] == results[0][1]


def test_a_loss_or_metric_that_is_not_finite_is_an_error(graph, monkeypatch) -> None:
    data = Data(make_shapes(), 4)
    tuner = EagerBackend(graph, data, [presets.head(graph)], 1, 0).prepare(Plan.head(graph))
    with pytest.raises(NonFiniteLoss, match="in step 2 at lr 1e"):
        finetune(tuner, {}, 0, 1e38, lambda: None)
    monkeypatch.setattr(tuner, "evaluate", lambda: iter([np.array([1.0, np.nan])]))
    with pytest.raises(NonFiniteLoss, match="metric became nan after 4 steps"):
        finetune(tuner, {}, 0, 0.1, lambda: None)


# ---------------------------------------------------------------- the whole analysis


def test_auto_takes_pytorch_when_that_is_ready_before_a_compiler_would_be(study: Study) -> None:
    study.analyze(**{**QUICK, "target": "auto"})
    assert {m.target for m in study.measurements()} == {"torch"}
    assert '"openvino"' not in study._store.read("SELECT estimates FROM analyses")[0][0]


def test_auto_compares_with_openvino_when_there_is_much_to_do(study: Study, monkeypatch) -> None:
    monkeypatch.setattr(analysis, "COMPILE_PAYS_S", 0.0)
    only = {**QUICK, "target": "auto", "seeds": (0,), "tensors": "blocks.1*", "bias_counts": (), "lr": 0.1}
    study.analyze(**only)
    estimates = study._store.read("SELECT estimates FROM analyses")[0][0]
    assert '"openvino"' in estimates
    assert {m.target for m in study.measurements()} == {"torch"}  # four steps never pay for compiling


def test_on_openvino_the_table_is_the_same_to_rounding(study: Study) -> None:
    only = {**QUICK, "seeds": (0,), "ratios": (1.0,), "tensors": "blocks.1*", "bias_counts": (), "lr": 0.1}
    study.analyze(**{**only, "target": "openvino"})
    compiled = {m.candidate: m for m in study.measurements()}
    study._store.read("SELECT 1")
    with study._store.transaction("measurements") as write:
        write.execute("DELETE FROM measurements")
    study.analyze(**only)
    for m in study.measurements():
        assert (compiled[m.candidate].target, m.target) == ("openvino", "torch")
        assert compiled[m.candidate].loss == pytest.approx(m.loss, rel=1e-4)


def test_progress_counts_to_the_end_and_estimates_the_time_left(study: Study) -> None:
    seen = []
    study.analyze(**QUICK, progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total
    assert seen[-1].seconds_left == 0
    assert all(p.seconds_left > 0 for p in seen if p.last and p.done < p.total)
    first = [p.last.candidate for p in seen if p.last and p.last.purpose == "contribution"]
    assert first[:2] == [HEAD, HEAD]
    assert first[-1].fqn == "stem.weight"  # what is costliest comes last


def test_the_only_layer_that_can_help_gains_most(tmp_path) -> None:
    """A layer of zeros: nothing behind it sees the input, and no gradient gets to what is before it."""

    class Blocked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.blocked, self.after = (nn.Linear(4, 4, bias=False) for _ in range(3))
            self.head = nn.Linear(4, 4)
            with torch.no_grad():
                for layer in (self.before, self.after):
                    layer.weight.copy_(torch.eye(4))
                self.blocked.weight.zero_()

        def forward(self, x):
            return self.head(self.after(self.blocked(self.before(x))))

    g = torch.Generator().manual_seed(0)
    y = torch.arange(192) % 4
    x = 3.0 * torch.eye(4)[y] + 0.3 * torch.randn(192, 4, generator=g)
    parts = [Batches({"x": x[s], "y": y[s]}, 16) for s in (slice(0, 128), slice(128, 160), slice(160, 192))]
    base = make_task()
    task = Task("blocked", Blocked(), base.loss, base.metric, parts[0], parts[2], parts[1], ("head.*",))
    with Study(tmp_path / "a.db", task, SGD(lr=0.1, momentum=0.9)) as study:
        c = study.analyze(steps=40, seeds=(0, 1), ratios=(1.0, 0.5), target="torch")
        gains = {fqn: max(g.mean for g in by_ratio.values()) for fqn, by_ratio in c.weights.items()}
    assert c.baseline.mean == pytest.approx(0.25, abs=0.05)
    assert max(gains, key=gains.__getitem__) == "blocked.weight"
    assert gains["blocked.weight"] > 0.6
    assert gains["before.weight"] == gains["after.weight"] == 0
    assert c.weights["blocked.weight"][1.0].mean >= c.weights["blocked.weight"][0.5].mean


def test_choice_of_a_candidate() -> None:
    assert choice_of(HEAD, ("h",), ("b2", "b1")) == {"h": 1.0}
    assert choice_of(Candidate("bias_k", k=1), ("h",), ("b2", "b1")) == {"h": 1.0, "b2": 1.0}
    assert choice_of(Candidate("weight", "w", 0.25), ("h",), ("b2",)) == {"h": 1.0, "w": 0.25}
