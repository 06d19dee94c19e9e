"""Convolutional networks in the shape of those people deploy, a few channels wide.

Each keeps the structure of its original (depth, strides, kernels, where norms and residuals stand) and
none of its width. As in `models.py`, every parameter and running statistic is random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from models import BATCH_SIZE, BATCHES, CLASSES, task_of
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.task.batch import Batch
from pockui.demo.efficientnet import MBConv, SameConv2d


class ConvNorm(nn.Sequential):
    """A convolution that keeps the size at stride 1, its batch norm, and an activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, dilation: int = 1,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:  # fmt: skip
        padding = dilation * (kernel // 2)
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


class SqueezeExcite(nn.Module):
    """Scales channels by what the whole image holds (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    """Expand, depthwise, (squeeze and excite), project; a residual where the shape allows one."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, expansion: int = 2,
        act: Callable[[], nn.Module] = nn.ReLU6, excite: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = expansion * inputs
        layers: list[nn.Module] = [] if expansion == 1 else [ConvNorm(inputs, hidden, 1, act=act)]
        layers.append(ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act=act))
        if excite:
            layers.append(SqueezeExcite(hidden))
        layers.append(ConvNorm(hidden, outputs, 1, act=None))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class Classifier(nn.Module):
    """Features, their mean over space, a linear layer."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


# Expansion, channels, blocks, stride of the first (arXiv 1801.04381, table 2); and the same, narrow.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
NARROW = (
    (1, 2, 1, 1),
    (2, 3, 2, 2),
    (2, 3, 3, 2),
    (2, 4, 4, 2),
    (2, 4, 3, 1),
    (2, 5, 3, 2),
    (2, 6, 1, 1),
)


def mobilenet_v2(
    stages: Sequence[tuple[int, int, int, int]] = NARROW, stem: int = 4, head: int = 8
) -> nn.Module:
    """All 17 blocks with their strides (arXiv 1801.04381); that paper's with `(MOBILENET_V2, 32, 1280)`."""
    layers: list[nn.Module] = [ConvNorm(3, stem, 3, 2, act=nn.ReLU6)]
    inputs = stem
    for expansion, outputs, blocks, stride in stages:
        for i in range(blocks):
            layers.append(
                InvertedResidual(inputs, outputs, stride=stride if i == 0 else 1, expansion=expansion)
            )
            inputs = outputs
    layers.append(ConvNorm(inputs, head, 1, act=nn.ReLU6))
    return Classifier(nn.Sequential(*layers), head)


def mcunet() -> nn.Module:
    """Inverted residuals whose depthwise kernels are 3, 5 and 7 wide, as a search finds them
    (arXiv 2007.10319)."""
    blocks = [(4, 4, 7, 1), (4, 6, 3, 2), (6, 6, 5, 1), (6, 8, 7, 2), (8, 8, 3, 1)]
    layers: list[nn.Module] = [ConvNorm(3, 4, 3, 2, act=nn.ReLU6)]
    layers += [InvertedResidual(i, o, kernel=k, stride=s, expansion=3) for i, o, k, s in blocks]
    return Classifier(nn.Sequential(*layers), 8)


