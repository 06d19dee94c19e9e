"""Networks of the kinds that people fine-tune, with the losses and loops that come with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from finetuned_models import (
    Autoencoder,
    Contrastive,
    Experts,
    GraphNetwork,
    InPlace,
    LoopOfModules,
    MaskedEncoder,
    Multitask,
    NeRF,
    Perceiver,
    Recommender,
    RelativeAttention,
    Residual1d,
    RotaryDecoder,
    SensorGRU,
    Siamese,
    TiedLanguageModel,
    WithKeywords,
    contrastive_loss,
    focal_loss,
    info_nce,
    label_smoothing_with_mixup,
    language_loss,
    multitask_loss,
    per_sample,
    siamese_loss,
    supervised,
    triplet_loss,
)
from finetuned_vision import (
    ConvNeXtBlock,
    DenseNet,
    Detector,
    Film,
    Inception,
    MobileViT,
    PatchTransformer,
    PixelShuffleNet,
    SEBlock,
    SpatialTransformer,
    SwinWindows,
    UNet,
)
from torch import Tensor, nn
from users import MOMENTUM, Batch, assert_as_eager, draws, half, in_turn, task

import pockgraph as pg
from pockgraph.optimizer import Optimizer
from pockgraph.targets import target_names
from pockgraph.train_graph import TrainGraph


def images(size: int = 8, channels: int = 3) -> list[Batch]:
    return draws(x=(4, channels, size, size), y=((4,), 5))


def tokens(length: int = 6, vocabulary: int = 11) -> list[Batch]:
    return draws(x=((4, length), vocabulary), y=((4, length), vocabulary))


@dataclass(frozen=True)
class Case:
    model: Callable[[], nn.Module]
    data: list[Batch]
    loss: Callable[[nn.Module, Any], Tensor] = supervised
    metric: Callable[[nn.Module, Any], Tensor] = per_sample
    optimizer: Optimizer = MOMENTUM
    plan: Callable[[TrainGraph], pg.Plan] = pg.Plan.full


CASES = {
    "weights tied between embedding and head": Case(
        TiedLanguageModel, tokens(), language_loss, optimizer=pg.AdamW(lr=1e-3, weight_decay=0.01)
    ),
    "forward with keywords and a dict as result": Case(
        WithKeywords, draws(x=(4, 6), mask=((4, 6), 2), y=((4,), 5)),
        lambda m, b: F.cross_entropy(
            m(inputs=b["x"], attention_mask=b["mask"], return_dict=True)["logits"], b["y"]
        ),
        lambda m, b: m(inputs=b["x"], attention_mask=b["mask"]).sum(1),
    ),
    "loops over ModuleList and ModuleDict": Case(LoopOfModules, draws(x=(4, 6), y=((4,), 5)), plan=half),
    "squeeze and excitation": Case(SEBlock, images(), plan=half),
    "ConvNeXt with layer scale": Case(
        ConvNeXtBlock, images(), optimizer=pg.AdamW(lr=1e-3, weight_decay=0.05)
    ),
    "MobileViT: unfold, attend, fold": Case(MobileViT, images()),
    "U-Net with skip connections, per pixel": Case(
        UNet, draws(x=(2, 3, 8, 8), y=((2, 8, 8), 4)), lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
    ),
    "sensor: 1-D convolutions, then a GRU": Case(SensorGRU, draws(x=(4, 3, 12), y=((4,), 5)), plan=half),
    "Siamese, two passes of one encoder": Case(
        Siamese, draws(a=(4, 6), b=(4, 6), same=((4,), 2)), siamese_loss, lambda m, b: m(b["a"]).sum(1)
    ),
    "contrastive, two views and a temperature": Case(
        Contrastive, draws(a=(4, 6), b=(4, 6)), info_nce, lambda m, b: m(b["a"]).sum(1)
    ),
    "supervised contrastive with masks": Case(
        Contrastive, draws(x=(4, 6), y=((4,), 2)), contrastive_loss, lambda m, b: m(b["x"]).sum(1)
    ),
    "triplets, mined in the batch": Case(
        Contrastive, draws(x=(6, 6), y=((6,), 2)), triplet_loss, lambda m, b: m(b["x"]).sum(1)
    ),
    "focal loss with class weights": Case(Residual1d, draws(x=(4, 3, 12), y=((4,), 5)), focal_loss),
    "label smoothing, mixed with the batch turned": Case(SEBlock, images(), label_smoothing_with_mixup),
    "clipped gradients of accumulated steps": Case(
        Residual1d, draws(x=(4, 3, 12), y=((4,), 5)),
        optimizer=pg.AdamW(lr=1e-3, weight_decay=0.01, clip_norm=0.5, accumulate=2),
    ),
    "groups of an optimizer, norms without decay": Case(
        PatchTransformer, images(),
        optimizer=pg.AdamW(
            lr=1e-3, weight_decay=0.1,
            groups=(pg.Group("*norm*", weight_decay=0.0), pg.Group("*.bias", lr_scale=2.0, weight_decay=0.0)),
        ),
    ),
    "mixed frozen parts": Case(partial(PatchTransformer, frozen=True), images()),
    "operations in place, on views": Case(InPlace, draws(x=(4, 6), y=((4,), 5)), plan=half),
    "attention by einsum, with relative positions": Case(RelativeAttention, draws(x=(4, 5, 8), y=((4,), 5))),
    "rotary decoder with RMS norm and gated units": Case(RotaryDecoder, tokens(), language_loss),
    "windows of Swin, shifted": Case(SwinWindows, images()),
    "several heads, losses weighed by learnt uncertainty": Case(
        Multitask, draws(x=(4, 6), y=((4,), 5), z=(4, 1)), multitask_loss, lambda m, b: m(b["x"])[0].sum(1)
    ),
    "variational autoencoder without sampling": Case(
        Autoencoder, draws(x=(4, 6)), lambda m, b: m.loss(b["x"]), lambda m, b: m(b["x"])[0].sum(1)
    ),
    "recommender: embeddings, bags and dot products": Case(
        Recommender, draws(user=((4,), 7), item=((4,), 9), words=((4, 3), 11), y=(4,)),
        lambda m, b: F.binary_cross_entropy_with_logits(m(b), b["y"].sigmoid()), lambda m, b: m(b),
    ),
    "a graph network by scatter": Case(
        GraphNetwork, draws(x=(6, 4), source=((12,), 6), target=((12,), 6), y=((6,), 5)),
        lambda m, b: F.cross_entropy(m(b["x"], b["source"], b["target"]), b["y"]),
        lambda m, b: m(b["x"], b["source"], b["target"]).sum(1),
    ),
    "mixture of experts, softly routed": Case(Experts, draws(x=(4, 6), y=((4,), 5)), plan=half),
    "features modulated by a condition": Case(
        Film, draws(x=(4, 3, 8, 8), c=(4, 4), y=((4,), 5)),
        lambda m, b: F.cross_entropy(m(b["x"], b["c"]), b["y"]), lambda m, b: m(b["x"], b["c"]).sum(1),
    ),
    "detector: boxes and classes at once": Case(
        Detector, draws(x=(2, 3, 8, 8), y=((2, 4), 3), boxes=(2, 4, 4)),
        lambda m, b: m.loss(b), lambda m, b: m(b["x"])[0].flatten(1).sum(1),
    ),
    "positions as sines of many frequencies": Case(
        NeRF, draws(x=(6, 3), y=(6, 3)), lambda m, b: F.mse_loss(m(b["x"]), b["y"]),
        optimizer=pg.Adam(lr=1e-3),
    ),
    "super-resolution by pixel shuffle": Case(
        PixelShuffleNet, draws(x=(2, 3, 4, 4), y=(2, 3, 8, 8)),
        lambda m, b: F.l1_loss(m(b["x"]), b["y"])
        + F.smooth_l1_loss(m(b["x"]).diff(dim=-1), b["y"].diff(dim=-1)),
    ),
    "latents that attend to inputs": Case(Perceiver, draws(x=(4, 9, 4), y=((4,), 5))),
    "dense connections": Case(DenseNet, images(), plan=half),
    "branches of several widths": Case(Inception, images(), plan=half),
    "an image turned by what the network says": Case(SpatialTransformer, images(6, 1)),
    "an encoder of padded sentences": Case(
        MaskedEncoder, draws(x=((4, 6), 11), lengths=((4,), 5), y=((4,), 5)),
        lambda m, b: F.cross_entropy(m(b["x"], b["lengths"] + 1), b["y"]),
        lambda m, b: m(b["x"], b["lengths"] + 1).sum(1),
    ),
}  # fmt: skip


# The fast suite takes these, each to one target; the others are slow tests.
QUICK = {
    "forward with keywords and a dict as result", "Siamese, two passes of one encoder",
    "contrastive, two views and a temperature", "operations in place, on views",
}  # fmt: skip
ON_TARGETS = [*in_turn(name for name in CASES if name in QUICK)] + [
    pytest.param(name, target, marks=pytest.mark.slow)
    for name in CASES
    if name not in QUICK
    for target in target_names()
]


@pytest.mark.parametrize(("name", "target"), ON_TARGETS)
def test_what_people_fine_tune_learns_as_in_pytorch(name: str, target: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    made = task(case.model(), case.data, case.loss, case.metric)
    assert_as_eager(made, target, case.optimizer, case.plan)
