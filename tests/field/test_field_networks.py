"""Networks and losses of the last years: state spaces, grouped queries, quantisation, teachers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from sequence_networks import (
    AlignedTranslator,
    GatedMatrixMemory,
    GroupedQueries,
    SelectiveStateSpace,
    SpeechToText,
    Tagger,
    Translator,
    WeightedKeyValue,
)
from torch import Tensor, nn
from trained_otherwise import (
    Computed,
    attended_neighbours,
    box_loss,
    codes_loss,
    decorrelated_loss,
    denoised,
    denoising_loss,
    fixed_point,
    hyper,
    layers,
    learnt_step,
    likelihoods,
    margin_loss,
    of_older_hooks,
    of_parametrized_layers,
    preference_loss,
    queue_loss,
    risk_loss,
    routed,
    splines,
    teacher_loss,
    ternary,
    transport_loss,
    with_reference,
)
from users import Batch, assert_as_eager, cross_entropy, draws, half, in_turn, summed, task

import pockgraph as pg
from pockgraph.targets import target_names
from pockgraph.train_graph import TrainGraph

VECTORS = draws(x=(6, 12), y=((6,), 5))
SEQUENCES = draws(x=(4, 5, 6), y=((4,), 5))
WORDS = draws(source=((4, 5), 11), target=((4, 5), 11))
for batch in WORDS:
    batch["source"][:, 0] = 1  # a sentence of padding alone has no attention
VIEWS = draws(x=(6, 12), z=(6, 12))
EDGES = draws(x=(6, 4), edges=((2, 12), 6), y=((6,), 5))
for batch in EDGES:
    batch["edges"][1, :6] = torch.arange(6)
BOXES = draws(x=(4, 6), boxes=(4, 4))
for batch in BOXES:
    low, high = batch["boxes"].sigmoid().chunk(2, 1)
    batch["boxes"] = torch.cat([low - 0.5, high + 0.5], 1)


def translated(first: str, m: nn.Module, batch: Batch) -> Tensor:
    said = m(batch[first], batch["target"][:, :-1])
    return F.cross_entropy(
        said.flatten(0, 1), batch["target"][:, 1:].flatten(), ignore_index=0, label_smoothing=0.1
    )


def words_of(first: str, m: nn.Module, batch: Batch) -> Tensor:
    return m(batch[first], batch["target"][:, :-1]).mean((1, 2))


def student() -> nn.Module:
    made = layers(nn.BatchNorm1d(8), nn.ReLU())
    return Computed(
        lambda m, x: m.student(x), student=made, teacher=copy.deepcopy(made).requires_grad_(False),
        predict=nn.Linear(5, 5),
    )  # fmt: skip


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    data: list[Batch]
    loss: Callable[[Any, Batch], Tensor] = cross_entropy
    metric: Callable[[Any, Batch], Tensor] = summed
    plan: Callable[[TrainGraph], pg.Plan] = pg.Plan.full
    batch_norm: Any = "frozen"


encoded = lambda m, x: m.body(x)  # noqa: E731

CASES = {
    "Mamba: a recurrence that chooses": Case(SelectiveStateSpace, SEQUENCES, plan=half),
    "RWKV: time mixing by a running maximum": Case(WeightedKeyValue, SEQUENCES),
    "xLSTM: a memory of matrices": Case(GatedMatrixMemory, SEQUENCES, plan=half),
    "grouped queries, causal": Case(partial(GroupedQueries, "causal"), draws(x=(4, 5, 8), y=((4,), 5))),
    "grouped queries within a window": Case(
        partial(GroupedQueries, "window"), draws(x=(4, 5, 8), y=((4,), 5)), plan=half
    ),
    "grouped queries with a bias of distances": Case(
        partial(GroupedQueries, "distance"), draws(x=(4, 5, 8), y=((4,), 5))
    ),
    "grouped queries of which one sees nothing": Case(
        partial(GroupedQueries, "nothing for the first"), draws(x=(4, 5, 8), y=((4,), 5))
    ),
    "Whisper: spectrograms to words": Case(
        SpeechToText, draws(x=(4, 6, 10), target=((4, 5), 11)),
        partial(translated, "x"), partial(words_of, "x"),
    ),
    "nn.Transformer with its masks, tied": Case(
        Translator, WORDS, partial(translated, "source"), partial(words_of, "source")
    ),
    "GRU with additive attention, word by word": Case(
        AlignedTranslator, WORDS, partial(translated, "source"), partial(words_of, "source"), half
    ),
    "a conditional random field": Case(
        Tagger, draws(x=(4, 4, 6), y=((4, 4), 5)), lambda m, b: m.loss(b["x"], b["y"])
    ),
    "parametrized layers": Case(of_parametrized_layers, VECTORS),
    "weight norm and pruning by hooks": Case(of_older_hooks, VECTORS),
    "quantised with learnt steps": Case(
        lambda: Computed(
            learnt_step, body=nn.Linear(12, 8), step=nn.Parameter(torch.tensor(0.05)), head=nn.Linear(8, 5)
        ), VECTORS,
    ),
    "BitNet: three weights": Case(
        lambda: Computed(ternary, body=nn.Linear(12, 8, bias=False), head=nn.Linear(8, 5)), VECTORS
    ),
    "kernels made by another layer": Case(
        lambda: Computed(hyper, make=nn.Linear(2, 18), head=nn.Linear(72, 5)),
        draws(x=(4, 2, 6, 6), y=((4,), 5)), plan=half,
    ),
    "Kolmogorov-Arnold splines": Case(
        lambda: Computed(
            splines, grid=torch.linspace(-2, 2, 9), plain=nn.Parameter(torch.randn(5, 12) * 0.3),
            bent=nn.Parameter(torch.randn(5, 60) * 0.3),
        ), VECTORS,
    ),
    "a deep equilibrium": Case(
        lambda: Computed(fixed_point, again=nn.Linear(8, 8), enter=nn.Linear(12, 8), head=nn.Linear(8, 5)),
        VECTORS,
    ),
    "Switch: the best expert, and an even load": Case(
        lambda: Computed(
            routed, router=nn.Linear(12, 3, bias=False), head=nn.Linear(12, 5),
            experts=nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 12)) for _ in range(3)),
        ), VECTORS, lambda m, b: cross_entropy(m, b) + 0.01 * m.balance,
    ),
    "graph attention": Case(
        lambda: Computed(
            attended_neighbours, body=nn.Linear(4, 6, bias=False), ask=nn.Parameter(torch.randn(1, 2, 6)),
            head=nn.Linear(6, 5),
        ), EDGES,
        lambda m, b: F.cross_entropy(m(b["x"], b["edges"]), b["y"]),
        lambda m, b: m(b["x"], b["edges"]).sum(1),
    ),
    "a codebook, straight through": Case(
        lambda: Computed(
            lambda m, x: m.encode(x), encode=nn.Linear(12, 4), codes=nn.Parameter(torch.randn(6, 4)),
            decode=nn.Linear(4, 12),
        ), VECTORS, codes_loss,
    ),
    "a teacher with batch norms": Case(student, VIEWS, teacher_loss, batch_norm="batch"),
    "a queue of negatives": Case(
        lambda: Computed(encoded, body=nn.Linear(12, 4), queue=F.normalize(torch.randn(4, 9), dim=0)),
        VIEWS, queue_loss,
    ),
    "angular margins": Case(
        lambda: Computed(encoded, body=nn.Linear(12, 6), centres=nn.Parameter(torch.randn(5, 6))),
        VECTORS, margin_loss,
    ),
    "answers that are preferred": Case(
        with_reference, draws(w=((4, 5), 9), l=((4, 5), 9)), preference_loss,
        lambda m, b: likelihoods(m, b["w"]),
    ),
    "optimal transport": Case(lambda: nn.Linear(12, 3), VIEWS, transport_loss),
    "two views without correlation": Case(lambda: layers(nn.ReLU()), VIEWS, decorrelated_loss),
    "risks of survival": Case(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), draws(x=(6, 6), t=(6,)), risk_loss
    ),
    "a step of diffusion": Case(
        lambda: Computed(
            denoised, enter=nn.Linear(12, 8), modulate=nn.Linear(6, 16), leave=nn.Linear(8, 12),
            left=torch.cumprod(1 - torch.linspace(1e-3, 0.2, 10), 0),
        ), draws(x=(4, 12), noise=(4, 12), t=((4,), 10)), denoising_loss,
        lambda m, b: m(b["x"], b["t"]).sum(1), half,
    ),
    "boxes by intersection over union": Case(lambda: nn.Linear(6, 4), BOXES, box_loss),
}  # fmt: skip

# The fast suite takes these, each to one target; the others are slow tests.
QUICK = {
    "grouped queries of which one sees nothing",
    "quantised with learnt steps", "weight norm and pruning by hooks", "a queue of negatives",
    "boxes by intersection over union",
}  # fmt: skip
ON_TARGETS = [*in_turn(name for name in CASES if name in QUICK)] + [
    pytest.param(name, target, marks=pytest.mark.slow)
    for name in CASES
    if name not in QUICK
    for target in target_names()
]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "target"), ON_TARGETS)
def test_what_people_train_learns_as_in_pytorch(name: str, target: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    made = task(case.model(), case.data, case.loss, case.metric, batch_norm=case.batch_norm)
    assert_as_eager(made, target, plan=case.plan)


def test_masks_of_nn_transformer_need_no_hint_that_they_are_causal() -> None:
    """Its encoders and decoders look at the values of a mask, which a trace does not know."""
    case = CASES["nn.Transformer with its masks, tied"]
    graph = pg.build(task(case.model(), case.data, case.loss, case.metric))
    assert {"words.weight", "body.decoder.layers.1.self_attn.in_proj_weight"} <= {
        t.fqn for t in graph.tensors
    }
