"""Scores from gradients: those of eager PyTorch; stored, exported, and read without torch."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import zoo
from shapes_task import OPTIMIZER, QUICK, make_shapes

from pockgraph.contribution.agreement import agreements
from pockgraph.contribution.candidates import choice_of
from pockgraph.contribution.data import fresh_values
from pockgraph.contribution.gains import HEAD, Candidate, Contribution, Gain
from pockgraph.contribution.probe import BATCHES, HEAD_STEPS, Gradients, probe, scores_of
from pockgraph.contribution.scores import Score, Scores
from pockgraph.errors import StudyError
from pockgraph.optimizer import SGD, AdamW, Group
from pockgraph.plan import Plan, presets
from pockgraph.study import Study
from pockgraph.study.exchange import export_study, import_study
from pockgraph.train_graph import builder as autodiff


def eager_gradients(task, net, batch) -> dict[str, torch.Tensor]:
    params = dict(net.named_parameters())
    found = torch.autograd.grad(task.loss(net, task.rebuild(batch)), list(params.values()), allow_unused=True)
    return {fqn: torch.zeros_like(p) if g is None else g for (fqn, p), g in zip(params.items(), found)}


@pytest.mark.parametrize("name", ["mobilenet", "transformer", "tied"])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
        AdamW(lr=0.1, groups=(Group("*bias", lr_scale=2.0),), clip_norm=0.1),
    ],
)
def test_scores_are_those_of_eager_gradients_and_of_a_step_of_torch_optim(name: str, optimizer) -> None:
    task = zoo(name)
    graph = autodiff.build(task, optimizer)
    batches = list(itertools.islice(task.forever(0), 3))
    sums = Gradients(graph, {})
    for batch in batches:
        sums.add(batch, 0)
    net = copy.deepcopy(task.model)
    grads = [eager_gradients(task, net, b) for b in batches]
    params = dict(net.named_parameters())
    tensor = next(t for t in graph.tensors if (t.channels or 0) >= 4 and t.kind == "weight")
    candidates = [Candidate("weight", tensor.fqn, r) for r in (1.0, 0.5)] + [Candidate("bias_k", k=2)]
    order = tuple(t.fqn for t in presets.biases(graph))
    found = scores_of(graph, candidates, lambda c: Plan.of(graph, choice_of(c, (), order)), sums, 0.05)

    def stepped(fqn: str, grad: torch.Tensor) -> torch.Tensor:
        leaf = params[fqn].detach().clone().requires_grad_()
        leaf.grad = grad.clone()
        decay = {"weight_decay": 0.01} if isinstance(optimizer, SGD) else {}
        lr = 0.05 * (2 if fqn.endswith("bias") and not decay else 1)
        kind = torch.optim.SGD if decay else torch.optim.AdamW
        kind([leaf], lr=lr, **decay).step()
        return leaf.detach() - params[fqn].detach()

    for candidate in candidates:
        total = np.zeros(3)
        for fqn, trained in Plan.of(graph, choice_of(candidate, (), order)).tensors.items():
            a, b = (grads[0][fqn] + grads[2][fqn]) / 2, grads[1][fqn]
            mean, square = sum(g[fqn] for g in grads) / 3, sum(g[fqn] ** 2 for g in grads) / 3
            moved = -(a * stepped(fqn, b) + b * stepped(fqn, a)) / 2
            for i, values in enumerate(((mean * params[fqn]).abs(), square, moved)):
                if trained.dim is not None:
                    values = values.index_select(trained.dim, torch.tensor(trained.channels))
                total[i] += float(values.detach().sum())
        score = found.of(candidate)
        assert score is not None
        assert (score.taylor, score.fisher, score.update) == pytest.approx(tuple(total), rel=2e-4, abs=1e-7)
    assert sum(found.channels[tensor.fqn]) == pytest.approx(found.weights[tensor.fqn][1.0].fisher)


def test_the_head_is_trained_before_and_the_batches_after_those_are_looked_at() -> None:
    task = make_shapes()
    graph = autodiff.build(task, OPTIMIZER)
    head = Plan.head(graph)
    wanted = Candidate("weight", "stem.weight", 1.0)
    plan = Plan.of(graph, {"stem.weight": 1.0})
    ticks: list[int] = []
    found = probe(task, graph, [wanted], lambda c: plan, head, 1, 0.05, lambda: ticks.append(1))
    assert (found.seed, found.lr, found.head_steps, found.batches) == (1, 0.05, HEAD_STEPS, BATCHES)
    assert len(ticks) == HEAD_STEPS + BATCHES

    net = copy.deepcopy(task.model)
    for fqn, value in fresh_values(task, 1).items():
        net.get_parameter(fqn).data.copy_(value)
    optimizer = torch.optim.SGD(net.head.parameters(), lr=0.05, momentum=0.9)
    batches = list(itertools.islice(task.forever(1), HEAD_STEPS + BATCHES))
    for batch in batches[:HEAD_STEPS]:
        optimizer.zero_grad()
        task.loss(net, batch).backward()
        optimizer.step()
    grads = [eager_gradients(task, net, b)["stem.weight"] for b in batches[HEAD_STEPS:]]
    assert found.weights["stem.weight"][1.0].fisher == pytest.approx(
        float(sum((g**2).sum() for g in grads)) / BATCHES, rel=1e-3
    )


def test_where_the_rate_breaks_the_head_it_is_probed_as_it_was_drawn() -> None:
    task = make_shapes()
    graph = autodiff.build(task, OPTIMIZER)
    wanted, plan = Candidate("weight", "stem.weight", 1.0), Plan.of(graph, {"stem.weight": 1.0})
    found = probe(task, graph, [wanted], lambda c: plan, Plan.head(graph), 0, 1e38, lambda: None)
    assert found.head_steps == 0
    assert found.batches == BATCHES


# ---------------------------------------------------------------- in a study


def test_a_probe_scores_everything_and_trains_the_head_only(study: Study) -> None:
    with pytest.raises(StudyError, match="has no scores"):
        _ = study.scores
    assert study.coverage.text
    c = study.analyze(mode="probe", steps=4, ratios=(1.0, 0.5), seeds=(0, 1), target="torch")
    assert (c.baseline.seeds, c.weights, c.biases) == (2, {}, {})
    assert {(m.purpose, m.candidate) for m in study.measurements()} == {("contribution", HEAD)}
    scores = study.scores
    assert scores.lr == OPTIMIZER.lr
    assert set(scores.weights) == {"stem.weight", "blocks.0.0.weight", "blocks.1.0.weight"}
    assert set(scores.weights["blocks.0.0.weight"]) == {1.0, 0.5}
    assert set(scores.biases) == {1, 2, 3}
    assert len(scores.channels["blocks.0.0.weight"]) == 8
    coverage = study.coverage
    assert (coverage.measured, set(coverage.probed)) == ((), set(scores.weights))
    assert coverage.text == (
        "Measured 0 of 3 weights outside the head. 3 more were probed only. 3 not measured, as a probe "
        "trains nothing: stem.weight, blocks.0.0.weight, blocks.1.0.weight. The last analysis only probed."
    )
    assert study.agreements() == ()
    assert Plan.of(study.graph, {"blocks.0.0.weight": 0.5}, channels=scores.channels)

    times = study._store.read("SELECT finished FROM probes")[0][0]
    study.analyze(mode="probe", steps=4, ratios=(0.5,), target="torch")
    assert study._store.read("SELECT finished FROM probes")[0][0] == times  # it knew that already
    study.analyze(mode="probe", steps=4, ratios=(0.25,), target="torch")
    assert set(study.scores.weights["blocks.0.0.weight"]) == {0.25}


def test_what_was_measured_and_what_was_not_is_told(study: Study) -> None:
    study.analyze(**QUICK)
    assert study.coverage.measured == ("stem.weight", "blocks.0.0.weight", "blocks.1.0.weight")
    assert study.coverage.skipped == {}
    assert "The last analysis measured all that it was asked for." in study.coverage.text
    study.analyze(**{**QUICK, "steps": 2, "tensors": "blocks.1*"})
    assert study.coverage.measured == ("blocks.1.0.weight",)
    assert set(study.coverage.skipped.values()) == {"not among those asked for"}


def test_a_time_budget_ends_an_analysis_and_the_next_call_goes_on(study: Study) -> None:
    only = {**QUICK, "lr": 0.1, "seeds": (0,)}
    study.analyze(**only, time_budget_s=1e-6)
    coverage = study.coverage
    assert study.contribution.baseline.seeds == 1
    assert len(coverage.measured) <= 1  # never nothing
    assert set(coverage.skipped.values()) == {"because the time was used up"}
    assert "The last analysis used up its 1e-06 s." in coverage.text
    done, planned = study.progress()
    assert done == 2 < planned
    study.analyze(**only)
    assert study.progress() == (planned, planned)
    assert not study.coverage.skipped


def test_scores_travel_with_an_exported_study_and_need_no_torch(study: Study, tmp_path: Path) -> None:
    study.analyze(mode="probe", steps=4, ratios=(1.0, 0.5), target="torch")
    file = export_study(study, tmp_path / "s.json")
    import_study(tmp_path / "new.db", file)
    with Study(tmp_path / "new.db") as copied:
        assert copied.scores == study.scores
        assert copied.coverage == study.coverage
    data = json.loads(file.read_text())
    data["analyses"][0]["probe"]["scores"]["biases"] = [[1, "high"]]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(StudyError, match="scores"):
        import_study(tmp_path / "bad.db", tmp_path / "bad.json")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pockgraph.study import Study\n"
        "s = Study(sys.argv[1]); print(len(s.scores.weights), s.coverage.text, s.agreements())"
    )
    run = subprocess.run([sys.executable, "-c", code, str(study.path)], capture_output=True, text=True)
    assert run.stdout.startswith("3 Measured 0 of 3"), run.stderr


def test_a_damaged_probe_is_named(study: Study) -> None:
    study.analyze(mode="probe", steps=4, ratios=(1.0,), target="torch")
    with study._store.transaction("measurements") as write:
        write.execute("UPDATE probes SET json = '{}'")
    with pytest.raises(StudyError, match=r"the probe of the last analysis cannot be read"):
        _ = study.scores


@pytest.mark.parametrize("wrong", [{"mode": "guess"}, {"time_budget_s": 0}, {"time_budget_s": "soon"}])
def test_modes_and_time_budgets_are_checked(study: Study, wrong) -> None:
    with pytest.raises(StudyError, match="Cannot analyse with"):
        study.analyze(**wrong)


# ---------------------------------------------------------------- agreement


def made(values: list[tuple[float, float]]) -> tuple[Scores, Contribution]:
    """Tensors with these (score, gain) at both of two ratios."""
    weights = {
        f"w{i}": {1.0: Score(s, -s, s), 0.5: Score(s / 2, 0.0, s / 2)} for i, (s, _) in enumerate(values)
    }
    gains = {f"w{i}": {r: Gain(g, 0.0, 2) for r in (1.0, 0.5)} for i, (_, g) in enumerate(values)}
    return Scores(weights), Contribution(Gain(0.5, 0.0, 2), gains)


def test_equal_ranks_agree_and_opposite_ranks_do_not() -> None:
    same = {a.by: a for a in agreements(*made([(float(4**i), float(i)) for i in range(8)]))}
    assert same["update"].spearman > 0.95
    assert 0.8 < same["update"].low <= same["update"].high <= 1.0
    assert (same["update"].tensors, same["update"].pairs) == (8, 16)
    assert same["fisher"].spearman < 0
    mixed_up = enumerate((3.0, 6.0, 1.0, 4.0, 7.0, 2.0, 5.0, 0.0), 1)
    noise = agreements(*made([(float(score), gain) for score, gain in mixed_up]))[2]
    assert noise.low < 0 < noise.high


def test_too_few_tensors_and_equal_gains_say_nothing() -> None:
    assert agreements(*made([(1.0, 1.0)] * 3)) == ()
    assert all(np.isnan(a.spearman) for a in agreements(*made([(float(i), 1.0) for i in range(5)])))
