"""Networks with random weights and random batches: a step takes as long as it would with trained ones.

They have the shapes of the published ones, as transformers describes them. Weights are drawn so that
activations keep their size from layer to layer: with those that vanish, processors compute slowly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.task import Task
from pockgraph.task.batch import Batch

CLASSES = 10


def mobilenet_v2(batch_size: int = 8, px: int = 224) -> Task:
    """MobileNetV2 1.0 (arXiv 1801.04381) with 10 classes."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_labels=CLASSES, tf_padding=False)  # pyright: ignore
    return _images("mobilenet_v2", MobileNetV2ForImageClassification, config, batch_size, px)


def resnet50(batch_size: int = 4, px: int = 224) -> Task:
    """ResNet-50 (arXiv 1512.03385) with 10 classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(num_labels=CLASSES)  # pyright: ignore
    return _images("resnet50", ResNetForImageClassification, config, batch_size, px)


def smollm(batch_size: int = 1, length: int = 128) -> Task:
    """A Llama of the size of SmolLM2-135M: 30 layers, hidden size 576, 49,152 tokens, tied embeddings.

    The batch is `{"ids": int64 [N, length]}`; each token is predicted from those before it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
        use_cache=False, attn_implementation="eager",  # pyright: ignore
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = LlamaForCausalLM(config).eval()
        batch = {"ids": torch.randint(config.vocab_size, (batch_size, length))}
    return Task("smollm", net, next_token_loss, next_token_accuracy, [batch], [batch])


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each token but the first: scalar."""
    logits = model(batch["ids"]).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["ids"][:, 1:].flatten())


def next_token_accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """The share of tokens that are predicted: float32 `[N]`."""
    guess = model(batch["ids"]).logits[:, :-1].argmax(-1)
    return (guess == batch["ids"][:, 1:]).float().mean(1)


def _images(name: str, network: Any, config: Any, batch_size: int, px: int) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network(config).eval()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        batch = {
            "x": torch.randn(batch_size, 3, px, px),
            "y": torch.randint(CLASSES, (batch_size,)),
        }
    return Task(name, net, _loss, _accuracy, [batch], [batch])


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]).logits, batch["y"])


def _accuracy(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["x"]).logits.argmax(1) == batch["y"]).float()