def mobilenet_v3() -> nn.Module:
    """Squeeze-and-excite and hardswish (arXiv 1905.02244)."""
    blocks = nn.Sequential(
        ConvNorm(3, 4, 3, 2, act=nn.Hardswish),
        InvertedResidual(4, 4, act=nn.ReLU, excite=True),
        InvertedResidual(4, 6, kernel=5, stride=2, act=nn.Hardswish, excite=True),
        InvertedResidual(6, 6, kernel=5, act=nn.Hardswish),
    )
    return Classifier(blocks, 6)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.branch = self.layers(inputs, width, stride, dilation)
        self.downsample = (
            ConvNorm(inputs, outputs, 1, stride, act=None) if stride > 1 or inputs != outputs else None
        )

    def layers(self, inputs: int, width: int, stride: int, dilation: int) -> nn.Module:
        return nn.Sequential(
            ConvNorm(inputs, width, 3, stride, dilation=dilation),
            ConvNorm(width, width, 3, dilation=dilation, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(BasicBlock):
    expansion = 2

    def layers(self, inputs: int, width: int, stride: int, dilation: int) -> nn.Module:
        return nn.Sequential(
            ConvNorm(inputs, width, 1),
            ConvNorm(width, width, 3, stride, dilation=dilation),
            ConvNorm(width, width * self.expansion, 1, act=None),
        )


def _resnet(block: type[BasicBlock], depths: tuple[int, ...], dilated: bool = False) -> nn.Module:
    """Four stages behind a 7×7 stem and max pooling; the last may dilate instead of striding."""
    layers: list[nn.Module] = [ConvNorm(3, 4, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 4
    for stage, (width, depth) in enumerate(zip((2, 3, 3, 4), depths)):
        last = dilated and stage == len(depths) - 1
        for i in range(depth):
            stride = 2 if i == 0 and stage and not last else 1
            layers.append(block(inputs, width, stride, 2 if last else 1))
            inputs = width * block.expansion
    return Classifier(nn.Sequential(*layers), inputs)


def resnet18() -> nn.Module:
    """arXiv 1512.03385."""
    return _resnet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> nn.Module:
    """Bottlenecks; the last stage dilates, as segmentation networks have it (arXiv 1706.05587)."""
    return _resnet(Bottleneck, (3, 4, 6, 3), dilated=True)


def efficientnet_lite0() -> nn.Module:
    """The demo's own blocks, with TensorFlow's uneven padding, one or two a stage."""
    # blocks, kernel, stride of the first, expansion, channels
    stages = (
        (1, 3, 1, 1, 2), (2, 3, 2, 2, 3), (2, 5, 2, 2, 3), (2, 3, 2, 2, 4), (1, 5, 1, 2, 4), (1, 3, 1, 2, 5)
    )  # fmt: skip
    layers: list[nn.Module] = [SameConv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU6()]
    inputs = 4
    for blocks, kernel, stride, expansion, outputs in stages:
        for i in range(blocks):
            layers.append(MBConv(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
            inputs = outputs
    return Classifier(nn.Sequential(*layers), inputs)


class ShuffleUnit(nn.Module):
    """Grouped 1×1 convolutions with a channel shuffle between them (arXiv 1707.01083)."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 2) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        branch = outputs - inputs if stride > 1 else outputs
        self.reduce = ConvNorm(inputs, 4, 1, groups=groups)
        self.depthwise = ConvNorm(4, 4, 3, stride, groups=4, act=None)
        self.expand = ConvNorm(4, branch, 1, groups=groups, act=None)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = self.reduce(x).reshape(n, self.groups, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)
        y = self.expand(self.depthwise(y))
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))


def shufflenet() -> nn.Module:
    """Grouped (also 3×3, strided), concatenated and shuffled channels."""
    layers = [
        ConvNorm(3, 4, 3), ShuffleUnit(4, 8, 2), ShuffleUnit(8, 8, 1),
        ConvNorm(8, 6, 3, 2, groups=2), nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3),
    ]  # fmt: skip
    return Classifier(nn.Sequential(*layers), 6)


class UNet(nn.Module):
    """Two levels: up by a transposed convolution that overlaps, by nearest and by bilinear resampling
    (arXiv 1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down1, self.down2 = ConvNorm(3, 4, 3), ConvNorm(4, 6, 3), ConvNorm(6, 6, 3)
        self.up2 = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1)
        self.leave2, self.leave1 = ConvNorm(10, 4, 3), ConvNorm(8, 4, 3)
        self.context = nn.Conv2d(6, 2, 1)
        self.pixels = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.enter(x)
        middle = self.down1(F.max_pool2d(top, 2))
        bottom = self.down2(F.max_pool2d(middle, 2))
        up = self.leave2(torch.cat([middle, self.up2(bottom)], 1))
        up = F.interpolate(up, scale_factor=2, mode="nearest")
        up = self.leave1(torch.cat([top, up], 1))
        context = F.interpolate(self.context(bottom), size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.pixels(torch.cat([up, context], 1))


class ConvNeXtBlock(nn.Module):
    """7×7 depthwise, channels-last LayerNorm, GELU, layer scale (arXiv 2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.project = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    layers = [
        nn.Conv2d(3, 4, 2, 2), ChannelsFirstNorm(4), ConvNeXtBlock(4),
        ChannelsFirstNorm(4), nn.Conv2d(4, 6, 2, 2), ConvNeXtBlock(6),
    ]  # fmt: skip
    return Classifier(nn.Sequential(*layers), 6)


def group_normed() -> nn.Module:
    """GroupNorm, InstanceNorm with and without an affine part, and average pooling between them."""
    layers = [
        nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.SiLU(),
        nn.Conv2d(6, 6, 3, 2, 1), nn.InstanceNorm2d(6, affine=True), nn.LeakyReLU(0.1),
        nn.AvgPool2d(3, 1, 1), nn.Conv2d(6, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ELU(),
        nn.Conv2d(4, 4, 1), nn.GroupNorm(1, 4),
    ]  # fmt: skip
    return Classifier(nn.Sequential(*layers), 4)


class AudioNet(nn.Module):
    """Raw audio: strided, dilated and depthwise 1-D convolutions with batch norm, max pooling, and a
    transposed one, as speech front ends and decoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 4, 9, 4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU())
        self.depthwise = nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=4)
        self.pointwise = nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.PReLU(6))
        self.pool = nn.MaxPool1d(2)
        self.up = nn.ConvTranspose1d(6, 4, 4, 2, 1)
        self.mix = nn.Sequential(nn.Conv1d(8, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.GELU())
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.stem(x)
        deep = self.pool(self.pointwise(F.pad(self.depthwise(wide), (0, 1))[..., :-1]))
        y = self.mix(torch.cat([wide, self.up(deep)], 1))
        return self.classifier(torch.cat([y.mean(2), F.adaptive_avg_pool1d(y, 1).flatten(1)], 1))


# ---------------------------------------------------------------- tasks


def batches_of(shape: tuple[int, ...], target: tuple[int, ...] = ()) -> list[Batch]:
    """Random inputs of `shape`, and a class for each sample (or for each position of `target`)."""
    g = torch.Generator().manual_seed(sum(shape))
    return [
        {
            "x": torch.randn(BATCH_SIZE, *shape, generator=g),
            "y": torch.randint(0, CLASSES, (BATCH_SIZE, *target), generator=g),
        }
        for _ in range(BATCHES)
    ]


def logits(net: nn.Module, batch: Batch) -> Tensor:
    return net(batch["x"])


def _task(net: Callable[[], nn.Module], shape: tuple[int, ...], **options: Any) -> Callable[[], pg.Task]:
    name = net.__name__.lower()
    return lambda: task_of(name, net(), batches_of(shape, **options), logits)


MODELS: dict[str, Callable[[], pg.Task]] = {
    "mobilenet_v2": _task(mobilenet_v2, (3, 16, 16)),
    "mcunet": _task(mcunet, (3, 16, 16)),
    "mobilenet_v3": _task(mobilenet_v3, (3, 8, 8)),
    "resnet18": _task(resnet18, (3, 16, 16)),
    "resnet50": _task(resnet50, (3, 16, 16)),
    "efficientnet_lite0": _task(efficientnet_lite0, (3, 32, 32)),
    "shufflenet": _task(shufflenet, (3, 8, 8)),
    "unet2": _task(UNet, (3, 8, 8), target=(8, 8)),
    "convnext": _task(convnext, (3, 8, 8)),
    "group_normed": _task(group_normed, (3, 8, 8)),
    "audionet": _task(AudioNet, (1, 64)),
}
