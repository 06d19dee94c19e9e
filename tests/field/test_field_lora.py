"""LoRA: a user adapts linear layers of a network, trains on a device, and wants a plain network again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import ZOO
from torch import Tensor, nn
from torch.nn.utils import prune
from users import CLASSES, MOMENTUM, assert_as_eager, batches, mlp, task

import pockgraph as pg
from pockgraph.contribution.data import fresh_values


class Attention(nn.Module):
    """`[N, T, 8]` to logits `[N, CLASSES]`, queries, keys and values as most libraries name them."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            F.scaled_dot_product_attention(self.q_proj(x), self.k_proj(x), self.v_proj(x)).mean(1)
        )


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(12, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.relu(self.first(x))))


def in_the_middle(adapted: pg.Task) -> pg.Task:
    """Adapters that have learnt something: with a B of zeros, A has no gradient."""
    g = torch.Generator().manual_seed(1)
    for name, parameter in adapted.model.named_parameters():
        if "lora_b" in name:
            parameter.data = torch.randn(parameter.shape, generator=g) * 0.1
    return adapted


def images() -> list[dict[str, Tensor]]:
    return batches(4, 5, 8)


def test_queries_and_values_are_adapted_unless_said_otherwise(target: str) -> None:
    adapted = pg.lora(task(Attention(), images(), fresh=("head.*",)), rank=2)
    assert {t.fqn for t in pg.build(adapted).tensors} == {
        "q_proj.lora_a.weight", "q_proj.lora_b.weight", "v_proj.lora_a.weight", "v_proj.lora_b.weight",
        "head.weight", "head.bias",
    }  # fmt: skip
    assert_as_eager(in_the_middle(adapted), target)


def test_adapters_of_any_linear_layer_by_glob(target: str) -> None:
    adapted = pg.lora(task(mlp(), batches(4, 12)), ("0", "2"), rank=3, alpha=3.0)
    assert_as_eager(in_the_middle(adapted), target)


def test_some_adapters_are_trained_others_are_not(target: str) -> None:
    adapted = in_the_middle(pg.lora(task(Attention(), images(), fresh=("head.*",)), "*_proj"))
    assert_as_eager(
        adapted,
        target,
        plan=lambda g: pg.Plan.of(
            g, {"v_proj.lora_a.weight": 1, "v_proj.lora_b.weight": 0.5, "head.bias": 1}
        ),
    )


def test_a_layer_under_two_names_has_one_adapter(target: str) -> None:
    adapted = in_the_middle(pg.lora(task(Twice(), batches(4, 12)), "second", trained="head.*"))
    names = {name for name, _ in adapted.model.named_parameters() if "lora" in name}
    assert names == {"first.lora_a.weight", "first.lora_b.weight"}
    assert_as_eager(adapted, target)


def test_the_transformers_of_the_zoo(target: str) -> None:
    whole = ZOO["bert"]()
    names = [n for n, m in whole.model.named_modules() if type(m) is nn.Linear]
    assert_as_eager(in_the_middle(pg.lora(whole, names, rank=2)), target)


def test_the_network_begins_as_it_was_and_the_users_is_left_alone() -> None:
    net = Attention()
    before = copy.deepcopy(net.state_dict())
    adapted = pg.lora(task(net, images(), fresh=("head.*",)))
    assert torch.equal(adapted.model(images()[0]["x"]), net(images()[0]["x"]))
    assert all(torch.equal(value, before[k]) for k, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert type(net.q_proj) is nn.Linear


def test_it_takes_less_memory_than_training_the_layers() -> None:
    whole = task(nn.Sequential(nn.Linear(12, 256), nn.ReLU(), nn.Linear(256, 256)), batches(4, 12))
    adapted = pg.lora(whole, ("0", "2"), rank=2)
    optimizer = pg.AdamW()
    assert pg.build(adapted, optimizer).peak_bytes < 0.6 * pg.build(whole, optimizer).peak_bytes


def test_what_was_trained_is_a_plain_network_again(tmp_path: Path) -> None:
    net, data = Attention(), images()
    adapted = pg.lora(task(net, data, fresh=("head.*",)))
    graph = pg.build(adapted, MOMENTUM)
    artifact = pg.compile(graph, pg.Plan.full(graph), target="openvino", out=tmp_path / "out")
    trainer = artifact.trainer()
    for batch in data:
        trainer.step(batch, lr=0.1)
    trainer.save(tmp_path / "checkpoint")
    trained = copy.deepcopy(adapted.model)
    artifact.merge_into(trained, tmp_path / "checkpoint")
    plain = pg.merge_lora(trained)
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in net.named_parameters()}
    net.load_state_dict(plain.state_dict())
    got = adapted.metric(net, data[0]).detach().numpy()
    assert got == pytest.approx(trainer.evaluate([data[0]]).values, abs=1e-4)
    assert not torch.allclose(net(data[0]["x"]), Attention()(data[0]["x"]))


