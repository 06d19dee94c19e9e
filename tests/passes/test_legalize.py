"""What operators stand for: their expansions, run by PyTorch, give what the operators give."""

from __future__ import annotations

import expansion_snapshot
import pytest
import torch
import torch.nn.functional as F
from expansion_cases import CALLS, CASES, INSIDE
from expansion_snapshot import formula
from expansion_values import rand
from expansions import (
    EXPANDED,
    LEGALIZE,
    assert_expands,
    assert_graph_expands,
    graph_of,
    graph_of_call,
    is_expanded,
    refusal,
    run,
)
from torch import Tensor

from pockgraph.ir.graph import Graph, Role
from pockgraph.ir.interpreter import interpret
from pockgraph.passes.legalize import Legalize, resampling

aten = torch.ops.aten


def formulas_in(name: str, graph: Graph) -> dict[str, str]:
    """What the expansions of a case consist of."""
    return {f"{name}: {n.target}": formula(LEGALIZE.expansion(n)) for n in graph.nodes() if is_expanded(n)}


def formulas_of_all_cases() -> dict[str, str]:
    graphs = {name: graph_of(*case) for name, case in CASES.items()}
    graphs |= {name: graph_of_call(*call)[0] for name, call in CALLS.items()}
    return {key: text for name, graph in graphs.items() for key, text in formulas_in(name, graph).items()}


SNAPSHOT = expansion_snapshot.read()


def measured(name: str) -> dict[str, str]:
    return {key: text for key, text in SNAPSHOT.items() if key.startswith(f"{name}: ")}


@pytest.mark.parametrize("name", CASES)
def test_an_expansion_gives_what_its_operator_gives_and_is_the_formula_that_was_measured(name: str) -> None:
    """`expansion_snapshot` says how formulas are renewed."""
    function, *args = CASES[name]
    graph = graph_of(function, *args)
    assert assert_graph_expands(graph, *args)
    assert formulas_in(name, graph) == measured(name)


@pytest.mark.parametrize("name", CALLS)
def test_the_formula_of_a_call_is_the_one_that_was_measured(name: str) -> None:
    assert formulas_in(name, graph_of_call(*CALLS[name])[0]) == measured(name)


def test_every_expansion_has_its_formula_in_the_snapshot() -> None:
    assert {key.split(": ")[1] for key in SNAPSHOT} == {str(overload) for overload in EXPANDED}
    assert {key.split(": ")[0] for key in SNAPSHOT} == {*CASES, *CALLS}


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("weight", [None, rand(3)])
@pytest.mark.parametrize("pos_weight", [None, rand(3).abs()])
def test_binary_cross_entropy_of_logits(
    weight: Tensor | None, pos_weight: Tensor | None, reduction: int
) -> None:
    logits = torch.tensor([[-200.0, 200.0, -90.0], [30.0, 0.0, -0.3]])
    targets = torch.tensor([[0.0, 1.0, 1.0], [0.5, 0.0, 0.2]])
    overload = aten.binary_cross_entropy_with_logits.default
    graph, tensors = graph_of_call(overload, logits, targets, weight, pos_weight, reduction)
    assert assert_graph_expands(graph, *tensors) == {overload}


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear"])
def test_a_resize_too_large_for_a_matrix_takes_what_it_needs(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "FOLD_LIMIT_BYTES", 16)
    assert assert_expands(lambda x: F.interpolate(x, 9, mode=mode), rand(1, 2, 5))
    assert assert_expands(lambda x: F.interpolate(x, scale_factor=0.6, mode=mode), rand(1, 2, 5))


def test_a_cubic_resize_too_large_for_a_matrix_takes_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "FOLD_LIMIT_BYTES", 16)
    assert assert_expands(lambda x: F.interpolate(x, (7, 4), mode="bicubic"), rand(1, 2, 5, 3))


def test_what_a_target_takes_is_left_alone() -> None:
    graph = graph_of(lambda x: F.glu(x.exp()), rand(2, 4))
    assert Legalize(lambda node: "")(graph) is graph


def test_pytorchs_own_decompositions_serve_where_there_is_no_expansion() -> None:
    graph = graph_of(F.glu, rand(2, 4))
    lacking = (aten.glu.default, aten.glu_backward.default)
    legal = Legalize(lambda node: "not there" if node.target in lacking else "")(graph)
    assert not {n.target for n in legal.nodes()} & set(lacking)
    for got, wanted in zip(run(legal, rand(2, 4)), run(graph, rand(2, 4)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_where_an_expansion_needs_what_the_target_lacks_the_reason_names_it() -> None:
    graph = graph_of(torch.asin, INSIDE)
    lacks = Legalize(lambda n: f"no {n.target}" if n.target in (aten.asin.default, aten.atan.default) else "")
    node = next(n for n in graph.nodes() if n.target is aten.asin.default)
    assert lacks.why_not(node) == "it stands for aten.atan.default, among others: no aten.atan.default"
    assert any(n.target is aten.asin.default for n in lacks(graph).nodes())


def test_an_operator_that_nobody_can_say_in_others_keeps_the_targets_reason() -> None:
    graph = graph_of(lambda x: torch.special.i0(x.detach()), rand(3))
    *_, node = graph.nodes()
    assert Legalize(lambda n: "not here").why_not(node) == "not here"


def test_what_stands_for_an_operator_belongs_to_its_layer_and_line() -> None:
    graph = graph_of(lambda x: torch.asinh(x.detach()), rand(3))
    for node in graph.nodes():
        node.meta.update(layer="head", source="net.py:7", phase="backward")
    places = {(n.meta["layer"], n.meta["source"], n.meta["phase"]) for n in Legalize(refusal)(graph).nodes()}
    assert places == {("head", "net.py:7", "backward")}


def test_expansions_of_the_same_call_share_their_constants() -> None:
    def twice(x: Tensor) -> Tensor:
        return F.interpolate(x, 7, mode="linear") + F.interpolate(x * 2, 7, mode="linear")

    legal = Legalize(refusal)(graph_of(lambda x: twice(x.detach()), rand(1, 2, 4)))
    assert [s.shape for s in legal.inputs if s.role is Role.CONST].count((7, 4)) <= 1
    assert interpret(legal, {"a0": rand(1, 2, 4)})
