"""A tiny model zoo: each network has one trait that a training compiler can get wrong.

Every parameter and running statistic is random, so that no scale of one or bias of zero hides a
missing term. A zoo entry is a function that gives a `Task` of a few hundred weights; its batches all
differ. The metric is a log-likelihood, which moves with every weight (an accuracy would not).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pockgraph import Task
from pockgraph.task.batch import Batch

CLASSES = 4
BATCH_SIZE = 4
BATCHES = 3
IMAGE = (3, 8, 8)
TOKENS = 6
VOCABULARY = 13


# ---------------------------------------------------------------- convolutional networks


class ConvBNReLU6(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a residual connection where the shape allows one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvBNReLU6(inputs, hidden, 1)
        self.depthwise = ConvBNReLU6(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.project(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBNReLU6(3, 4, 3, stride=2)
        self.blocks = nn.Sequential(
            InvertedResidual(4, 4, 1), InvertedResidual(4, 6, 2), InvertedResidual(6, 6, 1)
        )
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a strided shortcut; the second is grouped."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(6, 8))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(self.layer1(x)).flatten(1))


class UNet(nn.Module):
    """One level down and up, joined by a concatenation; a class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.leave = nn.Conv2d(8, 4, 3, padding=1)
        self.pixels = nn.Conv2d(4, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.silu(self.enter(x))
        deep = F.hardswish(self.down(F.avg_pool2d(wide, 2)))
        return self.pixels(F.relu(self.leave(torch.cat([wide, self.up(deep)], 1))))


# ---------------------------------------------------------------- everything else


class MLP(nn.Module):
    def __init__(self, inputs: int = 12, hidden: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class EncoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.zeros(TOKENS, width))
        self.blocks = nn.ModuleList([EncoderBlock(width), EncoderBlock(width)])
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.norm(x)[:, 0])


class BertClassifier(nn.Module):
    """A HuggingFace encoder from a config, no download."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import BertConfig, BertModel

        super().__init__()
        self.encoder = BertModel(
            BertConfig(
                vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=16, max_position_embeddings=TOKENS,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        share = mask[..., None].to(hidden.dtype)
        return self.classifier((hidden * share).sum(1) / share.sum(1))


class TiedLanguageModel(nn.Module):
    """Predicts each token's successor; the output projection is the embedding itself."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.hidden = nn.Linear(width, width)
        self.decoder = nn.Linear(width, VOCABULARY, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.hidden(self.embedding(ids))))


class Twice(nn.Module):
    """One linear layer applied twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.shared, self.leave = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.enter(x))
        return self.leave(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Unused(MLP):
    """Has a layer that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


class Branching(MLP):
    """Control flow that depends on values: it has no static graph."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:  # the branch
            x = -x
        return self.layers(x)


# ---------------------------------------------------------------- tasks

NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter and running statistic."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(torch.randn(p.shape, generator=g) * scale)
        for m in net.modules():
            if isinstance(m, NORMS) and m.weight is not None:
                m.weight.copy_(torch.rand(m.weight.shape, generator=g) + 0.5)
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.running_mean is not None:
                assert m.running_var is not None
                m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=g) * 0.3)
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=g) + 0.5)
    return net.eval()


def images(n: int = BATCHES, seed: int = 1) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    return [
        {
            "x": torch.randn(BATCH_SIZE, *IMAGE, generator=g),
            "y": torch.randint(0, CLASSES, (BATCH_SIZE,), generator=g),
        }
        for _ in range(n)
    ]


def vectors(n: int = BATCHES, seed: int = 1, width: int = 12) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    return [
        {
            "x": torch.randn(BATCH_SIZE, width, generator=g),
            "y": torch.randint(0, CLASSES, (BATCH_SIZE,), generator=g),
        }
        for _ in range(n)
    ]


def sentences(n: int = BATCHES, seed: int = 1) -> list[Batch]:
    """Token ids, a padding mask (the first half is always there) and a class each."""
    g = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(n):
        lengths = torch.randint(TOKENS // 2, TOKENS + 1, (BATCH_SIZE, 1), generator=g)
        batches.append(
            {
                "ids": torch.randint(0, VOCABULARY, (BATCH_SIZE, TOKENS), generator=g),
                "mask": (torch.arange(TOKENS) < lengths).long(),
                "y": torch.randint(0, CLASSES, (BATCH_SIZE,), generator=g),
            }
        )
    return batches


def task_of(
    name: str, net: nn.Module, batches: list[Batch], logits: Callable[[nn.Module, Batch], Tensor]
) -> Task:
    """A task with cross-entropy as the loss, and minus that of each sample as the metric."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(logits(net, batch), batch["y"])

    def metric(net: nn.Module, batch: Batch) -> Tensor:
        each = F.cross_entropy(logits(net, batch), batch["y"], reduction="none")
        return -each.reshape(BATCH_SIZE, -1).mean(1)

    return Task(name, randomised(net), loss, metric, batches, batches)


def _of_images(net: nn.Module, batch: Batch) -> Tensor:
    return net(batch["x"])


def mobilenet() -> Task:
    return task_of("mobilenet", MobileNet(), images(), _of_images)


def resnet() -> Task:
    return task_of("resnet", ResNet(), images(), _of_images)


def unet() -> Task:
    g = torch.Generator().manual_seed(2)
    batches = [{**b, "y": torch.randint(0, CLASSES, (BATCH_SIZE, *IMAGE[1:]), generator=g)} for b in images()]
    return task_of("unet", UNet(), batches, _of_images)


def mlp() -> Task:
    return task_of("mlp", MLP(), vectors(), _of_images)


def twice() -> Task:
    return task_of("twice", Twice(), vectors(), _of_images)


def unused() -> Task:
    return task_of("unused", Unused(), vectors(), _of_images)


def branching() -> Task:
    return task_of("branching", Branching(), vectors(), _of_images)


def transformer() -> Task:
    batches = [{"ids": b["ids"], "y": b["y"]} for b in sentences()]
    return task_of("transformer", Transformer(), batches, lambda net, b: net(b["ids"]))


def bert() -> Task:
    return task_of("bert", BertClassifier(), sentences(), lambda net, b: net(b["ids"], b["mask"]))


def tied() -> Task:
    def flat(net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["ids"]).flatten(0, 1)

    batches = [{"ids": b["ids"], "y": b["ids"].roll(-1, 1).flatten()} for b in sentences()]
    return task_of("tied", TiedLanguageModel(), batches, flat)


ZOO: dict[str, Callable[[], Task]] = {
    f.__name__: f for f in (mobilenet, resnet, unet, mlp, twice, unused, transformer, bert, tied)
}

FURTHER: dict[str, Callable[[], Task]] = {}


def register(models: dict[str, Callable[[], Task]]) -> None:
    """Let `zoo`, and with it the oracle, find further tasks; the contracts of `ZOO` do not run on them."""
    FURTHER.update(models)


@functools.cache
def zoo(name: str) -> Task:
    """A task of the zoo, made once a session. Nothing may change its model: `test_capture` checks."""
    return (ZOO | FURTHER)[name]()
