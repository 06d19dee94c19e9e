"""Plans: the choice of channels, and the file that people keep and share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import ZOO
from oracle import PLANS, built, choices

import pockgraph as pg
from pockgraph.errors import PlanError
from pockgraph.plan import Plan, Trained
from pockgraph.plan import plan as plan_module

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "plan.schema.json"
WIDE = "blocks.2.project.weight"  # [6, 12, 1, 1]

# ---------------------------------------------------------------- files


@given(st.data())
def test_a_plan_survives_its_file(data: st.DataObject) -> None:
    graph = built(data.draw(st.sampled_from(sorted(ZOO))), data.draw(st.sampled_from(["sgd", "adamw"])))
    figures = st.dictionaries(st.sampled_from(["peak_bytes", "step_ms"]), st.floats(0, 1e12))
    plan = Plan.of(graph, data.draw(choices(graph)), provenance={"made_by": data.draw(st.text(max_size=5))})
    plan = plan.model_copy(update={"predicted": data.draw(figures), "measured": data.draw(figures)})
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert Plan.of(graph, again.choice()).tensors == plan.tensors


def test_a_plan_file_is_readable_by_people(tmp_path: Path) -> None:
    graph = built("mobilenet", "momentum")
    Plan.of(graph, {WIDE: 0.25, "classifier.bias": 1.0}).save(tmp_path / "deep" / "plan.json")
    data = json.loads((tmp_path / "deep" / "plan.json").read_text())
    assert data["schema"] == "pockui.plan/1"
    assert data["task"] == "mobilenet"
    assert list(data["tensors"]) == [WIDE, "classifier.bias"]
    assert len(data["tensors"][WIDE]["channels"]) == 3
    assert data["tensors"]["classifier.bias"] == {"dim": None, "channels": None}
    assert data["model"][WIDE] == [6, 12, 1, 1]
    assert data["batch"]["x"] == {"shape": [4, 3, 8, 8], "dtype": "float32"}
    assert data["optimizer"]["momentum"] == 0.9


def test_the_published_schema_is_the_code() -> None:
    """`docs/plan.schema.json` is what editors and other tools read."""
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == plan_module.json_schema()


def test_loading_returns_what_was_saved(tmp_path: Path) -> None:
    graph = built("mlp")
    plan = Plan.head(graph)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json", graph) == plan


def test_reading_a_plan_needs_no_torch() -> None:
    code = "import sys, pockgraph.plan, pockgraph.plan.channels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    old, new = Plan.head(built("mlp")), Plan.full(built("mlp"))
    old.save(file)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new.save(file)
    assert Plan.load(file) == old
    assert os.listdir(tmp_path) == ["plan.json"], "a half-written neighbour is left"


def test_a_killed_save_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL while the new file is being written: no handler, no cleanup."""
    file = tmp_path / "plan.json"
    old = Plan.head(built("mlp"))
    old.save(file)
    (tmp_path / "new.json").write_text(Plan.full(built("mlp")).to_json())
    code = (
        "import os, signal, sys; from pockgraph.plan import Plan; plan = Plan.load(sys.argv[1]);"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); plan.save(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new.json"), str(file)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert Plan.load(file) == old


# ---------------------------------------------------------------- choosing channels


def test_magnitude_takes_the_channels_of_largest_norm() -> None:
    graph = built("mobilenet")
    norms = graph.initial(WIDE).square().sum((0, 2, 3))
    picked = Plan.of(graph, {WIDE: 0.5}).tensors[WIDE].channels
    assert picked is not None
    assert norms[list(picked)].min() >= norms[[i for i in range(12) if i not in picked]].max()


def test_magnitude_norms_run_over_the_channel_dimension() -> None:
    """A depthwise weight's channels are dim 0, a linear layer's dim 1."""
    for name, fqn, dim in (("mobilenet", "blocks.1.depthwise.0.weight", 0), ("mlp", "layers.2.weight", 1)):
        graph = built(name)
        weight = graph.initial(fqn)
        norms = weight.square().sum([d for d in range(weight.ndim) if d != dim])
        assert Plan.of(graph, {fqn: 0.125}).tensors[fqn] == Trained(dim=dim, channels=(int(norms.argmax()),))


def test_larger_ratios_contain_smaller_ones() -> None:
    graph = built("mobilenet")
    sets = [set(Plan.of(graph, {WIDE: r}).tensors[WIDE].channels or ()) for r in (0.125, 0.25, 0.5)]
    assert sets[0] < sets[1] < sets[2]


@pytest.mark.parametrize(
    ("ratio", "count"), [(0.001, 1), (0.125, 2), (0.25, 3), (0.5, 6), (0.9, 11), (0.99, 12)]
)
def test_ratios_round_to_at_least_one_channel(ratio: float, count: int) -> None:
    plan = Plan.of(built("mobilenet"), {WIDE: ratio})
    channels = plan.tensors[WIDE].channels
    assert (12 if channels is None else len(channels)) == count
    assert plan.ratio(WIDE) == count / 12


def test_first_and_random_channels() -> None:
    graph = built("mobilenet")
    assert Plan.of(graph, {WIDE: 0.25}, channels="first").tensors[WIDE].channels == (0, 1, 2)
    draws = {Plan.of(graph, {WIDE: 0.25}, channels="random", seed=s).tensors[WIDE].channels for s in range(5)}
    assert len(draws) > 1
    alone = Plan.of(graph, {WIDE: 0.25}, channels="random", seed=7)
    among = Plan.of(graph, dict.fromkeys(["stem.0.weight", WIDE, "classifier.weight"], 0.34) | {WIDE: 0.25},
                    channels="random", seed=7)  # fmt: skip
    assert alone.tensors[WIDE] == among.tensors[WIDE], "another tensor changed the draw"


def test_no_channel_every_channel_and_duplicates_of_one() -> None:
    graph = built("mobilenet")
    plan = Plan.of(graph, {WIDE: [*range(12)], "stem.0.weight": 0, "blocks.1.expand.0.weight": [2, 0, 2]})
    assert plan.tensors[WIDE] == Trained()
    assert "stem.0.weight" not in plan.tensors
    assert plan.tensors["blocks.1.expand.0.weight"].channels == (0, 2)
    assert (plan.ratio(WIDE), plan.ratio("stem.0.weight"), plan.ratio("blocks.1.expand.0.weight")) == (
        1.0,
        0.0,
        0.5,
    )


def test_channels_along_any_dimension() -> None:
    graph = built("mobilenet")
    rows = Trained(dim=0, channels=(1, 3))
    plan = Plan.of(
        graph, {WIDE: rows, "stem.1.bias": Trained(dim=0, channels=(0,)), "classifier.bias": Trained()}
    )
    assert plan.tensors[WIDE] == rows
    assert plan.tensors["stem.1.bias"] == Trained(dim=0, channels=(0,))
    assert plan.tensors["classifier.bias"] == Trained()
    assert plan.ratio(WIDE) == 2 / 6
    everything = Plan.of(graph, {WIDE: Trained(dim=0, channels=tuple(range(6)))})
    assert everything.tensors[WIDE] == Trained()


def test_tensors_stand_in_forward_order_whatever_order_they_came_in() -> None:
    graph = built("mobilenet")
    fqns = [r.fqn for r in graph.tensors]
    plan = Plan.of(graph, dict.fromkeys(reversed(fqns), 1.0))
    assert list(plan.tensors) == fqns
    assert (
        fqns.index("stem.0.weight")
        < fqns.index("blocks.1.depthwise.0.weight")
        < fqns.index("classifier.bias")
    )


def test_channels_are_those_of_the_weights_at_build_time() -> None:
    """A plan in a file does not move when the model is trained further."""
    graph = built("mobilenet")
    plan = Plan.of(graph, {WIDE: 0.25})
    with torch.no_grad():
        loud = graph.initial(WIDE).clone()
        loud[:, 0] += 100
    assert Plan.from_json(plan.to_json()).tensors[WIDE].channels == plan.tensors[WIDE].channels
    assert graph.prune(plan).input(f"trained:{WIDE}").indices == plan.tensors[WIDE].channels


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ZOO)
def test_plans_fit_the_model_they_were_made_for(name: str, plan: str) -> None:
    graph = built(name)
    made = PLANS[plan](graph)
    made.check_fits({r.fqn: r.shape for r in graph.tensors})
    assert graph.prune(made).plan == made


def test_a_plan_does_not_depend_on_the_optimizer_it_was_made_with() -> None:
    plan = Plan.head(built("mlp", "momentum")).model_copy(update={"predicted": {"peak_bytes": 1.0}})
    assert plan.optimizer["name"] == "sgd"
    small = built("mlp", "adamw").prune(plan)
    assert {s.key for s in small.inputs if s.is_state and s.key} >= {"exp_avg", "bias_correction1"}
    assert small.plan.optimizer == small.optimizer.to_dict(), "an artefact says what it updates with"
    assert not small.plan.predicted


def test_making_a_plan_that_trains_nothing_is_refused_by_prune() -> None:
    graph = built("mlp")
    with pytest.raises(PlanError, match=r"trains nothing.*Plan\.head"):
        graph.prune(pg.Plan.of(graph, {"layers.0.weight": 0.0}))
