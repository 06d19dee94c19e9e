"""The evolutionary search of the paper beside the exact one: on the same table it is never better."""

from __future__ import annotations

import importlib.util
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from oracle import built
from test_memory_constraints import everything

from pockgraph.contribution import Contribution, Gain
from pockgraph.errors import BudgetError, PlanError
from pockgraph.plan import Budget
from pockgraph.profile import Profile, TimeModel
from pockgraph.profile.profiler import profile_of
from pockgraph.search import Constraints, evolution, search

needs_pymoo = pytest.mark.skipif(
    importlib.util.find_spec("pymoo") is None, reason="pymoo is not installed; pip install 'pockui[search]'"
)
TIME = TimeModel("openvino", 1.0, (3e-6, 5e-6, 4e-6, 9e-6, 2e-7, 1e-6), 0.01, 5)


def random_table(model: str, seed: int) -> tuple[Profile, Contribution]:
    """Gains of all tensors as a noisy analysis has them: some lose, a larger part may gain less."""
    graph, rng = built(model, "adamw"), random.Random(seed)
    table = everything(graph)
    gain = lambda: Gain(rng.gauss(0.02, 0.02), 0.01, 3)  # noqa: E731
    weights = {fqn: {ratio: gain() for ratio in gains} for fqn, gains in table.weights.items()}
    biases = {k: gain() for k in table.biases}
    profile = profile_of(graph).with_time(TIME)
    return profile, Contribution(table.baseline, weights, biases, table.bias_order, table.head)


def between(profile: Profile, table: Contribution, by: str, share: float) -> float:
    """A limit between what the head costs and what the best plan of all does."""
    least = getattr(profile.figures(dict.fromkeys(table.head, 1.0)), by)
    return least + share * (search(profile, table, Budget()).predicted[by] - least)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "POPULATION", 24)
    monkeypatch.setattr(evolution, "GENERATIONS", 12)


def test_an_exact_query_does_not_wait_for_an_evolutionary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, table = random_table("mlp", seed=0)
    started, answered = threading.Event(), threading.Event()

    def waits(evolution: Any) -> dict[str, float]:
        started.set()
        assert answered.wait(60)
        return evolution.v.fixed

    monkeypatch.setattr(evolution.Evolution, "best", waits)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(search, profile, table, Budget(), method="evolutionary")
        assert started.wait(60)
        plan = search(profile, table, Budget(peak_bytes=10**9))
        answered.set()
        assert other.result(60).predicted["gain"] <= plan.predicted["gain"]


@needs_pymoo
@pytest.mark.parametrize(
    ("model", "limits", "asked"),
    [
        ("mobilenet", ("peak_bytes",), Constraints()),
        ("unet", ("peak_bytes",), Constraints()),
        ("mlp", ("step_ms",), Constraints(whole_blocks=True)),
        ("transformer", ("extra_bytes", "step_ms"), Constraints(weights_need_bias=True, max_tensors=12)),
    ],
)
def test_the_exact_search_is_never_worse(model: str, limits: tuple[str, ...], asked: Constraints) -> None:
    for seed, share in ((0, 0.3), (1, 0.6)):
        profile, table = random_table(model, seed)
        budget = Budget(**{by: between(profile, table, by, share) for by in limits})  # pyright: ignore
        exact = search(profile, table, budget, constraints=asked)
        found = search(profile, table, budget, constraints=asked, method="evolutionary", seed=seed)
        for by in limits:
            assert found.predicted[by] <= getattr(budget, by)
        assert found.predicted["gain"] <= exact.predicted["gain"] + 1e-9
        assert asked.max_tensors is None or len(found.tensors) <= asked.max_tensors
        head = Contribution.predicted_gain(table, dict.fromkeys(table.head, 1.0))
        assert found.predicted["gain"] > head, "it found something at all"


@needs_pymoo
def test_a_seed_repeats_the_evolution_and_is_recorded() -> None:
    profile, table = random_table("mobilenet", 0)
    budget = Budget(peak_bytes=int(between(profile, table, "peak_bytes", 0.5)))
    once, again = (search(profile, table, budget, method="evolutionary", seed=3) for _ in range(2))
    assert once.tensors == again.tensors
    assert once.provenance["made_by"] == "evolutionary search, seed 3"
    assert once.provenance["budget"] == str(budget)


@needs_pymoo
def test_the_evolution_refuses_what_no_plan_meets() -> None:
    profile, table = random_table("mobilenet", 0)
    weight = next(iter(table.weights))
    asked = Constraints(locked={weight: 1.0, table.bias_order[0]: "frozen"}, max_tensors=3)
    least = profile.figures({**dict.fromkeys(table.head, 1.0), weight: 1.0}).peak_bytes
    assert search(profile, table, Budget(peak_bytes=least), constraints=asked, method="evolutionary")
    with pytest.raises(BudgetError, match="smallest feasible"):
        search(profile, table, Budget(peak_bytes=least - 1), constraints=asked, method="evolutionary")


def test_a_search_of_another_kind_is_refused() -> None:
    profile, table = random_table("mlp", 0)
    with pytest.raises(PlanError, match="'exact' or 'evolutionary'"):
        search(profile, table, Budget(), method="greedy")  # pyright: ignore[reportArgumentType]
    with pytest.raises(PlanError, match="whole number"):
        search(profile, table, Budget(), method="evolutionary", seed=-1)


def test_without_pymoo_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *args: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(evolution.importlib, "import_module", missing)
    profile, table = random_table("mlp", 0)
    with pytest.raises(PlanError, match=r"pip install 'pockui\[search\]'"):
        search(profile, table, Budget(), method="evolutionary")