def test_seeds_draw_adapters_anew_and_never_the_zeros() -> None:
    adapted = pg.lora(task(Attention(), images(), fresh=("head.*",)))
    one, other = fresh_values(adapted, 0), fresh_values(adapted, 1)
    assert set(one) == {"q_proj.lora_a.weight", "v_proj.lora_a.weight", "head.weight", "head.bias"}
    assert not torch.equal(one["q_proj.lora_a.weight"], other["q_proj.lora_a.weight"])


REFUSED: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "a name that is none": (mlp, {"layers": "layer0"}, ("no linear layer", "layer0", "0, 2")),
    "no query and no value": (mlp, {}, ("no linear layer", "*query", "0, 2")),
    "a convolution": (lambda: nn.Sequential(nn.Conv1d(12, 5, 1)), {"layers": "0"}, ("There are none",)),
    "a parameter that is none": (mlp, {"layers": "0", "trained": "head.*"}, ("no parameter", "head.*")),
    "patterns that are none": (mlp, {"layers": 5}, ("'5'", "names or globs")),
    "an empty list of layers": (mlp, {"layers": []}, ("is empty", "at least one")),
    "a rank of nothing": (mlp, {"layers": "0", "rank": 0}, ("rank=0", "1 or more")),
    "a rank in part": (mlp, {"layers": "0", "rank": 2.5}, ("rank=2.5",)),
    "an alpha of nothing": (mlp, {"layers": "0", "alpha": 0}, ("alpha=0", "above 0")),
    "attention that reads its weights": (
        lambda: nn.MultiheadAttention(12, 2), {"layers": "out_proj"},
        ("out_proj", "MultiheadAttention", "Leave it out"),
    ),
    "an encoder layer with a fast path": (
        lambda: nn.TransformerEncoderLayer(12, 2, 24), {"layers": "linear1"},
        ("linear1", "TransformerEncoderLayer", "Leave it out"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_adapted_is_said(case: str) -> None:
    model, how, words = REFUSED[case]
    with pytest.raises(pg.PockError) as refused:
        pg.lora(task(model(), batches(4, 12)), **how)
    for word in words:
        assert word in str(refused.value)


def test_a_task_is_adapted_once() -> None:
    adapted = pg.lora(task(mlp(), batches(4, 12)), "0")
    with pytest.raises(pg.PockError, match="adapted already"):
        pg.lora(adapted, "2")


def test_nothing_to_merge_is_said() -> None:
    with pytest.raises(pg.PockError, match="nothing to merge"):
        pg.merge_lora(mlp())


@pytest.mark.parametrize("layer", ["0", "2"])
def test_a_model_whose_weights_hooks_assign_is_adapted(layer: str) -> None:
    """What weight norm and pruning assign has no copy of its own in PyTorch."""
    torch.manual_seed(0)
    net, x = mlp(), batches(4, 12)[0]["x"]
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(net[0])
    prune.l1_unstructured(net[2], "weight", 0.4)
    before = net(x)
    assert not any(net[i].weight.is_leaf for i in (0, 2))
    adapted = pg.lora(task(net, batches(4, 12)), layers=layer).model
    assert torch.equal(adapted(x), before)
    with torch.no_grad():
        adapted.get_submodule(layer).lora_b.weight.add_(0.1)  # pyright: ignore
    changed = adapted(x)
    assert not torch.allclose(changed, before)
    assert torch.allclose(pg.merge_lora(adapted)(x), changed, atol=1e-6)
