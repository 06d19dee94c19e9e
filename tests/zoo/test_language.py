"""Transformers that nobody prepared, compiled as they are: every kind of plan equals eager PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import models
import pytest
from attention_check import check_heads
from models import zoo
from oracle import OPTIMIZERS, PLANS, Case, assert_equal_gradients, built
from targets.test_target_contract import TargetContract

import pockgraph as pg
from pockgraph.ir.graph import aten
from pockgraph.plan import Trained
from pockgraph.train_graph import TrainGraph
from pockgraph.train_graph.attention_heads import attentions
from zoo.language import MODELS

models.register(MODELS)


def units(graph: TrainGraph) -> pg.Plan:
    """One head of every attention, and every second row of the token embeddings, tied or not."""
    choice: dict[str, Trained] = {}
    for i, layer in enumerate(attentions(graph)):
        choice |= pg.heads(graph, layer, [i % 2])
    for node in graph.gradients.fx.find_nodes(op="call_function", target=aten.embedding.default):
        slot = next(s for s, p in zip(graph.gradients.inputs, graph.gradients.placeholders.values())
                    if p is node.args[0])  # fmt: skip
        if slot.shape[0] == models.VOCABULARY:
            choice[slot.fqn] = Trained(dim=0, channels=tuple(range(0, models.VOCABULARY, 2)))
    return pg.Plan.of(graph, choice)


LANGUAGE_PLANS: dict[str, Callable[[TrainGraph], pg.Plan]] = {**PLANS, "units": units}

ALL = [Case(m, p, o) for m, p, o in itertools.product(MODELS, LANGUAGE_PLANS, OPTIMIZERS)]
# What differs between these two and their twins is the attention and who computes the loss.
TWINS = ("bert_classifier_eager", "gpt2_shifted")


def covering(*plans: str) -> list[Case]:
    """These plans for every model; each optimizer with each kind of plan somewhere."""
    optimizers = list(OPTIMIZERS)
    fast = [m for m in MODELS if m not in TWINS]
    return [
        Case(model, plan, optimizers[(i + j) % len(optimizers)])
        for i, model in enumerate(fast)
        for j, plan in enumerate(plans)
    ]


def turning() -> list[Case]:
    """Every model with one plan, every plan with a model or two."""
    kinds = ["full", "units", "half", "preset", "biases", "eighth", "head"]
    cases = {c.model: c for c in covering("full")}
    return [Case(m, kinds[i % len(kinds)], c.optimizer) for i, (m, c) in enumerate(cases.items())]


class InTurn(TargetContract):
    """Each model goes to one target; the slow suite takes every one to both, with plans that are drawn."""

    plans = LANGUAGE_PLANS
    test_any_plan_equals_eager_pytorch: ClassVar[Any] = None


class TestTorch(InTurn):
    target = "torch"
    cases = turning()[::2]


class TestOpenVINO(InTurn):
    target = "openvino"
    cases = turning()[1::2]


@pytest.mark.slow
class TestWholeAndUnitsOnTorch(TargetContract):
    target = "torch"
    cases = covering("full", "units")
    plans = LANGUAGE_PLANS


@pytest.mark.slow
class TestEveryModelOnOpenVINO(InTurn):
    target = "openvino"
    cases = turning()


def test_shared_embeddings_are_one_tensor() -> None:
    """Under whatever names a tied tensor is reached, it is one parameter with one gradient."""
    graph = built("llama_tied")
    assert graph.unused == ()
    assert graph.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert [s.fqn for s in graph.gradients.inputs].count("model.embed_tokens.weight") == 1
    assert graph.tensor("model.embed_tokens.weight").channel_dim is None


@pytest.mark.parametrize("name", ["bert_classifier", "llama"])
def test_samples_that_are_padding_throughout(name: str) -> None:
    """What eager PyTorch gives where there is nothing to attend to, by either attention."""
    task = zoo(name)
    batch = dict(task.example)
    mask = batch["attention_mask"].clone()
    mask[1] = 0
    batches = [{**batch, "attention_mask": mask}]
    empty = pg.Task(name, task.model, task.loss, task.metric, batches, batches)
    assert_equal_gradients(built(name).gradients, empty)


@pytest.mark.parametrize("head", range(4))
def test_heads_that_share_a_key_and_value(head: int) -> None:
    """Queries 0 and 1 read one key, 2 and 3 the other; rotary positions lie between."""
    layer = "model.layers.1.self_attn"
    group = [head - head % 2, head - head % 2 + 1]
    check_heads("llama", layer, f"{layer}.o_proj", [head], group)
    chosen = pg.heads(built("llama"), layer, [head])
    assert chosen[f"{layer}.q_proj.weight"] == Trained(dim=0, channels=tuple(range(4 * head, 4 * head + 4)))
    kv = head // 2
    assert chosen[f"{layer}.k_proj.weight"] == Trained(dim=0, channels=tuple(range(4 * kv, 4 * kv + 4)))
    assert chosen[f"{layer}.v_proj.weight"] == chosen[f"{layer}.k_proj.weight"]


def test_heads_of_a_transposed_fused_projection() -> None:
    """GPT-2 keeps q, k and v in one weight `[in, out]`."""
    layer = "transformer.h.1.attn"
    check_heads("gpt2", layer, f"{layer}.c_proj", [1], [1])
    chosen = pg.heads(built("gpt2"), layer, [1])
    assert (chosen[f"{layer}.c_attn.weight"].dim, chosen[f"{layer}.c_proj.weight"].dim) == (1, 0)


@pytest.mark.slow
class TestTorchAll(TargetContract):
    target = "torch"
    cases = tuple(c for c in ALL if c not in TestTorch.cases)
    plans = LANGUAGE_PLANS


@pytest.mark.slow
class TestOpenVINOAll(TargetContract):
    target = "openvino"
    cases = tuple(c for c in ALL if c not in TestOpenVINO.cases)
    plans = LANGUAGE_PLANS
